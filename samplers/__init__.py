"""Samplers walk from noise to data by asking a denoise, (x, sigma) -> x0. They know torch and nothing of gen3d.

Coordinates are variance exploding, x = x0 + sigma * noise. A new sampler is one function in a file of
its own and one line here.
"""

from functools import partial

from .ancestral import Variance, ancestral
from .ddim import ddim
from .diffusers import from_diffusers
from .dpmpp_2m import dpmpp_2m
from .euler import euler
from .grids import ddpm, exponential, flow, karras
from .guidance import guided
from .heun import heun
from .walk import Callback, Denoise, Noise, Sampler

SAMPLERS: dict[str, Sampler] = {
    "ancestral": ancestral,
    "ancestral_large": partial(ancestral, variance="large"),
    "ddim": ddim,
    "dpmpp_2m": dpmpp_2m,
    "euler": euler,
    "heun": heun,
}
STOCHASTIC = frozenset({"ancestral", "ancestral_large", "ddim"})  # these take noise=

__all__ = [
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
