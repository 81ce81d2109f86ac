"""Latent diffusion: 3D MedDiffusion and its ControlNet, DiffusionCT, and the autoencoders they stand on."""
