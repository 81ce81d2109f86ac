"""Pictures and scores in training: they are logged, they change nothing, and wandb is told of them by one option."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gen3d.core.error import UserError
from gen3d.core.tracking import LOG, Report, Tracker
from gen3d.systems import load
from gen3d.tools.train import packaged_config, run_training

SCORES = {
    "smoke_completion": {"quality/psnr t1n", "quality/psnr t1c", "quality/psnr t2w", "quality/psnr t2f"},
    "smoke_wdm": {"quality/grey scale off"},
    "smoke_segmenter": {"quality/dice"},
    "smoke_forecast": set(),  # a model of visits draws nothing
}


def trained(name: str, run: Path, *overrides: str) -> list[dict[str, float]]:
    given = [f"data.cache={run.parent / 'cache'}", "train.log_every=1", *overrides]
    run_training(packaged_config(name), given, run, device="cpu")
    return [json.loads(line) for line in (run / LOG).read_text().splitlines()]


@pytest.mark.parametrize("name", SCORES)
def test_scores_and_pictures(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = trained(name, tmp_path / "run", "train.sample_every=1")
    scores = SCORES[name]
    assert all({key for key in line if key.startswith("quality/")} == scores for line in log)
    pictures = sorted(path.name for path in (tmp_path / "run" / "samples").glob("*.png")) if scores else []
    assert pictures == ([f"step-{line['step']:06d}.png" for line in log] if scores else [])
    assert capsys.readouterr().err == ""  # no terminal: no bar


def test_pictures_change_nothing(tmp_path: Path) -> None:
    plain = trained("smoke_wdm", tmp_path / "plain")
    drawn = trained("smoke_wdm", tmp_path / "drawn", "train.sample_every=1")
    terms = [key for key in plain[-1] if key.startswith("wdm/")]
    assert terms
    assert [[line[key] for key in terms] for line in plain] == [[line[key] for key in terms] for line in drawn]
    one, other = (load(tmp_path / run / "model").state_dict() for run in ("plain", "drawn"))
    assert all(one[key].equal(other[key]) for key in one)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """A stand-in for wandb that remembers what it was told."""
    told: list[tuple[str, Any]] = []
    run = SimpleNamespace(
        log=lambda facts, step: told.append(("log", (step, facts))), finish=lambda: told.append(("finish", None))
    )

    def init(**options: Any) -> SimpleNamespace:
        told.append(("init", options))
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Image=lambda path: ("image", path)))
    return told


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_wandb_is_told_what_the_log_says_and_the_pictures(mode: str, tmp_path: Path, wandb: list[Any]) -> None:
    log = trained("smoke_wdm", tmp_path / "run", f"train.wandb={mode}", "train.sample_every=2")
    kinds = [kind for kind, _ in wandb]
    assert kinds == ["init", *["log"] * len(log), "finish"]
    assert (wandb[0][1]["mode"], wandb[0][1]["name"]) == (mode, "run")
    for line, (_, (step, facts)) in zip(log, wandb[1:-1], strict=True):
        picture = facts.pop("samples", None)
        assert (step, facts) == (line["step"], line)
        assert (picture is not None) == ("quality/grey scale off" in line)


def test_disabled_never_asks_for_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    Tracker(tmp_path, "disabled", {}).write(Report(step=1))
    assert json.loads((tmp_path / LOG).read_text()) == {"step": 1}
    with pytest.raises(UserError, match="pip install 'gen3d\\[wandb\\]'"):
        Tracker(tmp_path, "offline", {})


def test_wandb_itself_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    trained("smoke_wdm", tmp_path / "run", "train.wandb=offline", "train.sample_every=2")
    [kept] = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert list(kept.rglob("samples*.png"))
    assert kept.joinpath(f"run-{kept.name.rpartition('-')[2]}.wandb").stat().st_size > 0
