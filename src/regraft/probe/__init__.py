"""The probe: a head fitted on the features of a frozen network, and its baselines."""
