"""Simulated CT kernels: their figures, what a conversion keeps, and noise that follows the kernel."""

import math

import pytest
import torch

from gen3d.core.error import UsageError
from gen3d.latent.kernels import (
    KERNELS,
    Kernel,
    blurred,
    convert,
    fitted_blur,
    frequencies,
    kernel,
    reconstructions,
    rms,
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


def test_lost_detail_is_filled_with_noise_only_where_asked() -> None:
    (soft,) = reconstructions(torch.zeros(96, 96, 1), MM, [kernel("B20")], noise_hu=8, key="a")
    plain, filled = (convert(soft, MM, kernel("B20"), kernel("B60"), noise_hu=n) for n in (0.0, float(soft.std())))
    assert filled.std() > 1.2 * plain.std()
    a, b = kernel("B20"), kernel("B60")
    f = frequencies((96, 96), MM)
    sharper = rms(b.noise_power(f).sqrt(), 96) / rms(a.noise_power(f).sqrt(), 96)
    assert float(filled.std() / soft.std()) == pytest.approx(sharper, rel=0.15)


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
