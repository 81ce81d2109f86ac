"""``gen3d doctor`` recognises each fault that it tells of, made here on purpose, and says how to mend it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gen3d.core.checkpoint import checksums, read_index, write_json
from gen3d.systems import shipped
from gen3d.tools import doctor, installation
from gen3d.tools.installation import Finding, Package

Run = Callable[..., tuple[int, str, str]]
Place = Callable[..., None]
TORCHVISION = Package("torchvision", extra="")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Puts a package before all others, in this process and those that it starts."""
    home = tmp_path / "packages"
    home.mkdir()
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.setenv("PYTHONPATH", str(home))

    def put(name: str, version: str, code: str = "", needs: str = "") -> None:
        (home / f"{name}.py").write_text(code)
        about = home / f"{name}-{version}.dist-info"
        about.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        (about / "METADATA").write_text("\n".join([*lines, *([f"Requires-Dist: {needs}"] if needs else []), ""]))

    return put


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def only(findings: list[Any]) -> Any:
    (finding,) = findings
    return finding


def test_a_sound_package_is_no_fault(place: Place) -> None:
    place("torchvision", "0.28.0", needs="torch==2.13.0")
    place("torch", "2.13.0+cpu")
    assert only(installation.packages([TORCHVISION])) == Finding("torchvision", "0.28.0")


def test_a_broken_torchvision(place: Place) -> None:
    place("torchvision", "0.28.0", "raise RuntimeError('operator torchvision::nms does not exist')")
    fault = only(installation.packages([TORCHVISION]))
    assert fault.found == "0.28.0 can't be imported: RuntimeError: operator torchvision::nms does not exist"
    assert "pip uninstall torchvision" in fault.mend


def test_what_a_broken_torchvision_breaks_points_at_it(place: Place) -> None:
    place("torchmetrics", "1.9.0", "raise RuntimeError('operator torchvision::nms does not exist')")
    assert only(installation.packages([Package("torchmetrics", ">=1.9", "metrics")])).mend == "mend torchvision"


def test_a_torchvision_made_for_another_torch(place: Place) -> None:
    place("torchvision", "0.29.2", needs="torch==2.15.0")
    fault = only(installation.packages([TORCHVISION]))
    assert fault.found == f"0.29.2 was made for torch==2.15.0; found {installation.version('torch')}"
    assert fault.mend


def test_a_swapped_torch(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place("torch", "2.15.0+cu132", "__version__ = '2.15.0+cu132'")
    fault = only(installation.packages([Package("torch", ">=2.10")]))
    assert "2.15.0+cu132 was put in the place of 2.13.0" in fault.found
    assert "--constraint constraints.txt" in fault.mend
    monkeypatch.setattr(installation, "constraint", lambda name: "")  # outside a checkout
    assert only(installation.packages([Package("torch", ">=2.10")])) == Finding("torch", "2.15.0+cu132")


def test_a_torch_of_which_half_was_exchanged(place: Place) -> None:
    place("torch", "2.13.0", "__version__ = '2.15.0+cu132'")
    fault = only(installation.packages([Package("torch")]))
    assert fault.found == "2.13.0 was installed, but 2.15.0+cu132 answers"
    assert "'torch==2.13.0'" in fault.mend


def test_the_build_that_pypi_does_not_name_is_no_fault(place: Place) -> None:
    place("torch", "2.13.0", "__version__ = '2.13.0+cu130'")
    assert not only(installation.packages([Package("torch")])).mend


def test_too_old_absent_and_optional(place: Place) -> None:
    place("einops", "0.1")
    old, absent, optional = installation.packages(
        [Package("einops", ">=0.8", "latent"), Package("no-such-core"), Package("no-such-extra", "", "wandb")]
    )
    assert (old.found, old.mend) == ("0.1; gen3d needs >=0.8", "pip install 'gen3d[latent]'")
    assert (absent.found, absent.mend) == ("not installed", "pip install 'no-such-core'")
    assert (optional.mend, "gen3d[wandb]" in optional.found) == ("", True)


def test_a_package_that_kills_the_process_stops_no_other(place: Place) -> None:
    place("first_one", "1", "print('chatter')")
    place("killer", "1", "import os; os.abort()")
    place("last_one", "1", "__version__ = '1'")
    assert installation.imported(["first_one", "killer", "last_one"]) == [
        ("", ""),
        ("", "the process died, exit -6"),
        ("1", ""),
    ]


def test_an_import_that_hangs_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place("sleeper", "1", "import time; time.sleep(60)")
    monkeypatch.setattr(installation, "PATIENCE", 0.3)
    fault = only(installation.packages([Package("sleeper", extra="metrics")]))
    assert "no answer in time" in fault.found
    assert fault.mend.startswith("ask again when the machine is idle")


def test_requirements_are_those_of_the_metadata() -> None:
    wanted = {package.name: package for package in installation.requirements()}
    assert wanted["torch"] == Package("torch", ">=2.10")
    assert (wanted["diffusers"].extra, wanted["monai"].extra) == ("diffusers", "metrics")
    assert not wanted.keys() & {"pytest", "ruff", "gen3d"}


def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str = "echo 'NVIDIA H100'") -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{says}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_torch_for_cpus_on_a_machine_with_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, monkeypatch)
    monkeypatch.setattr(torch.version, "cuda", None)
    fault = only(doctor.device())
    assert "NVIDIA H100 is there, but torch" in fault.found
    assert "CUDA build" in fault.mend


