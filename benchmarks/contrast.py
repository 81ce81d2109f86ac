"""One missing contrast of 240x240x155: device tensor to device tensor, and the whole command."""

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import once
from gen3d.tools.sampling import expected, open_model


def whole_contrast(device: torch.device) -> dict[str, Any]:
    """A missing contrast of 240x240x155 by brain-completion, mean mode: device tensor to device tensor."""
    model = open_model("brain-completion", str(device))
    size = (1, 4, 240, 240, 155)
    voxels = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(device)
    present = torch.tensor([[True, True, True, False]], device=device)
    example = {"voxels": voxels, "present": present, "target": ~present}
    example["floors"] = torch.full((1, 4), -2.5, device=device)
    example["quantiles"] = torch.linspace(-2.5, 2.5, 65, device=device).expand(1, 4, 65).contiguous()
    with torch.inference_mode():

        def make() -> Tensor:
            return model.system.finish(expected(model.system, example, model.system.condition(example)), example)

        first = once(make, device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = median(once(make, device) for _ in range(5 if device.type == "cuda" else 1))
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
    return {"seconds": seconds, "first_s": first, "gb": peak, "command_s": command(device)}


def command(device: torch.device) -> float | None:
    """Time the whole command on a phantom of that size, where nibabel and typer are installed."""
    try:
        from gen3d.data.phantom import write_phantom

        with tempfile.TemporaryDirectory() as place:
            case = write_phantom(Path(place) / "in", 4242, size=(240, 240, 155), spacing_mm=1.0)
            line = [sys.executable, "-m", "gen3d.cli", "synthesize", "-i", str(case), "-o", f"{place}/out"]
            return once(
                lambda: subprocess.run(
                    [*line, "--missing", "t2f", "--device", str(device)], check=True, capture_output=True
                ),
                torch.device("cpu"),
            )
    except ImportError:
        return None
