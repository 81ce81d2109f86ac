"""What tells early that a latent space will disappoint: codes out of use, seams at patches, the encoder's own noise."""

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d.core.volume import Prepared
from gen3d.latent.codebook import Codebook
from gen3d.spaces.latent import Latent

FEW_CODES = 0.05  # share of the codes in effect used, below which a codebook has collapsed
SEAMS = 1.5  # index of the error at the planes between patches, above which seams show


def use_of_codes(codebook: Codebook, codes: Tensor) -> float:
    """Return the codes' perplexity as a share of what it could be: the number of codes, or of latents if fewer."""
    return float(codebook.perplexity(codes)) / min(len(codebook.vectors), codes.numel())


def seam_index(volume: Tensor, step: int) -> Tensor:
    """Return the mean square of steps across the planes between patches over that of steps elsewhere, ().

    1 is a volume without seams; where there is no plane it is 1 too. Of a reconstruction's error it tells nothing of
    the anatomy.

    Args:
        volume: (B, C, X, Y, Z).
        step: Voxels of a patch along each axis.
    """
    ratios = []
    for axis in (2, 3, 4):
        steps = volume.float().diff(dim=axis).square().movedim(axis, 0).flatten(1).mean(1)
        between = torch.arange(1, len(steps) + 1, device=volume.device) % step == 0
        if len(steps) >= step:
            at, elsewhere = (torch.where(which, steps, 0).sum() / which.sum() for which in (between, ~between))
            ratios.append(at / elsewhere.clamp_min(1e-12))
    return torch.stack(ratios).mean() if ratios else torch.ones((), device=volume.device)


@torch.no_grad()
def examined(system: Any, cases: Iterable[Prepared]) -> dict[str, float]:
    """Encode and decode whole cases, and warn of what is off.

    Args:
        system: One of the autoencoders of gen3d.latent.autoencoder, on any device.
        cases: Prepared for it, best those that it was not trained on.

    Returns:
        ``psnr`` on the model's grey scale, mean over the cases; ``noise``, the share of the latents' variance that is
        noise; and of a Patch-Volume autoencoder ``codes``, the share of its codes in effect used, and ``seams``.
    """
    system.eval()
    device, network = next(system.parameters()).device, system.network
    low, high = system.config.intensity.to
    psnr, seams, codes, moments = [], [], [], []
    for case in cases:
        real = system.example(case)["voxels"].to(device).transpose(0, 1)
        mean, deviation = network.moments(real)
        made = system.finish(mean, {"voxels": real})
        psnr.append(10 * float(((high - low) ** 2 / (made - real).square().mean().clamp_min(1e-12)).log10()))
        moments.append((mean.cpu(), deviation.cpu()))
        if hasattr(network, "codebook"):
            codes.append(network.quantise(mean)[0].flatten().cpu())
            seams.append(float(seam_index(made - real, network.config.patch)))
    found = {"psnr": float(np.mean(psnr)), "noise": Latent(network).measure(moments)}
    if codes:
        found |= {"codes": use_of_codes(network.codebook.cpu(), torch.cat(codes)), "seams": float(np.mean(seams))}
        network.codebook.to(device)
        if found["codes"] < FEW_CODES:
            warnings.warn(
                f"{found['codes']:.1%} of the codes are in effect used: the codebook has collapsed", stacklevel=2
            )
        if found["seams"] > SEAMS:
            warnings.warn(
                f"steps of the error between patches are {found['seams']:.1f} times as large as elsewhere: seams show; "
                "train stage 'volume'",
                stacklevel=2,
            )
    return found
