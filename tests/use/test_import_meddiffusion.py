"""``gen3d import`` of 3D MedDiffusion's two checkpoints, and scans drawn by class and size from what it wrote."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from gen3d import load

Run = Callable[..., tuple[int, str, str]]


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('the payload ran')",))


@pytest.fixture(scope="module")
def official(reference_folder: Path) -> Path:
    return reference_folder / "meddiffusion"


@pytest.fixture
def models(gen3d: Run, official: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The autoencoder and the diffusion model on it, imported by the command line."""
    both = tmp_path / "autoencoder", tmp_path / "model"
    files = official / "patch_volume_ae.pt", official / "biflownet.pt"
    for family, file, folder in zip(("meddiffusion-ae", "meddiffusion"), files, both, strict=True):
        stand = ("--autoencoder", both[0]) if family == "meddiffusion" else ()
        status, said, told = gen3d("import", family, file, "--config", file.with_suffix(".json"), "-o", folder, *stand)
        assert (status, said.strip()) == (0, str(folder)), told
    return both


def test_import_then_generate(gen3d: Run, models: tuple[Path, Path], tmp_path: Path) -> None:
    autoencoder, model = models
    system: Any = load(model)
    trained: Any = load(autoencoder).network.state_dict()
    assert all(torch.equal(part, trained[name]) for name, part in system.autoencoder.state_dict().items())
    codes = trained["codebook.vectors"]
    normalised = system.space.normalise(codes.T.reshape(1, 8, -1, 1, 1))
    assert (float(normalised.min()), float(normalised.max())) == (pytest.approx(-1), pytest.approx(1))
    assert set(system.provenance["imported"]) == {"image"}

    out = tmp_path / "out"
    command = ("generate", "--model", model, "-o", out, "--steps", 2, "--sampler", "dpmpp_2m")
    wishes = ("--label", "class_2", "--size", 40, 32, 20, "--spacing", 1.5, 1, 2)
    status, _, told = gen3d(*command, *wishes)
    assert status == 0, told
    image: Any = nib.load(out / "sample_0001.nii.gz")
    assert image.shape == (40, 32, 20)
    assert nib.aff2axcodes(image.affine) == tuple("SRA")
    assert image.header.get_zooms() == (1.5, 1.0, 2.0)
    voxels = np.asarray(image.dataobj)
    assert voxels.std() > 0
    facts = json.loads((out / "sample_0001.json").read_text())
    assert (facts["label"], facts["spacing"], facts["size"]) == ("class_2", [1.5, 1.0, 2.0], [40, 32, 20])

    stamp = (out / "sample_0001.nii.gz").stat().st_mtime_ns
    assert gen3d(*command, *wishes)[0] == 0
    assert (out / "sample_0001.nii.gz").stat().st_mtime_ns == stamp  # finished before, kept
    another = ("--label", "0", *wishes[2:])
    status, _, told = gen3d(*command, *another)
    assert (status, "holds another run" in told) == (1, True)
    assert gen3d(*command, *another, "-o", tmp_path / "other")[0] == 0
    other: Any = nib.load(tmp_path / "other" / "sample_0001.nii.gz")
    assert not np.array_equal(np.asarray(other.dataobj), voxels)


def test_decoding_within_bounds_changes_little(gen3d: Run, models: tuple[Path, Path], tmp_path: Path) -> None:
    command = (
        "generate",
        "--model",
        models[1],
        "--steps",
        1,
        "--size",
        32,
        32,
        32,
        "--label",
        "0",
        "--precision",
        "fp32",
    )
    assert gen3d(*command, "-o", tmp_path / "whole")[0] == 0
    assert gen3d(*command, "-o", tmp_path / "bounded", "--memory", "0.02GB")[0] == 0
    whole, bounded = (
        np.asarray(nib.load(tmp_path / name / "sample_0001.nii.gz").dataobj)  # type: ignore[attr-defined]
        for name in ("whole", "bounded")
    )
    assert np.abs(whole - bounded).max() < 1  # of 1000


