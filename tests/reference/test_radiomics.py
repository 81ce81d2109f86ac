"""Radiomic features and their Frechet distance against what pyradiomics 3.0.1 and frd-score 1.0.1 answered.

The answers are in radiomics.json and radiomic_frechet.json, made by record_radiomics.py, which states the settings.
"""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from gen3d.metrics.radiomic_frechet import Convention, radiomic_frechet
from gen3d.metrics.radiomics import feature_names, radiomic_features

HERE = Path(__file__).parent
RADIOMICS: dict[str, dict[str, float]] = json.loads((HERE / "radiomics.json").read_text())["answers"]
FRECHET: dict[str, dict[str, float]] = json.loads((HERE / "radiomic_frechet.json").read_text())["answers"]


def recorder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record_radiomics", HERE / "record_radiomics.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RECORD = recorder()
VOLUMES: dict[str, tuple[np.ndarray, np.ndarray]] = RECORD.volumes()
FEATURE_SETS: dict[str, tuple[np.ndarray, np.ndarray]] = RECORD.feature_sets()


def ours(name: str, setting: str) -> dict[str, float]:
    voxels, mask = (torch.from_numpy(v) for v in VOLUMES[name])
    rule: dict[str, Any] = RECORD.SETTINGS[setting]
    bins, width = rule.get("binCount", 32), rule.get("binWidth")
    return radiomic_features(voxels, mask=mask, bins=bins, window=None, bin_width=width, spacing=RECORD.SPACING)


@pytest.mark.parametrize("case", RADIOMICS)
def test_features_equal_pyradiomics(case: str) -> None:
    name, setting = case.split(", ")
    found = ours(name, setting)
    assert tuple(found) == feature_names(spacing=True)
    assert found == pytest.approx(RADIOMICS[case], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", VOLUMES)
def test_features_equal_pyradiomics_live(name: str) -> None:
    pytest.importorskip("radiomics")
    voxels, mask = VOLUMES[name]
    expected = RECORD.radiomic_answer(voxels, mask, RECORD.SETTINGS["few"])
    assert ours(name, "few") == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("name", FRECHET)
def test_distance_equals_frd_score(name: str, version: str) -> None:
    real, fake = (torch.from_numpy(side) for side in FEATURE_SETS[name])
    convention: Convention = "frd-v1" if version == "v1" else "frd-v0"
    assert radiomic_frechet(real, fake, convention=convention) == pytest.approx(FRECHET[name][version], rel=1e-6)


def test_v1_normalises_by_the_real_set() -> None:
    real, fake = (torch.from_numpy(side) for side in FEATURE_SETS["plain"])
    assert abs(radiomic_frechet(real, fake) - radiomic_frechet(fake, real)) > 0.1
    there, back = (radiomic_frechet(a, b, convention="frd-v0") for a, b in ((real, fake), (fake, real)))
    assert there == pytest.approx(back, rel=1e-9)
