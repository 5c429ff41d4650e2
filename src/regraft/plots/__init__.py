"""Numbers in, PNG files out."""
