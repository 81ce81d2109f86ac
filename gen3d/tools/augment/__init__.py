"""``gen3d augment``: a labelled synthetic data set, one file for each part of making it."""
