"""Fixtures that every test may ask for."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def shared_folder(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable) or ROOT / default).resolve()
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; set {variable} to where it is")
    return folder


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real scans, at GEN3D_DATA or ../shared/data."""
    return shared_folder("GEN3D_DATA", "../shared/data")


@pytest.fixture(scope="session")
def reference_folder() -> Path:
    """Inputs and outputs of the official networks, at GEN3D_REFERENCE or ../shared/reference."""
    return shared_folder("GEN3D_REFERENCE", "../shared/reference")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, saying so."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
