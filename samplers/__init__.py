"""Samplers walk from noise to data by asking a denoise, (x, sigma) -> x0.

They know torch and nothing of gen3d.

Coordinates are variance exploding, x = x0 + sigma * noise. A file ``NAME.py`` with a function ``NAME`` is a sampler:
it is found here, and every tool takes its name. One that asks more than once a step says so by ``CALLS_A_STEP``.
"""

from functools import partial
from importlib import import_module
from inspect import signature
from pkgutil import iter_modules

from .ancestral import Variance, ancestral
from .ddim import ddim
from .diffusers import from_diffusers
from .dpmpp_2m import dpmpp_2m
from .euler import euler
from .grids import ddpm, exponential, flow, karras
from .guidance import guided
from .heun import heun
from .walk import Callback, Denoise, Noise, Sampler

_files = {found.name: import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)}
SAMPLERS: dict[str, Sampler] = {name: getattr(file, name) for name, file in _files.items() if hasattr(file, name)}
CALLS_A_STEP = {name: getattr(_files[name], "CALLS_A_STEP", 1) for name in SAMPLERS}  # but for the last step's one
SAMPLERS["ancestral_large"] = partial(ancestral, variance="large")
STOCHASTIC = frozenset(name for name, sampler in SAMPLERS.items() if "noise" in signature(sampler).parameters)

__all__ = [
    "CALLS_A_STEP",
    "SAMPLERS",
    "STOCHASTIC",
    "Callback",
    "Denoise",
    "Noise",
    "Sampler",
    "Variance",
    "ancestral",
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "euler",
    "exponential",
    "flow",
    "from_diffusers",
    "guided",
    "heun",
    "karras",
]
