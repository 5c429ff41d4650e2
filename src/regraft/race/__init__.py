"""Networks against each other: more images for those that are not worse, then sums of the best."""