def test_without_its_autoencoder_the_network_alone_can_be_asked(gen3d: Run, official: Path, tmp_path: Path) -> None:
    file, folder = official / "biflownet.pt", tmp_path / "alone"
    command = ("import", "meddiffusion", file, "--config", file.with_suffix(".json"), "-o", folder)
    assert gen3d(*command, "--dry-run")[:2] == (0, f"would write {folder}\n")
    assert not folder.exists()
    assert gen3d(*command)[0] == 0
    known = {name: torch.from_numpy(v) for name, v in np.load(official / "biflownet.npz").items()}
    network: Any = load(folder).network
    with torch.no_grad():
        out = network(known["x"], known["t"], known["y"], known["resolution"])
    assert float((out - known["out"]).abs().max()) < 2e-5
    status, _, told = gen3d("generate", "--model", folder, "-o", tmp_path / "out", "--steps", 1, "--size", 64, 64, 64)
    assert (status, told.count("\n")) == (1, 1)
    assert "no autoencoder" in told
    assert not (tmp_path / "out").exists()


def test_mistakes_are_one_line(gen3d: Run, models: tuple[Path, Path], official: Path, tmp_path: Path) -> None:
    file, folder = official / "biflownet.pt", tmp_path / "new"
    told = json.loads(file.with_suffix(".json").read_text())

    def changed(**changes: object) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps({**told, **changes}))
        return path

    torch.save({"ema": {"weight": torch.zeros(1)}, "args": Payload()}, tmp_path / "payload.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Payload(), protocol=2))
    torch.save({"ema": {}}, tmp_path / "empty.pt")
    ours = ("import", "meddiffusion")
    generate = ("generate", "--model", models[1], "-o", tmp_path / "out", "--steps", 1)
    for arguments, status, message in (
        ((*ours, tmp_path / "none.pt", "-o", folder), 1, "no such checkpoint"),
        ((*ours, file, "-o", folder), 1, "--config"),  # the release's is wider
        ((*ours, file, "--config", changed(dim=48), "-o", folder), 1, "has the shape"),
        ((*ours, file, "--config", changed(dim_mults=[1, 1]), "-o", folder), 1, "expected 2 values"),
        ((*ours, file, "--config", changed(dimm=24), "-o", folder), 1, "did you mean 'dim'"),
        ((*ours, file, "--config", changed(learn_sigma=True), "-o", folder), 1, "not supported"),
        ((*ours, file, "--config", changed(dim="wide"), "-o", folder), 1, "wrong kind"),
        ((*ours, tmp_path / "payload.pt", "-o", folder), 1, "no tensor for"),
        ((*ours, tmp_path / "plain.pt", "-o", folder), 1, "refused"),
        ((*ours, tmp_path / "empty.pt", "-o", folder), 1, "holds no tensors"),
        ((*ours, file, "--config", changed(), "--autoencoder", models[1], "-o", folder), 1, "no autoencoder"),
        ((*ours, file, "--config", changed(), "-o", models[0]), 1, "already holds"),
        ((*ours, file, "--target", "t1n", "-o", folder), 2, "has no target"),
        (("import", "meddifusion", file, "-o", folder), 2, "did you mean 'meddiffusion"),
        ((*generate, "--label", "class_9"), 2, "did you mean 'class_"),
        ((*generate, "--label", "7"), 2, "0 class_0, 1 class_1"),
        ((*generate, "--guidance", "2", "--label", "0"), 2, "without label_dropout"),
        ((*generate, "--size", "32", "0", "32"), 2, "expected three numbers above 0"),
        ((*generate, "--spacing", "1", "1", "-1"), 2, "above 0"),
        ((*generate, "--memory", "lots"), 2, "--memory 'lots'"),
        (("generate", "--model", "hippocampus-wdm", "-o", folder, "--label", "1"), 2, "leave it out"),
        (("generate", "--model", "hippocampus-wdm", "-o", folder, "--memory", "1GB"), 2, "leave it out"),
    ):
        found, _, said = gen3d(*arguments)
        assert (found, said.count("\n"), message in said) == (status, 1, True), (arguments, said)
    assert not folder.exists()
    assert not (tmp_path / "out").exists()
