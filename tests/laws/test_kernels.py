"""Simulated CT kernels: their figures, what a conversion keeps, and noise that follows the kernel."""

import math

import pytest
import torch

from gen3d.core.error import UsageError
from gen3d.latent.kernel_spectrum import content, recognised
from gen3d.latent.kernels import (
    KERNELS,
    Kernel,
    blurred,
    convert,
    fitted_blur,
    frequencies,
    kernel,
    nearest_kernel,
    ratio,
    reconstructions,
    rms,
    spectra,
)

MM = (0.7, 0.7)


def scene(n: int = 96) -> torch.Tensor:
    """Air, tissue, a lung and bone, (n, n, 1)."""
    x, y = torch.meshgrid(*[torch.linspace(-1, 1, n)] * 2, indexing="ij")
    hu = torch.full((n, n), -1000.0)
    hu[x**2 + y**2 < 0.7] = 40.0
    hu[(x + 0.3) ** 2 + y**2 < 0.1] = -850.0
    hu[(x - 0.4) ** 2 + y**2 < 0.02] = 900.0
    return hu[..., None]


@pytest.mark.parametrize("name", KERNELS)
def test_figures(name: str) -> None:
    each = KERNELS[name]
    plain = Kernel(name, each.mtf50, each.mtf10)
    told = plain.mtf(torch.tensor([0.0, each.mtf50 / 10, each.mtf10 / 10]))
    torch.testing.assert_close(told, torch.tensor([1.0, 0.5, 0.1]))
    assert each.mtf(torch.tensor(0.0)) == 1


def test_published_figures_and_order() -> None:
    assert (KERNELS["B30"].mtf50, KERNELS["B30"].mtf10) == (3.5, 5.9)
    d45 = torch.tensor([0.56, 0.94])
    shape = KERNELS["B30"].scaled(5.6 / 3.5).mtf(d45)
    torch.testing.assert_close(shape, torch.tensor([0.5, 0.1]), atol=0.01, rtol=0)
    sharpness = [each.mtf50 for each in KERNELS.values()]
    assert sharpness == sorted(sharpness)


def test_names() -> None:
    assert kernel("B30f") == kernel("b30s") == kernel(" B30 ") == KERNELS["B30"]
    with pytest.raises(UsageError, match=r"kernel 'B31': unknown \(did you mean 'B30'"):
        kernel("B31")
    with pytest.raises(UsageError, match="known: B10"):
        kernel("Br40d")


@pytest.mark.parametrize("name", KERNELS)
def test_the_gain_is_the_ratio_where_the_target_is_softer_and_bounded_where_it_is_sharper(name: str) -> None:
    f = torch.linspace(0, 3, 200)
    a, b = kernel(name).mtf(f), kernel("B30").mtf(f)
    gain = ratio(kernel(name), kernel("B30"), f)
    assert gain[0] == 1
    assert gain.max() < 6
    softer = (b <= a) & (a > 1e-6)
    torch.testing.assert_close(gain[softer] * a[softer], b[softer])
    assert torch.equal(ratio(kernel(name), kernel(name), f[:80]), torch.ones(80))


@pytest.mark.parametrize(("mm", "noise"), [(0.55, 5.0), (0.9, 25.0)])
@pytest.mark.parametrize("name", ["B20", "B45", "B60"])
def test_the_noise_tells_the_kernel(name: str, mm: float, noise: float) -> None:
    """Whatever is shown: the same kernel from soft tissue of any texture and dose, with air, a lung and bone beside."""
    rng = torch.Generator().manual_seed(0)
    hu = scene(192) + blurred(60 * torch.randn(192, 192, 1, generator=rng), (mm, mm), 4.0)
    (image,) = reconstructions(hu, (mm, mm), [kernel(name)], noise_hu=noise, key="k")
    found = recognised(image.round(), (mm, mm))
    assert abs(math.log(found.mtf50 / kernel(name).mtf50)) < 0.2
    assert found.name == f"like {nearest_kernel(math.log(found.mtf50 / 3.5)).name}"


