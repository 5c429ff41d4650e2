"""The probe: a head fitted on the features of a frozen network, and what it must beat."""
