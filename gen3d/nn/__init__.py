"""Layers and networks, which know tensors only."""
