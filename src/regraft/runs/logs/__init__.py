"""Records of a training in TensorBoard and MLflow."""
