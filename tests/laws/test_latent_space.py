"""The latent space: it decodes what it encodes, measures by the law of total variance, and saves no network."""

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as nnf
from safetensors.torch import load_file
from torch import Tensor, nn

from gen3d.core.checkpoint import load_component, save_component
from gen3d.core.error import UserError
from gen3d.latent.diagnostics import seam_index
from gen3d.latent.halves import PatchVolumeConfig
from gen3d.latent.kl import KL, KLConfig, load_old_weights, old_name
from gen3d.latent.patch_volume import PatchVolume
from gen3d.spaces.latent import Latent


class Blocks(nn.Module):
    """Means of 2-cubed blocks and a second channel of their differences along X; decoded exactly where both suffice."""

    stride, latent_channels = 2, 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def moments(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        extra = [-n % 2 for n in volume.shape[2:]]
        volume = nnf.pad(volume, (0, extra[2], 0, extra[1], 0, extra[0]), mode="replicate")
        mean = nnf.avg_pool3d(volume, 2)
        ends = nnf.avg_pool3d(volume, (1, 2, 2))
        return torch.cat([mean, (ends[:, :, ::2] - ends[:, :, 1::2]) / 2], 1), torch.full_like(mean, 0.5).repeat(
            1, 2, 1, 1, 1
        )

    def voxels(self, latent: Tensor) -> Tensor:
        mean, half = latent.split(1, 1)
        lines = torch.stack([mean + half, mean - half], 3).flatten(2, 3)
        return lines.repeat_interleave(2, 3).repeat_interleave(2, 4)


def stripes(*shape: int) -> Tensor:
    """Volumes that change along X only."""
    return torch.randn(*shape[:3], 1, 1, generator=torch.Generator().manual_seed(0)).expand(*shape).contiguous()


def test_decoding_undoes_encoding_whatever_shift_scale_and_size() -> None:
    space = Latent(Blocks())
    space.shift.copy_(torch.tensor([3.0, -2.0]))
    space.scale.copy_(torch.tensor([5.0, 0.1]))
    for size in ((8, 4, 6), (7, 5, 3)):
        voxels = stripes(2, 3, *size)
        coords = space.encode(voxels)
        assert coords.shape == (2, space.channels(3), *space.shape(size))
        assert torch.allclose(space.decode(coords, size), voxels, atol=1e-5)
        assert torch.allclose(coords[:, 2:4], space.encode(voxels[:, 1:2]))


def test_statistics_follow_the_law_of_total_variance() -> None:
    draw = torch.Generator().manual_seed(1)
    scales = torch.tensor([2.0, 0.5]).view(1, 2, 1, 1, 1)
    moments = [(3 + scales * torch.randn(1, 2, 6, 5, n, generator=draw), 0.1 * scales) for n in (4, 9, 2)]
    moments = [(mean, deviation.expand_as(mean)) for mean, deviation in moments]
    space = Latent(Blocks())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        share = space.measure(moments)
    means = torch.cat([mean.transpose(0, 1).flatten(1) for mean, _ in moments], 1)
    variance = means.var(1, correction=0) + 0.01 * scales.flatten() ** 2
    assert torch.allclose(space.shift, means.mean(1), atol=1e-6)
    assert torch.allclose(space.scale, variance.sqrt(), rtol=1e-5)
    assert share == pytest.approx(float((0.01 * scales.flatten() ** 2 / variance).mean()), rel=1e-4)
    samples = torch.cat(
        [space.normalise(m + d * torch.randn(m.shape, generator=draw)).flatten(2) for m, d in moments], 2
    )
    assert samples.std(2).sub(1).abs().max() < 0.1


def test_noise_that_nothing_can_learn_is_warned_of() -> None:
    """The share of MAISI's released latents: 27.5 %."""
    mean = torch.randn(1, 2, 20, 20, 20, generator=torch.Generator().manual_seed(2))
    deviation = torch.full_like(mean, (0.275 / 0.725) ** 0.5)
    with pytest.warns(UserWarning, match=r"27\.\d%"):
        share = Latent(Blocks()).measure([(mean, deviation)])
    assert share == pytest.approx(0.275, abs=0.005)
    with pytest.raises(ValueError, match="no latents"):
        Latent(Blocks()).measure([])


def test_saved_are_shift_and_scale_alone(tmp_path: Path) -> None:
    space = Latent(Blocks())
    space.measure([(torch.randn(1, 2, 3, 3, 3), torch.zeros(1, 2, 3, 3, 3))])
    save_component(space, {}, tmp_path / "space", None)
    (file,) = (tmp_path / "space").glob("*.safetensors")
    assert load_file(file).keys() == {"shift", "scale"}
    other = Latent(Blocks())
    load_component(other, tmp_path / "space")
    assert torch.equal(other.scale, space.scale)
    assert list(space.parameters()) == []


def test_both_autoencoders_fit_in() -> None:
    torch.manual_seed(0)
    patches = PatchVolumeConfig(
        width=8, stride=4, latent_channels=3, codes=16, patch=8, groups=4, heads=1, head_width=8
    )
    kl = KLConfig(channels=(8, 8, 8), latent_channels=3, blocks=1, groups=4)
    for network in (PatchVolume(patches), KL(kl)):
        space = Latent(network.eval())
        voxels = torch.randn(1, 2, 9, 8, 12)
        with torch.no_grad():
            coords = space.encode(voxels)
            assert coords.shape == (1, 6, *space.shape((9, 8, 12)))
            assert space.decode(coords, (9, 8, 12)).shape == voxels.shape


@pytest.mark.parametrize("attends", [False, True])
def test_checkpoints_of_monai_generative_are_read(attends: bool) -> None:
    """Attention and enlarging had other names; what does not fit is told, nothing is left as it was drawn."""
    if attends:
        pytest.importorskip("einops", reason="MONAI's attention needs einops")
    torch.manual_seed(0)
    config = KLConfig(channels=(8, 8), latent_channels=2, blocks=1, groups=4, middle=(attends, attends))
    one, other = KL(config), KL(config)
    state = one.network.state_dict()
    old = {old_name(name): tensor.clone() for name, tensor in state.items()}
    assert old.keys() != state.keys()
    load_old_weights(other, old)
    for name, tensor in other.network.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    load_old_weights(other, dict(state))
    lacking = {name: tensor for name, tensor in old.items() if "decoder.blocks.0" not in name}
    with pytest.raises(UserError, match=r"lacks decoder\.blocks\.0"):
        load_old_weights(other, lacking)
    with pytest.raises(UserError, match="unused: more"):
        load_old_weights(other, {**old, "more": torch.zeros(1)})
    with pytest.raises(UserError, match="does not fit"):
        load_old_weights(KL(replace(config, channels=(8, 16))), old)


def test_seams_are_seen_where_they_are() -> None:
    smooth = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(3))
    assert float(seam_index(smooth, 8)) == pytest.approx(1, abs=0.2)
    stepped = smooth + 3 * (torch.arange(16) >= 8).float().view(1, 1, -1, 1, 1)
    assert float(seam_index(stepped, 8)) > 2
    assert float(seam_index(stepped, 16)) == 1
