"""Diffusion of wavelet coefficients: WDM, cWDM, and completion, pairs and reconstruction of ours."""
