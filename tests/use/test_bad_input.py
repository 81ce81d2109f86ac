"""Mistakes that users make: one clear line each, exit 1 or 2, nothing half written, originals untouched."""

import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from gen3d.core.checkpoint import save_model
from gen3d.nn.unet import UNetConfig
from gen3d.wavelet.completion import Completion, CompletionConfig

Run = Callable[..., tuple[int, str, str]]
NAME = "BraTS-PHA-00001-000"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def changed(path: Path, change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray | None = None) -> None:
    """Write other voxels, or another affine, in a scan's place."""
    image = nib.load(path)
    voxels = change(image.get_fdata(dtype=np.float32))
    nib.save(nib.Nifti1Image(voxels, image.affine if affine is None else affine), path)


def with_nan(voxels: np.ndarray) -> np.ndarray:
    voxels[0, 0, 0] = np.nan
    return voxels


BAD_SCANS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), "truncated"),
    "empty": (lambda p: p.write_bytes(b""), "no NIfTI file"),
    "text": (lambda p: p.write_text("see attachment\n"), "no NIfTI file"),
    "shape": (lambda p: changed(p, lambda v: v[:-1]), "differ in shape"),
    "affine": (lambda p: changed(p, lambda v: v, np.diag([-4.0, -4, 4, 1])), "differ in affine"),
    "NaN": (lambda p: changed(p, with_nan), "NaN"),
    "all zero": (lambda p: changed(p, np.zeros_like), "all voxels are 0"),
    "4D": (lambda p: changed(p, lambda v: np.stack([v, v], -1)), "4D"),
    "2D": (lambda p: changed(p, lambda v: v[..., 0]), "2D"),
}


@pytest.mark.parametrize("kind", BAD_SCANS)
def test_bad_scans(gen3d: Run, case: Path, tiny_model: Path, tmp_path: Path, kind: str) -> None:
    spoil, words = BAD_SCANS[kind]
    spoil(case / f"{NAME}-t1c.nii.gz")
    refused(gen3d, case, tmp_path, 1, words, f"{NAME}-t1c.nii.gz", "--model", tiny_model)


