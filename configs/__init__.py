"""One experiment per YAML file; a package only so that an installed gen3d finds them."""
