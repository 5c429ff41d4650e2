"""Several processes that share the steps of one training."""
