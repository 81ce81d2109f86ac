"""gen3d: generate 3D medical images with diffusion models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gen3d.systems import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from gen3d.systems import load

        return load
    raise AttributeError(f"module 'gen3d' has no attribute '{name}'")
