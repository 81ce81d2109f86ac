"""The command line itself: fast help, exit codes, one line for whatever goes wrong."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import gen3d as package
from gen3d import cli

Run = Callable[..., tuple[int, str, str]]


def test_help_comes_at_once() -> None:
    def seconds() -> float:
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return spent.ru_utime + spent.ru_stime

    times = []
    for _ in range(3):
        before = seconds()
        said = subprocess.run([sys.executable, "-m", "gen3d.cli", "--help"], capture_output=True, text=True, check=True)
        times.append(seconds() - before)
    assert min(times) < 0.5
    assert all(command in said.stdout for command in ("train", "synthesize", "generate", "import", "info"))


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from gen3d.cli import run; run(['--help']); run(['synthesize', '--help']);"
        "print(*sorted({'torch', 'numpy', 'nibabel', 'matplotlib', 'scipy'} & set(sys.modules)), 'end')"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "end"


def test_version(gen3d: Run) -> None:
    assert gen3d("--version") == (0, f"gen3d {package.__version__}\n", "")


def test_alone_it_says_what_it_can_do_and_what_to_try_first(gen3d: Run) -> None:
    status, said, told = gen3d()
    assert (status, told) == (0, "")
    assert said.startswith(f"gen3d {package.__version__}: ")
    assert said.index("gen3d generate --model hippocampus-wdm") < said.index("Make images")
    assert "More:" not in said  # every command has its group
    for name, command in cli.commands().items():
        assert f"\n  {name} " in said
        assert command.get_short_help_str(200) in said


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_options_models_and_configurations(shell: str) -> None:
    def offered(line: str) -> str:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}  # of bash
        asked = {"_GEN3D_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": line, **words}
        environment = {**os.environ, **asked, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        return subprocess.run(
            [sys.executable, "-m", "gen3d.cli"], capture_output=True, text=True, check=False, env=environment
        ).stdout

    assert "synthesize" in offered("gen3d syn")
    assert "--samples" in offered("gen3d segment --sam")
    models = offered("gen3d generate --model hippocampus-w")
    assert "hippocampus-wdm" in models
    assert "brain-completion" not in models
    assert "completion_brats" in offered("gen3d train completion_br")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str) -> None:
    environment = {**os.environ, "_GEN3D_COMPLETE": f"source_{shell}"}
    said = subprocess.run(
        [sys.executable, "-m", "gen3d.cli"], capture_output=True, text=True, check=True, env=environment
    ).stdout
    assert f"_GEN3D_COMPLETE=complete_{shell}" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["synthesise"], "Did you mean 'synthesize'? (see gen3d --help)"),
        (["synthesize"], "Missing option '-o'"),
        (["synthesize", "-o", "b"], "Missing option '-i'"),
        (["synthesize", "-i", "a", "-o", "b", "--sampels", "3"], "--samples"),
        (["synthesize", "-i", "a", "-o", "b", "--samples", "0"], "Invalid value for '--samples'"),
        (["synthesize", "-i", "a", "-o", "b", "c"], "'c': unexpected"),
        (["generate", "--model", "m", "-o", "b", "--size", "1", "2"], "requires 3 arguments"),
        (["train", "wdm_hipocampus"], "neither a file nor shipped (did you mean 'wdm_hippocampus'?)"),
        (["generate", "--model", "hippocampus-wmd", "-o", "b"], "nor shipped (did you mean 'hippocampus-wdm'?)"),
        (["evaluate", "pairs", "a", "b"], "(see gen3d evaluate pairs --help)"),
        (["import", "wdn", "x.pt", "-o", "y"], "'wdn' is unknown (did you mean 'wdm'?)"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(gen3d: Run, arguments: list[str], words: str) -> None:
    status, said, told = gen3d(*arguments)
    assert (status, said, told.count("\n")) == (2, "", 1)
    assert words in told
    assert "smoke_" not in told


def broken(*_: object, **__: object) -> None:
    raise RuntimeError("two\nlines")


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_whatever_goes_wrong_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["info"], broken) == 1
    assert capsys.readouterr().err == "gen3d: RuntimeError: two lines (--debug shows where)\n"


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["info", "--debug"], broken) == 1
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "in broken" in told


@pytest.mark.parametrize("through_typer", [True, False])
def test_an_interrupt_is_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, through_typer: bool
) -> None:
    monkeypatch.setattr("gen3d.tools.info.show_environment", interrupted)
    status = cli.run(["info"]) if through_typer else cli.run(["info"], interrupted)
    told = capsys.readouterr().err
    assert (status, told.strip()) == (130, "gen3d: interrupted; nothing half written is left")


def test_info_lists_systems_and_environment(gen3d: Run) -> None:
    status, said, _ = gen3d("info")
    assert status == 0
    assert "completion" in said
    assert f"gen3d: {package.__version__}" in said


def test_info_tells_all_about_a_model(gen3d: Run, tiny_model: Path) -> None:
    from gen3d import load
    from gen3d.core.checkpoint import weights_sha256

    status, said, _ = gen3d("info", tiny_model)
    held = sum(p.numel() for p in load(tiny_model).parameters())
    assert status == 0
    for words in ("completion", "t1n, t1c, t2w, t2f", "3 patients, 2 phantoms", "made up (CC0)", f"{held / 1e6:.2f} M"):
        assert words in said
    assert weights_sha256(tiny_model)[:16] in said


def test_info_of_no_model_names_the_nearest(gen3d: Run) -> None:
    status, _, told = gen3d("info", "no-such-model")
    assert (status, told.count("\n")) == (2, 1)


def test_three_numbers_may_have_commas_between_them(gen3d: Run, tmp_path: Path) -> None:
    common = ("generate", "--model", "hippocampus-wdm", "-o", tmp_path / "out", "--dry-run")
    assert gen3d(*common, "--size", "32,32,32")[:2] == gen3d(*common, "--size", 32, 32, 32)[:2]
    assert gen3d(*common, "--size", "32,32")[0] == 2


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(gen3d: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    common = ("generate", "--model", "hippocampus-wdm", "-o", out, "-n", 2, "--steps", 1)
    status, said, _ = gen3d(*common, "--dry-run")
    assert (status, said.splitlines()) == (0, [f"would write {out / f'sample_000{i}.nii.gz'}" for i in (1, 2)])
    assert not out.exists()
    assert gen3d(*common[:-3], 1, *common[-2:])[0] == 0
    assert gen3d(*common, "--dry-run")[1] == f"would write {out / 'sample_0002.nii.gz'}\n"
    (out / "mine.nii.gz").write_bytes(b"a scan")
    assert gen3d(*common, "--dry-run")[0] == 1


def test_a_dry_run_says_what_would_be_compared(gen3d: Run, tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).integers(0, 2, (2, 4, 12, 12, 12)).astype(np.uint8)
    for side, masks in zip(("real", "fake"), drawn, strict=True):
        for number, mask in enumerate(masks):
            path = tmp_path / side / f"c{number}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(mask, np.eye(4)), path)
        np.savez(tmp_path / f"{side}.npz", **{f"c0_{'masks' if side == 'real' else 'samples'}": masks})
    for kind, real, fake, words in (
        ("generation", "real", "fake", "would compare 4 fake, 4 real scans"),
        ("pairs", "real", "fake", "would score 4 pairs"),
        ("segmentation", "real", "fake", "would score 4 cases"),
        ("ambiguous", "real.npz", "fake.npz", "would score 1 cases"),
    ):
        command = ("evaluate", kind, tmp_path / real, tmp_path / fake, "-o", tmp_path / "out", "--dry-run")
        status, said, told = gen3d(*command)
        assert (status, said.startswith(words)) == (0, True), (said, told)
        assert not (tmp_path / "out").exists()
