"""Bytes to pixels to tensors; knows no network."""
