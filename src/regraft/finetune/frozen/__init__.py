"""Frozen stages that run once for each view instead of in every epoch."""
