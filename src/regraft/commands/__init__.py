"""One file a verb: the main paths, each read from top to bottom."""
