"""Heads: the map from features to class logits, and how each is fitted."""
