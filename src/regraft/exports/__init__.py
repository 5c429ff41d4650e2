"""A folder that gives a bundle's answers without regraft and without torch."""
