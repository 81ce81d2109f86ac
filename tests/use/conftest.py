"""Small simulated studies and a small untrained model for the commands' tests."""

from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
import torch

from gen3d.cli import run
from gen3d.core.checkpoint import save_model
from gen3d.data.phantom import write_phantom
from gen3d.nn.unet import UNetConfig
from gen3d.wavelet.completion import Completion, CompletionConfig

Run = Callable[..., tuple[int, str, str]]


def untrained(config: CompletionConfig) -> Completion:
    """A model whose answer depends on everything that it is given."""
    torch.manual_seed(0)
    system = Completion(config)
    for parameter in system.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    system.provenance = {"patients": 3, "phantoms": 2, "sources": [{"name": "made up", "licence": "CC0"}]}
    return system


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = UNetConfig(in_channels=64, out_channels=32, width=8, multipliers=(1, 2), blocks=1, present=4, groups=4)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(untrained(CompletionConfig(network=network)), folder)
    return folder


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one simulated study of 36 x 40 x 36 voxels; never written to."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantom(folder, 1, (36, 40, 36), 4.0)
    return folder


@pytest.fixture
def case(phantoms: Path, tmp_path: Path) -> Path:
    """A copy of the study, without its FLAIR."""
    folder = tmp_path / "in" / "BraTS-PHA-00001-000"
    copytree(phantoms / folder.name, folder)
    (folder / f"{folder.name}-t2f.nii.gz").unlink()
    return folder


@pytest.fixture
def gen3d(capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line, in this process: (exit status, standard output, standard error)."""

    def command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = run([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return status, told.out, told.err

    return command