def test_a_driver_too_old_and_a_gpu_hidden_on_purpose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, monkeypatch)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    assert "update NVIDIA's driver" in only(doctor.device()).mend
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not only(doctor.device()).mend


def test_a_driver_without_a_gpu_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, monkeypatch, "exit 9")
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    assert only(doctor.device()).found.startswith("CPU")


def test_a_tiny_network_answers_right(monkeypatch: pytest.MonkeyPatch) -> None:
    right = doctor.tiny_network("numpy", "fp32")
    assert right.shape == (4, 6, 6, 6)
    np.testing.assert_allclose(doctor.tiny_network("cpu", "fp32"), right, atol=1e-5)
    assert not [finding for finding in doctor.networks() if finding.mend]
    honest = torch.nn.functional.silu
    monkeypatch.setattr(torch.nn.functional, "silu", lambda x: honest(x) * 1.2 - 0.1)
    faults = [finding.check for finding in doctor.networks() if finding.mend]
    assert faults[0] == "fp32"


def test_a_network_that_fails_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setattr(torch.nn.functional, "conv3d", fails)
    assert doctor.networks()[0].found == "a tiny network fails: no kernel image is available"


def test_little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.free_memory() > 1e8
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**8))
    monkeypatch.setattr(doctor, "free_memory", lambda: 5e8)
    assert ["free some" in finding.mend for finding in doctor.room()] == [True, True]


def test_brain_extractors_are_a_note_and_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor.sys, "executable", str(tmp_path / "python"))
    assert doctor.extractors().found.startswith("none of mri_synthstrip, ")
    assert not doctor.extractors().mend
    (tmp_path / "hd-bet").write_text("#!/bin/sh\n")
    (tmp_path / "hd-bet").chmod(0o755)
    assert doctor.extractors() == Finding(
        "brain masks", f"HD-BET of unknown version, {tmp_path / 'hd-bet'}, for --mask auto"
    )


@pytest.mark.parametrize("name", shipped())
def test_shipped_weights_are_those_that_were_recorded(name: str) -> None:
    folder = shipped()[name]
    assert read_index(folder)["sha256"] == checksums(folder)


def test_a_saved_model_is_sound(model: Path) -> None:
    assert doctor.models(str(model)) == [Finding("models", f"{model}: files as they were written, all load")]


def test_a_damaged_model(model: Path) -> None:
    weights = next(model.rglob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    fault = only(doctor.models(str(model)))
    assert fault.found == f"{weights}: is not what was written, by its SHA-256; the saved model is damaged"
    assert fault.mend
    weights.unlink()
    assert f"{weights}: is missing, by its SHA-256" in only(doctor.models(str(model))).found


def test_weights_that_are_no_numbers(model: Path) -> None:
    path = next(model.rglob("*.safetensors"))
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, path)
    write_json(model / "model_index.json", {**read_index(model), "sha256": checksums(model)})
    assert "not finite" in only(doctor.models(str(model))).found


def test_no_model_at_all_is_a_fault_not_a_crash() -> None:
    assert "neither a folder nor shipped" in only(doctor.models("no-such-model")).found


def test_the_command(gen3d: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "packages", lambda: [Finding("torch", torch.__version__)])
    status, said, told = gen3d("doctor", "--model", model)
    assert (status, said.splitlines()[-1], told) == (0, "all sound", "")
    (model / "model_index.json").write_text("{")
    status, said, told = gen3d("doctor", "--model", model)
    faults = [line for line in said.splitlines() if line.startswith("FAULT")]
    assert (status, said.splitlines()[-1], told) == (1, "1 fault", "")
    assert "; mend: " in only(faults)
    status, said, _ = gen3d("doctor", "--model", model, "--json")
    tree = json.loads(said)
    assert (status, tree["sound"]) == (1, False)
    assert [check["check"] for check in tree["checks"] if not check["sound"]] == ["models"]


def test_without_torch_the_rest_is_told(gen3d: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Finding("torch", "2.13.0 can't be imported: OSError: libcudart.so", "pip install ...")
    monkeypatch.setattr(doctor, "packages", lambda: [broken])
    status, said, _ = gen3d("doctor")
    assert (status, said.splitlines()[-1]) == (1, "1 fault")
    assert "disk" in said
