"""Where labelled images come from: one module a kind, in one dictionary."""
