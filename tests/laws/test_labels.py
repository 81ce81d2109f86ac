"""Labels as coordinates: there and back exactly, the nearest code wins, probabilities are probabilities."""

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from gen3d.data.blur import blurred
from gen3d.spaces.labels import Code, Labels

CASES = [(k, code, scale) for k in (2, 3, 4, 5, 9) for code in ("onehot", "bits") for scale in (1.0, 0.3)]


def labels(classes: int, size: tuple[int, int, int] = (5, 4, 3)) -> torch.Tensor:
    found = torch.randint(classes, (2, 1, *size), generator=torch.Generator().manual_seed(classes))
    found.view(-1)[:classes] = torch.arange(classes)
    return found


@pytest.mark.parametrize(("classes", "code", "scale"), CASES)
def test_decode_undoes_encode(classes: int, code: Code, scale: float) -> None:
    space = Labels(classes, code, scale)
    for size in ((5, 4, 3), (7, 5, 1)):
        given = labels(classes, size)
        coords = space.encode(given)
        assert coords.dtype == torch.float32
        assert coords.shape == (2, space.channels(), *space.shape(size))
        assert set(coords.unique().tolist()) == {torch.tensor(s).item() for s in (-scale, scale)}
        assert torch.equal(space.decode(coords), given)
        assert torch.equal(space.decode(coords, (3, 2, 1)), given[..., :3, :2, :1])
        noisy = coords + 0.6 * scale * (2 * torch.rand(coords.shape, generator=torch.Generator().manual_seed(1)) - 1)
        assert torch.equal(space.decode(noisy), given)


@pytest.mark.parametrize(("classes", "code", "scale"), CASES)
def test_a_code_is_certain_and_probabilities_sum_to_one(classes: int, code: Code, scale: float) -> None:
    space = Labels(classes, code, scale)
    given = labels(classes)
    certain = space.probabilities(space.encode(given))
    assert torch.equal(certain, space.hard(space.encode(given)))
    assert torch.equal(certain.argmax(1, keepdim=True), given)
    coords = 2 * scale * torch.randn(2, space.channels(), 4, 4, 4, generator=torch.Generator().manual_seed(2))
    guessed = space.probabilities(coords)
    assert guessed.shape == (2, classes, 4, 4, 4)
    assert float(guessed.min()) >= 0
    torch.testing.assert_close(guessed.sum(1), torch.ones(2, 4, 4, 4))


@pytest.mark.parametrize("code", ["onehot", "bits"])
def test_an_expected_code_gives_back_the_probabilities_it_was_made_from(code: Code) -> None:
    space = Labels(4, code, 0.5)
    if code == "onehot":
        chances = torch.tensor([0.1, 0.2, 0.3, 0.4])
    else:
        low, high = 0.3, 0.9  # of the two digits being 1, independent
        chances = torch.tensor([(1 - low) * (1 - high), low * (1 - high), (1 - low) * high, low * high])
    expected = (chances[:, None] * space.codes).sum(0).view(1, -1, 1, 1, 1)
    torch.testing.assert_close(space.probabilities(expected).flatten(), chances)


def test_codes_of_bits_are_binary_digits_and_codes_of_no_class_go_to_the_nearest() -> None:
    space = Labels(5, "bits")
    assert space.channels() == 3
    for label, digits in enumerate(itertools.islice(itertools.product((-1.0, 1.0), repeat=3), 5)):
        assert space.codes[label].tolist() == list(reversed(digits))
    for near, label in (((1.0, 0.4, 1.0), 3), ((1.0, -0.4, 0.9), 1), ((0.9, -0.4, 1.0), 4)):  # 7 and 5 are no classes
        nobody = torch.tensor(near).view(1, 3, 1, 1, 1)
        assert int(space.decode(nobody)) == label
        assert float(space.probabilities(nobody).sum()) == pytest.approx(1)


def test_what_cannot_be_is_refused() -> None:
    for wrong in (-1, 3, 255):
        with pytest.raises(ValueError, match="expected 0 to 2"):
            Labels(3).encode(torch.full((1, 1, 2, 2, 2), wrong))
    with pytest.raises(ValueError, match="at least 2"):
        Labels(1)
    with pytest.raises(ValueError, match="'onehot' or 'bits'"):
        Labels(3, "gray")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="above 0"):
        Labels(3, scale=0)


def test_blurred_codes_keep_real_masks_and_lose_lone_voxels(data_folder: Path) -> None:
    space = Labels(3, "bits")
    for path in sorted((data_folder / "hippocampus" / "labelsTr").glob("*.nii.gz"))[:20]:
        mask = torch.from_numpy(np.asarray(nib.load(path).dataobj)).long()[None, None]
        read = space.decode(blurred(space.encode(mask), 0.5))
        for label in (1, 2):
            both = ((read == label) & (mask == label)).sum()
            assert 2 * both / ((read == label).sum() + (mask == label).sum()) > 0.999
    lone = torch.zeros(1, 1, 7, 7, 7, dtype=torch.long)
    lone[..., 3, 3, 3] = 1
    assert space.decode(blurred(space.encode(lone), 0.5)).sum() == 0
