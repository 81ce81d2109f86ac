"""What all families share: volumes, conditions, parameterizations, denoisers, systems, training, saved models."""
