"""Helpers that any other package may import: files, text, machine, random numbers, progress."""
