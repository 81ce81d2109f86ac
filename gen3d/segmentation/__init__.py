"""Masks by diffusion: cDAL, CIMD, and the plain and probabilistic U-Nets they are compared with."""
