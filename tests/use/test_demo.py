"""The demo: a hidden contrast made anew, scored beside every baseline that the model's folder holds."""

import json
from pathlib import Path
from shutil import copytree

import pytest

from gen3d.metrics import QuadraticFit, unit_window
from gen3d.tools import demo as tool


def test_the_demo_scores_every_baseline(
    phantoms: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, model = next(phantoms.iterdir()), tmp_path / "model"
    copytree(tiny_model, model)
    copytree(tiny_model, model / "regression")
    case = tool.read_case(source)
    given = [unit_window(tool.tensor(case.volumes[name])) for name in ("t1n", "t1c", "t2w")]
    fit = QuadraticFit(every=1)
    fit.add(given, unit_window(tool.tensor(case.volumes["t2f"])))
    row = {"given": ["t1n", "t1c", "t2w"], "coefficients": fit.solve().coefficients}
    (model / "baseline.json").write_text(json.dumps({"t2f": row}))
    monkeypatch.setattr(tool, "unseen_case", lambda out: (source, "simulated"))
    monkeypatch.setenv("COLUMNS", "160")
    picture = tool.demo(tmp_path / "demo", model)
    said = capsys.readouterr().out
    for words in ("3 patients, 2 phantoms", "expected image", "squared error alone", "quadratic", "best copy", " dB"):
        assert words in said
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "Recorded:" not in said  # this network's scores were made here
    assert said.splitlines()[-1] == "Go on with: source .venv/bin/activate, then gen3d"
    scores = [line.split("│")[2].strip() for line in said.splitlines() if line.startswith("│")]
    assert scores[0] == scores[1]  # the same weights twice
    assert float(scores[2]) > float(scores[3]) > 5  # fitted on the answer itself


def test_an_unseen_case_is_found_or_simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / tool.UNSEEN).mkdir(parents=True)
    monkeypatch.setenv("GEN3D_DATA", str(tmp_path / "data"))
    assert tool.unseen_case(tmp_path)[0] == tmp_path / "data" / tool.UNSEEN
    seeds: list[int] = []
    monkeypatch.setattr(tool, "write_phantom", lambda folder, seed, *_, **__: seeds.append(seed) or folder)
    monkeypatch.setenv("GEN3D_DATA", str(tmp_path / "none"))
    assert "simulated" in tool.unseen_case(tmp_path)[1]
    assert seeds == [tool.UNUSED_SEED]
