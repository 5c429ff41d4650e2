"""The run folder: where it goes, what is written into it, what is read from it."""
