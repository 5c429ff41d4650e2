"""The bundle: what can be deployed, and the predictor that reads it."""
