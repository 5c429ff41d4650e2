"""How good a classifier is: every measure has its interval."""
