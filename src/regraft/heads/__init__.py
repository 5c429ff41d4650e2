"""Heads: from features to class logits."""
