"""The gates of ``gen3d augment``, its count of duplicates, and how it compares volumes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_pairs import write_tiny_pairs

from gen3d.tools.augment.files import packed
from gen3d.tools.augment.gates import Known, judge, known_of
from gen3d.tools.augment.merge import duplicates, kolmogorov_smirnov
from gen3d.tools.augment.pair import Drawing, Pair, Wishes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_tiny_pairs(tmp_path_factory.mktemp("pairs") / "tiny-pairs")


@pytest.fixture(scope="module")
def judged(model: Path) -> tuple[Pair, Known]:
    drawing = Drawing(model, Wishes())
    known = replace(known_of(drawing.system), volumes_ml=np.array([[0.0] * 3, [1e5] * 3]))
    pair = drawing.draw(1, "any")
    assert not judge(pair, known, ("t1n",)).faults
    return pair, known


def test_each_gate_refuses_what_is_its(judged: tuple[Pair, Known]) -> None:
    pair, known = judged
    own = known.fingerprint(torch.from_numpy(pair.images)[None])
    ranges = {"histogram_t1n": [[9.0] * 3, [9.1] * 3]}
    for gate, changed in {
        "labels: core has": replace(known, volumes_ml=np.array([[0.1] * 3, [0.2] * 3])),
        "labels: core is in": replace(known, most_parts=np.zeros(3)),
        "labels: oedema has": replace(known, most_holes=np.array([10**6, -1, 10**6])),
        "intensity: grey values of t1n": replace(known, envelope=ranges),
        "copy: correlation 1.000": replace(known, fingerprints=own, alike=0.98),
    }.items():
        ((name, words),) = judge(pair, changed, ("t1n",)).faults.items()
        assert f"{name}: {words}".startswith(gate)
    constant = replace(pair, images=np.zeros_like(pair.images))
    assert judge(constant, known, ("t1n",)).faults == {"intensity": "a constant image"}
    given = replace(pair, mask_made=False)
    assert not judge(given, replace(known, most_parts=np.zeros(3)), ("t1n",)).faults


def test_duplicates_are_counted_once_each() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5, 96)) / 96**0.5
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = [{"case": f"c{n}", "fingerprint": packed(row.astype(np.float16))} for n, row in enumerate(rows)]
    assert duplicates(found, 0.95)[0] == 0
    assert duplicates([*found, {**found[2], "case": "copy"}], 0.95) == (1, [["c2", "copy"]])
    assert duplicates([], 0.95) == (0, [])


def test_two_samples_are_compared_as_scipy_does() -> None:
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(0)
    for shift in (0.0, 0.4, 3.0):
        a, b = rng.normal(size=80), rng.normal(shift, size=60)
        distance, p = kolmogorov_smirnov(a, b)
        wanted = ks_2samp(a, b)
        assert distance == pytest.approx(wanted.statistic, abs=1e-4)
        assert p == pytest.approx(wanted.pvalue, rel=0.25, abs=0.01)
