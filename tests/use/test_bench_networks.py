"""The benchmark of the published networks stands on torch alone, and its rows compute the same."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from gen3d.core.precision import on_this_cpu

WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {'nibabel', 'monai', 'diffusers', 'scipy', 'typer', 'rich', 'matplotlib', 'wandb'}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import torch
whole = torch.nn.Module.compile
torch.nn.Module.compile = lambda module: whole(module, backend='aot_eager')  # a C++ compiler takes minutes
sys.argv = ['networks', '--device', 'cpu', '--tiny', '--out', sys.argv[1]]
from benchmarks.networks import main
main()
"""


def test_every_row_stands_on_torch_alone_and_answers_alike(root: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    tree = json.loads((tmp_path / "networks_cpu.json").read_text())
    assert set(tree) == {"environment", "peaks", "cases", "left_out_for_time", "minutes"}
    rows = tree["cases"]["tiny"]["rows"]
    assert {name: row["failed"] for name, row in rows.items() if "failed" in row} == {}
    free = rows.pop("a call if norm and SiLU were free")
    limits = {"PyTorch, strict float32": 1e-9, "gen3d, float32": 1e-5}
    if on_this_cpu(torch.bfloat16):
        limits |= {"gen3d, bf16": 2e-2, "gen3d, bf16, compiled": 2e-2}
    else:
        limits |= {"gen3d, float32, compiled": 1e-5}
    assert list(rows) == list(limits)
    assert {name: row["difference"] for name, row in rows.items() if row["difference"] >= limits[name]} == {}
    assert min(row[key] for row in rows.values() for key in ("forward_s", "step_s", "steps_20_s", "step_gb")) > 0
    compiled = rows[list(rows)[-1]]
    assert compiled["cold_start_s"] > compiled["forward_s"]
    assert free["forward_s"] > 0
