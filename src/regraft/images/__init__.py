"""Images from bytes to pixels to tensors, without any network."""