def test_without_noise_nothing_is_recognised() -> None:
    for hu in (torch.full((96, 96, 1), 40.0), torch.full((20, 96, 1), 40.0), torch.full((96, 96, 2), -2048.0)):
        assert recognised(hu, MM) == kernel("B30")


def test_a_kernel_to_itself_changes_little_and_to_a_softer_one_only_detail() -> None:
    hu = scene()
    same = convert(hu, MM, kernel("B50"), kernel("B50"))
    (soft,) = reconstructions(hu, MM, [kernel("B50")], noise_hu=0, key="k")
    assert (convert(soft, MM, kernel("B50"), kernel("B50")) - soft).abs().max() < 12
    assert same.shape == hu.shape
    flat = torch.full((40, 30, 2), 57.0)
    torch.testing.assert_close(convert(flat, MM, kernel("B70"), kernel("B30")), flat, atol=1e-3, rtol=0)
    back = convert(soft, MM, kernel("B50"), kernel("B30"))
    assert float((back - soft).mean()) == pytest.approx(0, abs=0.5)


def test_the_ratio_leads_from_one_simulation_to_the_other() -> None:
    sharp, soft = reconstructions(scene(), MM, [kernel("B70"), kernel("B30")], noise_hu=4, key="k")
    inside = (slice(16, -16), slice(16, -16), slice(None))
    made = convert(sharp, MM, kernel("B70"), kernel("B30"))
    before, after = ((v - soft)[inside].abs().mean() for v in (sharp, made))
    assert after < before / 5


def test_spacing_decides_what_a_kernel_does() -> None:
    """A kernel blurs by so many millimetres: by more pixels where these are small."""
    hu = scene()
    fine, coarse = (convert(hu, (mm, mm), kernel("B70"), kernel("B30")) - hu for mm in (0.3, 0.9))
    assert fine.abs().mean() > 2 * coarse.abs().mean()


def test_air_and_bone_stay_in_the_range_of_ct() -> None:
    hu = scene() * 4
    for made in (
        convert(hu, MM, kernel("B30"), kernel("B70")),
        *reconstructions(hu, MM, [kernel("B80")], noise_hu=80, key="k"),
    ):
        assert made.min() >= -1024
        assert made.max() <= 3071


def test_noise_follows_the_kernel_and_is_that_of_the_same_raw_data() -> None:
    flat = torch.zeros(128, 128, 1)
    soft, sharp = reconstructions(flat, MM, [kernel("B30"), kernel("B70")], noise_hu=10, key="a")
    assert float(soft.std()) == pytest.approx(10, rel=0.1)
    assert sharp.std() > 2.5 * soft.std()
    f = frequencies((128, 128), MM)
    power = torch.fft.rfft2(soft[..., 0]).abs().square()
    rings = [power[(f > low) & (f < low + 0.05)].mean() for low in (0.1, 0.3, 0.6)]
    wanted = [kernel("B30").noise_power(torch.tensor(low + 0.025)) for low in (0.1, 0.3, 0.6)]
    assert float(rings[1] / rings[0]) == pytest.approx(float(wanted[1] / wanted[0]), rel=0.25)
    assert rings[2] < 0.25 * rings[0]
    (middle,) = reconstructions(flat, MM, [kernel("B45")], noise_hu=10, key="a")
    for name, image, least in (("B45", middle, 0.95), ("B70", sharp, 0.8)):  # of B70's noise much has folded back
        made = convert(image, MM, kernel(name), kernel("B30"))[8:-8, 8:-8]
        assert torch.corrcoef(torch.stack([made.flatten(), soft[8:-8, 8:-8].flatten()]))[0, 1] > least
    other, _ = reconstructions(flat, MM, [kernel("B30"), kernel("B70")], noise_hu=10, key="b")
    assert torch.corrcoef(torch.stack([other.flatten(), soft.flatten()]))[0, 1].abs() < 0.1
    again, _ = reconstructions(flat, MM, [kernel("B30"), kernel("B70")], noise_hu=10, key="a")
    assert torch.equal(again, soft)