def refused(gen3d: Run, case: Path, tmp_path: Path, status: int, *words: object) -> None:
    """Run ``synthesize`` with the options among ``words``; the other words must be told in the one line."""
    start = next((i for i, word in enumerate(words) if str(word).startswith("--")), len(words))
    before = contents(tmp_path)
    result, said, told = gen3d("synthesize", "-i", case, "-o", tmp_path / "out" / "deeper", *words[start:])
    assert (result, said) == (status, "")
    assert told.startswith("gen3d: ")
    assert told.count("\n") == 1, told
    for word in words[:start]:
        assert str(word) in told
    assert contents(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_no_contrast_at_all(gen3d: Run, case: Path, tiny_model: Path, tmp_path: Path) -> None:
    for path in case.glob("*-t*.nii.gz"):
        path.unlink()
    refused(gen3d, case, tmp_path, 1, "no study in it", "--model", tiny_model)


def test_no_such_folder(gen3d: Run, tiny_model: Path, tmp_path: Path) -> None:
    refused(gen3d, tmp_path / "nowhere", tmp_path, 1, "no such file or folder", "--model", tiny_model)


def test_unknown_contrast_names_the_nearest(gen3d: Run, case: Path, tiny_model: Path, tmp_path: Path) -> None:
    refused(gen3d, case, tmp_path, 2, "did you mean 'flair'?", "--model", tiny_model, "--missing", "flare")


def test_all_contrasts_hidden(gen3d: Run, case: Path, tiny_model: Path, tmp_path: Path) -> None:
    refused(gen3d, case, tmp_path, 1, "nothing is left", "--model", tiny_model, "--missing", "t1n,t1c,t2w,t2f")


def test_a_model_of_other_contrasts(gen3d: Run, case: Path, tmp_path: Path) -> None:
    network = UNetConfig(in_channels=32, out_channels=16, width=8, multipliers=(1,), blocks=1, present=2, groups=4)
    save_model(Completion(CompletionConfig(contrasts=("ct", "mr"), network=network)), tmp_path / "other")
    other = ("--model", tmp_path / "other")
    refused(gen3d, case, tmp_path, 1, "needs at least one of ct, mr", *other)
    refused(gen3d, case, tmp_path, 1, "this model makes ct, mr", *other, "--missing", "t2f")


def test_unknown_model_sampler_device_and_mode(gen3d: Run, case: Path, tiny_model: Path, tmp_path: Path) -> None:
    model = ("--model", tiny_model)
    refused(gen3d, case, tmp_path, 2, "neither a folder nor shipped", "--model", "brain-completoin")
    refused(gen3d, case, tmp_path, 1, "no model_index.json", "--model", case)
    refused(gen3d, case, tmp_path, 2, "did you mean 'heun'?", *model, "--mode", "sample", "--sampler", "heum")
    refused(gen3d, case, tmp_path, 2, "did you mean 'cuda'?", *model, "--device", "cudaa")
    refused(gen3d, case, tmp_path, 2, "expected mean or sample", *model, "--mode", "smaple")
    refused(gen3d, case, tmp_path, 2, "add --mode sample", *model, "--samples", 3)
    refused(gen3d, case, tmp_path, 2, "names no contrast", *model, "--missing", "")


def test_like_needs_one_contrast_and_a_scan(gen3d: Run, case: Path, tiny_model: Path, tmp_path: Path) -> None:
    model, scan = ("--model", tiny_model), case / f"{NAME}-t1n.nii.gz"
    refused(gen3d, case, tmp_path, 2, "t1c, t2f would be written", *model, "--missing", "t1c,t2f", "--like", scan)
    refused(gen3d, case, tmp_path, 1, "no such file", *model, "--like", tmp_path / "none.nii.gz")


def test_damaged_weights(gen3d: Run, case: Path, tiny_model: Path, tmp_path: Path) -> None:
    from shutil import copytree

    folder = tmp_path / "damaged"
    copytree(tiny_model, folder)
    weights = next((folder / "network").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused(gen3d, case, tmp_path, 1, "damaged", "--model", folder)


def test_output_below_a_regular_file(gen3d: Run, case: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    before = contents(tmp_path)
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        status, _, told = gen3d("synthesize", "-i", case, "-o", out, "--model", tiny_model)
        assert (status, told.count("\n"), str(tmp_path / "file") in told) == (1, 1, True), told
    assert contents(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_output_that_may_not_be_written(gen3d: Run, case: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    status, _, told = gen3d("synthesize", "-i", case, "-o", tmp_path / "locked", "--model", tiny_model)
    assert (status, told.count("\n"), "permission denied" in told) == (1, 1, True)


def program(*arguments: object, limit: int = resource.RLIM_INFINITY) -> tuple[int, str, str]:
    """Run the real program, no file longer than ``limit`` bytes."""
    result = subprocess.run(
        [sys.executable, "-m", "gen3d.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize("limit", [0, 4096])
def test_no_space(case: Path, tiny_model: Path, tmp_path: Path, limit: int) -> None:
    before = contents(tmp_path)
    status, _, told = program("synthesize", "-i", case, "-o", tmp_path / "out", "--model", tiny_model, limit=limit)
    assert (status, told.count("\n"), "file too large" in told) == (1, 1, True), told
    assert contents(tmp_path) == before
    assert not (tmp_path / "out").exists()


class Payload:
    """What a hostile checkpoint would run."""

    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.trace,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_with_a_pickle_payload_is_refused(tmp_path: Path, *, zipped: bool) -> None:
    path, trace = tmp_path / "hostile.pt", tmp_path / "was-here"
    if zipped:
        torch.save({"weights": Payload(trace)}, path)
    else:
        path.write_bytes(pickle.dumps(Payload(trace)))
    status, said, told = program("import", "wdm", path, "-o", tmp_path / "out")
    assert (status, said, told.count("\n"), "refused" in told) == (1, "", 1, True), told
    assert [p.name for p in tmp_path.iterdir()] == ["hostile.pt"]
    pickle.loads(pickle.dumps(Payload(trace)))
    assert trace.exists()  # it would have run


def test_unknown_configuration_key_names_the_nearest(gen3d: Run, tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text("system: completion\ntrain:\n  stepz: 3\n")
    for change, words in ((), "train.stepz: unknown key (did you mean 'steps'?)"), (("train.lrr=1",), "unknown key"):
        status, said, told = gen3d("train", config, *change, "-o", tmp_path / "run", "--dry-run")
        assert (status, said, told.count("\n"), words in told) == (2, "", 1, True), told
    assert not (tmp_path / "run").exists()
