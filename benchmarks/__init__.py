"""Every figure in the README comes from a command here, or from a results file it wrote."""
