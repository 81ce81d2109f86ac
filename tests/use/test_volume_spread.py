"""The interval of a forecast volume: grows with time, is the model's own, and holds what it should."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import gen3d
from gen3d.core.checkpoint import save_model
from gen3d.core.volume import Prepared, Scale
from gen3d.nn.unet import UNetConfig
from gen3d.sequence.forecast import Forecast, ForecastConfig
from gen3d.tools import volume_spread
from gen3d.tools.volume_spread import WHOLE, interval_80, write_spread

KNOWN = {"tail": {"1": [-0.4, 0.2], "2": [-0.2, 0.1], "3": [-0.1, 0.1]}}


def test_it_grows_with_the_time_ahead_and_shrinks_with_visits() -> None:
    year = interval_80(KNOWN, "tail", 2.0, 1, 365.25)
    assert year == pytest.approx([2 * math.exp(-0.4), 2 * math.exp(0.2)])
    assert interval_80(KNOWN, "tail", 2.0, 1, 2 * 365.25) == pytest.approx([2 * math.exp(-0.8), 2 * math.exp(0.4)])
    soon = interval_80(KNOWN, "tail", 2.0, 7, 1.0)  # a few days ahead the segmentation errs all the same
    assert soon == pytest.approx([2 * math.exp(-0.025), 2 * math.exp(0.025)])
    assert interval_80(KNOWN, "head", 2.0, 1, 365.25) is None


def test_it_is_measured_on_sequences_and_saved_with_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = UNetConfig(in_channels=32, out_channels=8, width=8, multipliers=(1, 2), blocks=1, groups=4, vector=3)
    segmenter = UNetConfig(in_channels=1, out_channels=2, width=4, multipliers=(1, 2), blocks=1, groups=2)
    config = ForecastConfig(patch=(16, 16, 16), width=8, network=network, labels=("ball",), segmenter=segmenter)
    save_model(Forecast(config), tmp_path / "model")
    mask = np.zeros((16, 16, 16), np.uint8)
    mask[4:12, 4:12, 4:12] = 1
    case = Prepared("a", "a", 2.0 * mask[None] - 1, np.ones(1, bool), mask, (1.0, 1.0, 1.0), (Scale(),))
    threshold = lambda self, voxels: (voxels[:, 0] > 0).long()  # noqa: E731  (a segmentation that can be foretold)
    monkeypatch.setattr(Forecast, "structures", threshold)
    monkeypatch.setattr(volume_spread, "DRAWS", 120)
    write_spread(tmp_path / "model", [case])
    found = gen3d.load(tmp_path / "model").provenance["volume_spread"]
    assert found.keys() == {"ball", WHOLE}
    assert found["ball"] == found[WHOLE]
    for low, high in found["ball"].values():  # an untrained forecast is the copy: most lose, some gain
        assert low < -0.02
        assert high > 0
