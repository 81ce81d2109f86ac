"""Models and data of other libraries: official checkpoints in, diffusers, MONAI and TorchIO in and out."""
