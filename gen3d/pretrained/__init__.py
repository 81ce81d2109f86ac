"""Small models that ship with the package, a folder each; see gen3d.systems."""
