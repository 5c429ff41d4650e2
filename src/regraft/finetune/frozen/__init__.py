"""Frozen stages that run once for each view of an image instead of in every epoch."""
