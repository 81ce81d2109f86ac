"""What the contrasts that are there let expect of one that is not."""

import pytest

from gen3d.core.checkpoint import read_index
from gen3d.systems import shipped
from gen3d.tools.outcomes import Outcome, table
from gen3d.tools.reliability import Hidden, expected_psnr

USUAL = {"t1n": 18.0, "t1c": 20.0, "t2w": 17.0, "t2f": 16.0}


def test_the_contrasts_own_weighting_is_asked_first() -> None:
    """T1 is 3 dB worse than usual, T2 2 dB better: the contrast of either weighting follows its kin."""
    found = {"t1n": Hidden(15.0, 0.1), "t2w": Hidden(19.0, 0.6)}
    assert expected_psnr(found, USUAL, ["t1c", "t2f"]) == {"t1c": 17.0, "t2f": 18.0}


def test_without_kin_all_are_asked() -> None:
    found = {"t1n": Hidden(15.0, 0.1), "t1c": Hidden(21.0, 0.6)}
    assert expected_psnr(found, USUAL, ["t2f"]) == {"t2f": 15.0}
    odd = {"ct": Hidden(15.0, 0.1), "t1n": Hidden(19.0, 0.1)}
    assert expected_psnr(odd, {**USUAL, "ct": 10.0, "pet": 12.0}, ["pet"]) == {"pet": 15.0}


def test_nothing_known_nothing_said() -> None:
    assert expected_psnr({}, USUAL, ["t2f"]) == {}
    assert expected_psnr({"t1n": Hidden(15.0, 0.1)}, {}, ["t2f"]) == {}


def test_the_least_expected_comes_first_and_has_a_column() -> None:
    rows = [
        Outcome("a", "a", "made", made=["t2f"], reliability={"t1n": 0.1}, expected={"t2f": 17.0}),
        Outcome("b", "b", "made", made=["t2f"], reliability={"t1n": 0.9}, expected={"t2f": 15.0}),
    ]
    assert [row.case for row in sorted(rows, key=lambda row: row.rank)] == ["b", "a"]
    head, first, *_ = table(rows).splitlines()
    assert first.split(",")[head.split(",").index("expected_psnr_t2f")] == "17.000"


def test_the_shipped_model_knows_what_is_usual_of_it() -> None:
    usual = read_index(shipped()["brain-completion"])["provenance"]["usual_psnr"]
    assert set(usual) == set(USUAL)
    assert all(10 < value < 30 for value in usual.values())
    assert usual["t1c"] == pytest.approx(19.55, abs=0.1)
