"""What training reads and makes of a stored case: a patch costs a patch, and the fast way equals the plain one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gen3d.core.draws import Draws, prepared
from gen3d.core.volume import Prepared, Scale
from gen3d.data import cache
from gen3d.data.augmentation import Augmentation
from gen3d.data.equalization import Measured, above_floor, floors, knots, ranked, tabulated
from gen3d.nn.unet import UNetConfig
from gen3d.spaces.wavelet import Wavelet
from gen3d.wavelet.completion import Completion, CompletionConfig
from gen3d.wavelet.cwdm import CWDM, CWDMConfig
from gen3d.wavelet.wdm import WDM, WDMConfig

NETWORK = UNetConfig(64, 32, width=8, multipliers=(1, 2), blocks=1, groups=4, present=4)
PATCH = (40, 48, 36)  # more voxels than a float16 has values, so that the table is used
HALVES = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.float16)
EVERYTHING = Augmentation(gain=0.2, shift=0.2, bend=0.05, ramp=0.1, noise=0.1, mix=0.2, flip=0.5)


def brain(seed: int = 0, shape: tuple[int, int, int] = (52, 60, 56)) -> Prepared:
    """Four contrasts, positive inside an ellipsoid and 0 outside, then on a scale of their own."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    inside = sum(a**2 for a in axes) < 0.7
    raw = (inside * rng.gamma(4.0, 100.0, (4, *shape))).astype(np.float32)
    scales = tuple(Scale(1 / 250, -1.5 - 0.1 * c, 0.0, 1200.0) for c in range(4))
    voxels = np.stack([scale.apply(v) for scale, v in zip(scales, raw, strict=True)])
    lesion = (rng.random(shape) < 0.01).astype(np.uint8)
    return Prepared(f"brain {seed}", "p", voxels, np.ones(4, dtype=bool), lesion, (1.0, 1.0, 1.0), scales)


@pytest.fixture
def stored(tmp_path: Path) -> Prepared:
    return cache.store(brain(), tmp_path)


def completion(augmentation: Augmentation = EVERYTHING, **changes: Any) -> Completion:
    return Completion(CompletionConfig(network=NETWORK, patch=PATCH, augmentation=augmentation, **changes))


class Counted(np.ndarray):
    """An array that counts the bytes asked of it."""

    asked = 0

    def __getitem__(self, where: Any) -> Any:
        part = super().__getitem__(where)
        Counted.asked += part.nbytes
        return part


@pytest.mark.parametrize("key", ["0/1/0", "0/2/0"])
def test_an_example_reads_its_patch_and_no_more(key: str, stored: Prepared) -> None:
    voxels = stored.voxels.view(Counted)
    Counted.asked = 0
    completion().example(replace(stored, voxels=voxels), key)
    assert Counted.asked == 4 * np.prod(PATCH) * 2
    assert Counted.asked < stored.voxels.nbytes / 2


def test_the_counter_sees_a_case_whose_quantiles_are_not_stored(stored: Prepared) -> None:
    """Guards the guard: measuring the quantiles walks through the whole volume."""
    fields = {name: value for name, value in vars(stored).items() if name != "quantiles"}
    Counted.asked = 0
    completion().example(Prepared(**{**fields, "voxels": stored.voxels.view(Counted)}), "0/1/0")
    assert Counted.asked > stored.voxels.nbytes


def test_stored_quantiles_are_those_of_the_stored_voxels(stored: Prepared) -> None:
    assert isinstance(stored, Measured)
    np.testing.assert_array_equal(stored.quantiles, knots(stored))
    assert stored.quantiles.shape == (4, 65)


