"""Scans in and out of files: formats, layouts of data sets, preparation, the cache, splits, simulated cases."""
