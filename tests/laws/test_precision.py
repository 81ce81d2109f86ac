"""The number format: chosen by the device, refused where it would crawl."""

import pytest
import torch

from gen3d.core.error import UserError
from gen3d.core.precision import NAMES, choose_precision, on_this_cpu
from gen3d.nn.conv import Conv


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


@pytest.mark.skipif(not on_this_cpu(torch.bfloat16), reason="needs a CPU that computes in bf16")
@pytest.mark.parametrize("size", [(2, 3, 2), (2, 4, 4), (1, 2, 2), (4, 2, 2)])
def test_gradients_of_few_planes_are_those_of_float32(size: tuple[int, int, int]) -> None:
    """oneDNN's bf16 gradient of the weights was up to 1e36 times too large on two planes."""
    torch.manual_seed(0)
    x, pull = torch.randn(4, 16, *size), torch.randn(4, 16, *size)
    for _ in range(10):
        narrow, wide = Conv(16, 16), Conv(16, 16)
        wide.load_state_dict(narrow.state_dict())
        with torch.autocast("cpu", torch.bfloat16):
            y = narrow(x)
        y.backward(pull.to(y.dtype))
        wide(x).backward(pull)
        for mine, true in zip(narrow.parameters(), wide.parameters(), strict=True):
            assert mine.grad is not None
            assert true.grad is not None
            torch.testing.assert_close(mine.grad, true.grad, atol=0.03 * float(true.grad.abs().max()), rtol=0)
