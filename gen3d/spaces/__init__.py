"""Changes of coordinates between voxels and what diffuses: pixels, wavelets, labels, latents."""
