"""``python -m gen3d.cli``, for torchrun."""

from gen3d.cli import main

if __name__ == "__main__":
    main()
