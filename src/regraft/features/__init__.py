"""Feature blocks: taps, fast extraction and the store."""
