"""Checks of the data that need features: near duplicates."""
