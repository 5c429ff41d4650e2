"""Numbers in, decisions out: unknown images, sets of classes, abstentions and costs."""
