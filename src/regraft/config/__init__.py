"""The settings: one frozen declaration, and the files and recipes that fill it."""
