"""Saved models among others' tools: diffusers' schedulers walk them, MONAI runs them as bundles, the hub keeps them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch

from gen3d.core.checkpoint import save_model, weights_sha256
from gen3d.core.error import UsageError, UserError
from gen3d.core.parameterization import EDM, X0, Betas, Epsilon, LogNormal, Velocity
from gen3d.interop.bundle import write_bundle
from gen3d.interop.hub import pull, push
from gen3d.nn.unet import UNetConfig
from gen3d.samplers import ddim, from_diffusers
from gen3d.systems import load
from gen3d.wavelet.wdm import WDM, WDMConfig

Run = Callable[..., tuple[int, str, str]]


def wdm(parameterization: Any) -> WDM:
    torch.manual_seed(0)
    network = UNetConfig(in_channels=8, out_channels=8, width=8, multipliers=(1, 2), blocks=1, groups=4)
    system = WDM(WDMConfig(canvas=(16, 16, 16), pool=1, network=network, parameterization=parameterization))
    for parameter in system.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return system.eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-wdm"
    save_model(wdm(X0(Betas())), folder, card="# A card")
    return folder


@pytest.mark.parametrize("kind", [X0, Epsilon, Velocity])
def test_a_scheduler_of_diffusers_draws_what_our_sampler_draws(kind: Any, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    from gen3d.interop.pipeline import pipeline

    save_model(wdm(kind(Betas(steps=100))), tmp_path / "model")
    pipe = pipeline(tmp_path / "model")
    assert isinstance(pipe, diffusers.DiffusionPipeline)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    theirs = pipe(num_inference_steps=5, generator=torch.Generator().manual_seed(1))

    system = load(tmp_path / "model")
    example = system.blank()
    shape = system.start(example, ["x"], 1.0).shape
    table = system.config.parameterization.levels.table
    sigmas = torch.cat([table[pipe.scheduler.timesteps], torch.zeros(1, dtype=torch.float64)])
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * (1 + sigmas[0] ** 2).sqrt().float()
    with torch.inference_mode():
        ours = system.finish(ddim(system.denoise(system.condition(example), ["x"]), x, sigmas), example)
    assert theirs.std() > 0.05
    torch.testing.assert_close(theirs, ours, atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler"])
def test_schedulers_in_their_pipeline_and_in_our_walk_agree(name: str, model: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    from gen3d.interop.pipeline import pipeline

    pipe = pipeline(model)
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    theirs = pipe(num_inference_steps=4, generator=torch.Generator().manual_seed(2))
    system = load(model)
    example = system.blank()
    sigmas, sampler = from_diffusers(name, 4, table=system.config.parameterization.levels.table)
    noise = torch.randn(system.start(example, ["x"], 1.0).shape, generator=torch.Generator().manual_seed(2))
    start = sigmas[0] if name.startswith("Euler") else (1 + sigmas[0] ** 2).sqrt()
    with torch.inference_mode():
        denoise = system.denoise(system.condition(example), ["x"])
        ours = system.finish(sampler(denoise, noise * start.float(), sigmas), example)
    assert theirs.shape == ours.shape
    assert (theirs - ours).abs().mean() < 0.02


def test_a_continuous_model_has_no_pipeline(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from gen3d.interop.pipeline import pipeline

    with pytest.raises(UserError, match="no linear chain of betas"):
        pipeline(wdm(EDM(LogNormal())))


def test_a_bundle_is_read_and_run_by_monai(model: Path, tmp_path: Path) -> None:
    from monai.bundle import ConfigWorkflow

    home = write_bundle(model, tmp_path / "bundle")
    assert weights_sha256(home / "models" / "gen3d") == weights_sha256(model)
    assert (home / "docs" / "README.md").read_text() == "# A card"
    meta = json.loads((home / "configs" / "metadata.json").read_text())
    assert (meta["name"], meta["task"]) == ("tiny-wdm", "gen3d generate")
    workflow = ConfigWorkflow(
        config_file=str(home / "configs" / "inference.json"),
        meta_file=str(home / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(home),
        arguments=["generate", "--model", "@model_dir", "-o", "@output_dir", "--steps", "2", "--device", "cpu"],
    )
    workflow.initialize()
    assert isinstance(workflow.parser.get_parsed_content("network_def"), WDM)
    assert workflow.run() == [0]
    assert (home / "eval" / "sample_0001.nii.gz").is_file()


def test_a_bundle_runs_in_a_process_of_its_own(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("fire", reason="monai.bundle needs fire")
    home = write_bundle(model, tmp_path / "bundle")
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    done = subprocess.run([*command, "--bundle_root", "."], cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (home / "eval" / "sample_0001.nii.gz").is_file()


def test_a_bundle_of_every_shipped_model(tmp_path: Path) -> None:
    from gen3d.systems import shipped

    for name in shipped():
        tree = json.loads((write_bundle(name, tmp_path / name) / "configs" / "inference.json").read_text())
        assert tree["network_def"] == "$gen3d.load(@model_dir)"
        assert ("run" in tree) == ("arguments" in tree)


def test_a_bundle_takes_nobodys_place(gen3d: Run, model: Path, tmp_path: Path) -> None:
    status, _, told = gen3d("bundle", model, "-o", tmp_path)
    assert (status, told.count("\n"), "exists" in told) == (1, 1, True)


def test_a_dry_run_checks_and_writes_nothing(hub: Path, gen3d: Run, model: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    for command, place in (
        (("push", model, there), there),
        (("push", model, "hub:me/tiny"), "https://huggingface.co/me/tiny"),
        (("pull", model, "-o", there), there),
        (("bundle", model, "-o", there), there),
    ):
        assert gen3d(*command, "--dry-run")[:2] == (0, f"would write {place}\n")
    assert not there.exists()
    assert not hub.exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for command in (("push", model, tmp_path / "mine"), ("bundle", model, "-o", tmp_path / "mine")):
        assert gen3d(*command, "--dry-run")[0] == 1
    status, _, told = gen3d("pull", "hub:me/nothing", "--dry-run")
    assert (status, "check the name" in told) == (1, True)
    push(model, "hub:me/tiny")
    status, said, _ = gen3d("pull", "hub:me/tiny", "--dry-run")
    assert (status, said.endswith("models--me--tiny\n"), (tmp_path / "cache").exists()) == (0, True, False)


def test_push_and_pull_by_a_folder(gen3d: Run, model: Path, tmp_path: Path) -> None:
    (status, said, _), there = gen3d("push", model, tmp_path / "there"), tmp_path / "there"
    assert (status, said.strip()) == (0, str(there))
    (there / "code.py").write_text("raise SystemExit")
    assert gen3d("pull", there, "-o", tmp_path / "back")[0] == 0
    files = sorted(path.relative_to(model) for path in model.rglob("*") if path.is_file())
    assert sorted(p.relative_to(tmp_path / "back") for p in (tmp_path / "back").rglob("*") if p.is_file()) == files
    assert all((model / name).read_bytes() == (tmp_path / "back" / name).read_bytes() for name in files)
    assert gen3d("pull", there)[0] == 2


def test_a_damaged_model_travels_nowhere(gen3d: Run, model: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(model, tmp_path / "broken"))
    weights = next(broken.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    for command in (("push", broken, tmp_path / "there"), ("pull", broken, "-o", tmp_path / "there")):
        status, _, told = gen3d(*command)
        assert (status, told.count("\n"), "SHA-256" in told) == (1, 1, True)
    assert not (tmp_path / "there").exists()


def test_other_peoples_folders_are_left_alone(model: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="no saved model"):
        push(model, str(tmp_path / "theirs"))
    with pytest.raises(UserError, match="itself"):
        push(model, str(model))
    assert (tmp_path / "theirs" / "thesis.txt").read_text() == "years of work"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the hub, taking and giving files by the patterns that it is asked with."""
    import huggingface_hub

    home = tmp_path / "hub"

    def take(self: Any, repo_id: str, folder_path: Path, allow_patterns: list[str], **_: Any) -> None:
        for path in Path(folder_path).rglob("*"):
            if path.is_file() and any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                place = home / repo_id / path.relative_to(folder_path)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)

    def create(self: Any, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        (home / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        (home / repo_id / "private").write_text(str(private))

    def look(self: Any, repo_id: str) -> None:
        if not (home / repo_id).is_dir():
            raise huggingface_hub.errors.LocalEntryNotFoundError("nothing of this name")

    def give(repo_id: str, allow_patterns: list[str], **_: Any) -> str:
        if not (home / repo_id).is_dir():
            raise huggingface_hub.errors.LocalEntryNotFoundError("nothing of this name\nis here")
        copy = tmp_path / "cache" / repo_id
        shutil.copytree(
            home / repo_id,
            copy,
            ignore=lambda folder, names: [
                name
                for name in names
                if (Path(folder) / name).is_file() and not any(fnmatch(name, p) for p in allow_patterns)
            ],
        )
        return str(copy)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", take)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", look)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", give)
    return home


def test_push_and_pull_by_the_hub(hub: Path, model: Path) -> None:
    assert push(model, "hub:me/tiny") == "https://huggingface.co/me/tiny"
    assert (hub / "me" / "tiny" / "private").read_text() == "True"
    (hub / "me" / "tiny" / "evil.py").write_text("raise SystemExit")
    (hub / "me" / "tiny" / "weights.bin").write_bytes(b"pickle")
    folder = pull("hub:me/tiny")
    assert weights_sha256(folder) == weights_sha256(model)
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".json", ".safetensors", ".md"}


def test_what_the_hub_refuses_is_one_line(hub: Path, gen3d: Run) -> None:
    status, _, told = gen3d("pull", "hub:me/nothing")
    assert (status, told.count("\n")) == (1, 1)
    assert "hub:me/nothing: nothing of this name is here; check the name" in told
    with pytest.raises(UsageError, match="expected hub:OWNER/NAME"):
        pull("hub:tiny")
