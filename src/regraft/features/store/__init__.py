"""The store of features: rows with a checksum, in SQLite."""
