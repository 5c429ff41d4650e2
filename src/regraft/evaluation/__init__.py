"""How good a classifier is, each figure with its interval."""