def test_streaks_give_noise_a_direction() -> None:
    flat = torch.zeros(128, 128, 1)
    (made,) = reconstructions(flat, MM, [kernel("B40")], noise_hu=10, key="a", streaks=(0.9, 0.0))
    assert made.diff(dim=0).square().mean() > 1.5 * made.diff(dim=1).square().mean()


@pytest.mark.parametrize(("name", "mm"), [("B70", 0.7), ("B60", 0.9)])  # what the simulation's half pixels can show
def test_where_noise_has_folded_back_the_error_is_the_least_that_theory_allows(name: str, mm: float) -> None:
    each = (mm, mm)
    sharp, soft = reconstructions(torch.zeros(512, 512, 1), each, [kernel(name), kernel("B30")], noise_hu=15, key="a")
    found = content(sharp, each, kernel(name))
    plain, best = ((convert(sharp, each, kernel(name), kernel("B30"), *c) - soft).square().mean() for c in ((), found))
    size, (a, b) = (512, 512), (kernel(name), kernel("B30"))
    (source, _), (both, _), (target, _) = (spectra(*pair, size, each) for pair in ((a, a), (a, b), (b, b)))
    gain = ratio(a, b, frequencies(size, each))
    least = (target - both.square() / source.clamp_min(1e-30)).sum()
    expected = least / (target - 2 * gain * both + gain.square() * source).sum()
    assert expected < 0.9
    assert float(best / plain) == pytest.approx(float(expected), rel=0.05)


def test_the_best_filter_is_the_ratio_where_nothing_folds_and_nothing_for_a_kernel_itself() -> None:
    hu, fine = scene(), (0.3, 0.3)
    noisy = reconstructions(hu, fine, [kernel("B45")], noise_hu=10, key="a")[0]
    best, plain = (convert(noisy, fine, kernel("B45"), kernel("B30"), *c) for c in ((1.0, 1.0), ()))
    torch.testing.assert_close(best, plain, atol=0.2, rtol=0)
    same = convert(noisy, MM, kernel("B70"), kernel("B70"), 1.0, 1.0)
    torch.testing.assert_close(same, noisy, atol=0.01, rtol=0)
    softer = [convert(noisy, MM, kernel("B20"), kernel("B30"), *c) for c in ((1.0, 1.0), ())]
    assert torch.equal(*softer)


def test_the_noise_measured_grows_with_its_square() -> None:
    flat = torch.full((128, 128, 1), 40.0)
    found = []
    for noise in (5.0, 20.0):
        (image,) = reconstructions(flat, MM, [kernel("B50")], noise_hu=noise, key="a")
        found.append(content(image, MM, kernel("B50")))
    assert found[1][0] / found[0][0] == pytest.approx(16, rel=0.02)
    assert content(torch.full((96, 96, 1), 40.0), MM, kernel("B50")) == (0.0, 1.0)
    assert content(torch.full((20, 96, 1), 40.0), MM, kernel("B50")) == (0.0, 1.0)


def test_rms_is_the_deviation_of_filtered_noise() -> None:
    for size in ((32, 30), (31, 33)):
        gain = frequencies(size, MM)
        white = torch.randn((400, *size), generator=torch.Generator().manual_seed(0))
        made = torch.fft.irfft2(torch.fft.rfft2(white) * gain, s=size)
        assert float(made.std()) == pytest.approx(rms(gain, size[1]), rel=0.02)


def test_the_fitted_blur_is_the_one_that_was_done() -> None:
    hu = scene()
    assert fitted_blur([(hu, blurred(hu, MM, 0.62), MM)]) == 0.62
    x = torch.zeros(65, 65, 1)
    x[32, 32] = 1
    spread = blurred(x, (1.0, 1.0), 2.0)[..., 0]
    moment = (spread.sum(1) * (torch.arange(65) - 32.0).square()).sum()
    assert math.sqrt(float(moment)) == pytest.approx(2, rel=0.01)
