"""Checks of data that need features: near duplicates."""