@pytest.mark.parametrize("curve", [torch.tanh, lambda v: (v > 0.3).float(), lambda v: 2 * v + v * v.abs()])
def test_a_table_equals_the_curve_for_every_float16(curve: Callable[[Tensor], Tensor]) -> None:
    halves = HALVES.view(1, 1, 16, 64, 64)
    expected = curve(halves.float())
    torch.testing.assert_close(tabulated(curve, halves), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("floor", [-1.5, -0.25, -1e-3, -2e-4, 0.0, 0.37])
def test_the_brain_is_found_the_same_in_float16(floor: float) -> None:
    finite = HALVES[HALVES.isfinite()].view(1, 1, 8, 62, -1)
    level = np.float32(np.float16(floor)) + np.float32(1e-3)
    rounded = torch.tensor([[np.float32(np.float16(floor))]])
    got = above_floor(finite, rounded, torch.ones(1, 1, dtype=torch.bool))
    assert torch.equal(got, finite.float() > level)


@pytest.mark.parametrize("ties", [False, True])
def test_ranks_are_straight_lines_between_quantiles(ties: bool, stored: Prepared) -> None:
    """numpy's own interpolation, where quantiles coincide as well: at the bottom, inside, at the top."""
    quantiles = stored.quantiles.astype(np.float32)  # type: ignore[attr-defined]
    if ties:
        quantiles[:, :3], quantiles[:, 30:33], quantiles[:, -3:] = (quantiles[:, (2, 32, -3)].T)[..., None]
    voxels = np.concatenate([quantiles, quantiles + 0.01, quantiles - 0.01, 100 * quantiles], axis=1)
    low = floors(stored)
    got = ranked(*(torch.from_numpy(part)[None] for part in (voxels, low, quantiles)))[0].numpy()
    for v, floor, q, ranks in zip(voxels, low, quantiles, got, strict=True):
        expected = np.where(v > floor + 1e-3, np.interp(v, q, np.linspace(-1.7, 1.7, 65)), -2.5)
        np.testing.assert_allclose(ranks, expected, atol=2e-5)


@pytest.mark.parametrize("equalize", [True, False])
def test_float16_by_table_equals_float32_without(equalize: bool, stored: Prepared) -> None:
    system = completion(equalize=equalize, lesion=3.0)
    plain = replace(stored, voxels=stored.voxels.astype(np.float32))
    for i in range(4):
        keys = [f"0/{i}/0"]
        fast, slow = system.example(stored, keys[0]), system.example(plain, keys[0])
        assert (fast["voxels"].dtype, slow["voxels"].dtype) == (torch.float16, torch.float32)
        assert torch.equal(system.weight(fast), system.weight(slow))
        assert torch.equal(system.changed(fast, keys), system.changed(slow, keys))


def test_the_change_is_what_its_attributes_say(stored: Prepared) -> None:
    """The augmentation written out on the whole patch, as an equation."""
    system = completion(replace(EVERYTHING, noise=0.0, flip=1.0))
    example = system.example(stored, "0/4/0")
    gain, shift, bend, slopes, mixing = (
        example[name][0].double().numpy() for name in ("gain", "shift", "bend", "slopes", "mixing")
    )
    given, patch = example["present"][0].numpy(), example["voxels"][0].float().numpy()
    assert 0 < given.sum() < 4
    lines = np.meshgrid(*[np.linspace(-1, 1, n) for n in patch.shape[1:]], indexing="ij")
    whole = []
    for c, (v, floor, q) in enumerate(zip(patch, floors(stored), knots(stored), strict=True)):
        rank = np.where(v > floor + 1e-3, np.interp(v, q, np.linspace(-1.7, 1.7, 65)), -2.5)
        w = gain[c] * rank + shift[c]
        whole.append(w + bend[c] * w * np.abs(w) + sum(s * line for s, line in zip(slopes[c], lines, strict=True)))
    np.testing.assert_allclose((mixing**2).sum(1), 1, rtol=1e-6)
    assert (mixing[:, ~given] == np.eye(4)[:, ~given])[given].all()
    got = system.changed(example, ["0/4/0"])[0].numpy()
    expected = np.einsum("ij,jxyz->ixyz", mixing, np.stack(whole))
    np.testing.assert_allclose(got[given], expected[given], atol=2e-5)


@pytest.mark.parametrize("axes", ["RAS", "ASR"])
def test_flipped_examples_are_the_others_mirrored(axes: str, stored: Prepared) -> None:
    change = replace(EVERYTHING, noise=0.0)
    one, other = (completion(replace(change, flip=p), axes=axes, lesion=2.0) for p in (0.0, 1.0))
    straight, mirrored = one.example(stored, "0/3/0"), other.example(stored, "0/3/0")
    axis = 2 + min(axes.find("L") % 4, axes.find("R") % 4)
    pairs = [(straight[name], mirrored[name]) for name in ("voxels", "lesion")]
    pairs += [(one.weight(straight), other.weight(mirrored))]
    pairs += [(one.changed(straight, ["0"]), other.changed(mirrored, ["0"]))]
    for left, right in pairs:
        torch.testing.assert_close(left.flip(axis), right, rtol=0, atol=1e-6)
        assert not torch.equal(left, right)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_make_the_same_batches_in_the_same_order(workers: int, stored: Prepared) -> None:
    draws = Draws(completion(), [stored, brain(1)], [1.0, 2.0], lambda index: f"0/{index}/0")
    batches = [[0, 1], [2, 3], [4], [5, 6], [7, 8]]
    alone = list(prepared(draws, batches, 0, pin=False))
    assert [keys for _, keys in alone] == [[f"0/{i}/0" for i in batch] for batch in batches]
    for (example, keys), (expected, names) in zip(
        prepared(draws, iter(batches), workers, pin=False, ahead=1), alone, strict=True
    ):
        assert keys == names
        assert all(torch.equal(example[name], part) for name, part in expected.items())


def test_workers_run_ahead_as_far_as_asked_and_stop_when_left(stored: Prepared) -> None:
    begun: list[int] = []
    system = completion()
    draws = Draws(system, [stored], [1.0], lambda index: begun.append(index) or f"0/{index}/0")
    stream = prepared(draws, ([i] for i in range(1000)), 2, pin=False, ahead=3)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert 1 <= len(begun) <= 7
    assert sorted(begun) == list(range(len(begun)))


def test_noise_is_white_and_as_strong_as_drawn() -> None:
    change = {"noise": torch.tensor([[0.3, 0.0]])}
    grain = Augmentation(noise=1.0).spread(torch.zeros(1, 2, 64, 64, 64), change, ["0/1/0"])
    assert not grain[0, 1].any()
    assert not torch.equal(grain, Augmentation(noise=1.0).spread(torch.zeros(1, 2, 64, 64, 64), change, ["0/2/0"]))
    voxels = grain[0, 0]
    assert abs(voxels.mean()) < 0.003
    assert abs(voxels.std() - 0.3) < 0.003
    assert abs((voxels**4).mean() / voxels.var() ** 2 - 3) < 0.05
    for axis in range(3):
        near = (voxels * voxels.roll(1, axis)).mean() / voxels.var()
        assert abs(near) < 0.01, axis


GOLDEN = {  # hidden contrasts; sums of the given contrasts, of their squares, and of the clean voxels
    "0/1/0": ([0, 0, 0, 1], [-245129.39274832513, 1078947.7644204658, -207531.84319502115]),
    "0/4/0": ([1, 1, 0, 0], [-83965.87251550311, 276507.13473754167, -173984.1394469142]),
    "7/30/1": ([1, 0, 0, 0], [-250030.46000061353, 936830.1236565774, -211218.70587950945]),
}


@pytest.mark.parametrize("key", list(GOLDEN))
def test_what_a_key_draws_stays(key: str) -> None:
    """Recorded when every step of the augmentation was a pass of its own over the patch."""
    system = completion(replace(EVERYTHING, noise=0.0))
    example = system.example(brain(), key)
    known = system.changed(example, [key]) * example["present"][..., None, None, None]
    got = [*map(float, (known.double().sum(), known.double().square().sum(), example["voxels"].double().sum()))]
    assert example["target"][0].int().tolist() == GOLDEN[key][0]
    assert got == pytest.approx(GOLDEN[key][1], rel=1e-6)


def test_whole_volume_systems_train_on_stored_voxels_as_on_float32(tmp_path: Path) -> None:
    case = brain(shape=(16, 16, 16))
    tiny: dict[str, Any] = {"width": 8, "multipliers": (1, 2), "groups": 4}
    cwdm = CWDM(CWDMConfig(size=(16, 16, 16), network=UNetConfig(32, 8, skips="concat", **tiny)))
    one = replace(case, voxels=case.voxels[:1], present=case.present[:1], scales=case.scales[:1])
    wdm = WDM(WDMConfig(canvas=(16, 16, 16), pool=1, network=UNetConfig(8, 8, **tiny)))
    for system, study in ((cwdm, case), (wdm, one)):
        half = cache.store(study, tmp_path / system.name)
        full = replace(half, voxels=half.voxels.astype(np.float32))
        stored, plain = (system.example(c, "0/0/0")["voxels"] for c in (half, full))
        assert (stored.dtype, plain.dtype) == (torch.float16, torch.float32)
        assert system.example(half)["voxels"].dtype == torch.float32
        assert torch.equal(Wavelet().encode(stored), Wavelet().encode(plain))
        terms = [system.objectives()[0].loss(system.example(c, "0/0/0"), ["0/0/0"])["mse"] for c in (half, full)]
        assert terms[0] == terms[1]
