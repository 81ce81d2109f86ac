"""What a person runs: each command of ``gen3d`` as a function."""
