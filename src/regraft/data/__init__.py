"""Labelled images: where they come from, their labels and hashes, and which cannot be used."""
