"""The training envelope: what a case of its own kind is never outside of, and what each departure is called."""

from dataclasses import replace

import numpy as np
import pytest

from gen3d.core.volume import Prepared
from gen3d.data.envelope import departures, envelope, measured
from gen3d.data.phantom import phantom
from gen3d.data.prepare import prepare

NAMES = ("t1n", "t2f")


def made(seed: int, spacing_mm: float = 4.0) -> Prepared:
    from gen3d.data.intensity import Intensity

    case = phantom(seed, (40, 48, 40), spacing_mm, NAMES)
    return prepare(case, NAMES, "RAS", Intensity(rule="robust"), crop="foreground", margin=1)


@pytest.fixture(scope="module")
def cases() -> list[Prepared]:
    return [made(seed) for seed in range(6)]


def test_training_cases_are_inside(cases: list[Prepared]) -> None:
    known = envelope(cases, NAMES)
    assert set(known) == {"spacing_mm", "field_of_view_mm", "foreground_share", "histogram_t1n", "histogram_t2f"}
    assert [departures(case, NAMES, known) for case in cases] == [()] * len(cases)


def test_what_a_model_does_not_state_is_not_looked_at(cases: list[Prepared]) -> None:
    assert departures(cases[0], NAMES, {}) == ()


def test_histograms_do_not_depend_on_the_grey_scale(cases: list[Prepared]) -> None:
    case = cases[0]
    scales = tuple(replace(s, gain=3 * s.gain, offset=3 * s.offset + 2) for s in case.scales if s)
    other = replace(case, voxels=3 * case.voxels + 2, scales=scales)
    for name in NAMES:
        one, same = (measured(c, NAMES)[f"histogram_{name}"] for c in (case, other))
        np.testing.assert_allclose(one, same, atol=1e-3)


def test_each_departure_is_named(cases: list[Prepared]) -> None:
    known = envelope(cases, NAMES)
    first = cases[0]
    inside = first.voxels > first.voxels.min(axis=(1, 2, 3), keepdims=True)
    changed = {
        "voxels of 8 x 8 x 8 mm; the model was trained on 4 to 4 mm": replace(first, spacing=(8.0, 8.0, 8.0)),
        "shows": replace(first, voxels=first.voxels[:, :, :, :12]),
        "tissue fills 100% of the box": replace(first, voxels=np.abs(first.voxels) + 1.0),
        "grey values of t1n": replace(first, voxels=np.where(inside, np.exp(first.voxels), first.voxels)),
    }
    for words, case in changed.items():
        assert any(words in told for told in departures(case, NAMES, known)), words
