"""The number format: chosen by the device, refused where it would crawl."""

import pytest
import torch

from gen3d.core.error import UserError
from gen3d.core.precision import NAMES, choose_precision, on_this_cpu


def test_auto_never_chooses_what_a_cpu_crawls_in() -> None:
    assert on_this_cpu(choose_precision("cpu").dtype)


@pytest.mark.parametrize("asked", NAMES)
def test_a_cpu_computes_as_asked_or_says_why_not(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gen3d.core.precision.on_this_cpu", lambda dtype: True)
    assert choose_precision("cpu", asked).dtype == NAMES[asked]
    monkeypatch.setattr("gen3d.core.precision.on_this_cpu", lambda dtype: dtype == torch.float32)
    if asked == "fp32":
        assert choose_precision("cpu", asked).dtype == torch.float32
        return
    with pytest.raises(UserError, match=f"precision '{asked}': this CPU .* use auto or fp32"):
        choose_precision("cpu", asked)
