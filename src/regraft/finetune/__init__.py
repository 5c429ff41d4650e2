"""Fine-tuning from the probe on, stage by stage; killed anywhere, repeated to the bit."""
