"""Real sequences as training data: frames of 4D files and folders of visits, through the cache, never mixed in time."""

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

import gen3d
from gen3d.core.config import build
from gen3d.core.error import UserError
from gen3d.systems import system_class
from gen3d.tools.train import packaged_config, read_experiment, run_training
from gen3d.tools.training_cases import DataConfig, Source, gather

FRAMES = 5


def frame(index: int, size: tuple[int, int, int] = (20, 18, 10)) -> np.ndarray:
    """A bright slab at a place of its own in each frame, on a slope."""
    voxels = np.zeros(size, np.float32) + np.linspace(0, 1, size[1], dtype=np.float32)[None, :, None]
    voxels[3 * index : 3 * index + 3] = 5 + index
    return voxels


def cine(path: Path, *, count: int = FRAMES) -> Path:
    image = nib.Nifti1Image(np.stack([frame(index) for index in range(count)], axis=3), np.diag([1.0, 1.0, 2.0, 1.0]))
    image.header["pixdim"][4] = 0.05
    image.header.set_xyzt_units("mm", "sec")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def model(name: str = "smoke_sadm", **changes: Any) -> Any:
    experiment = read_experiment(packaged_config(name))
    kind = system_class(experiment.system)
    return kind(build(kind.Config, {**experiment.model, "axes": "RAS", "flips": False, **changes}))


def data(folder: Path, *paths: Path) -> DataConfig:
    return DataConfig(sources=tuple(Source(str(path), sequences=True) for path in paths), cache=str(folder / "cache"))


def slab(voxels: torch.Tensor) -> int:
    """Which frame (X, Y, Z) is, by where its slab is."""
    return int(voxels.mean((1, 2)).argmax()) // 3


def test_frames_of_4d_files_are_visits(tmp_path: Path) -> None:
    for name in ("a", "b"):
        cine(tmp_path / "cine" / f"{name}.nii.gz")
    system = model(patch=[20, 20, 12], frames=FRAMES)
    cases, weights = gather(data(tmp_path, tmp_path / "cine"), system)
    assert [case.name for case in cases] == ["a", "b"]
    assert weights == [0.5, 0.5]
    assert cases[0].voxels.shape == (FRAMES, 20, 18, 10)
    assert cases[0].days is not None
    assert np.allclose(cases[0].days, 0.05 * np.arange(FRAMES))
    assert len(cases[0].scales) == len(cases[0].present) == FRAMES
    asked = set()
    for n in range(30):
        example = system.example(cases[0], f"0/{n}")
        assert example["visits"].shape == (1, FRAMES - 1, 20, 20, 12)
        target = round(float(example["query"]) / 0.05)
        assert slab(example["target"][0, 0]) == target
        earlier = int((example["days"] < example["query"]).sum())
        assert [slab(example["visits"][0, i]) for i in range(earlier)] == list(range(target))
        asked.add(target)
    assert asked == {1, 2, 3, 4}


def test_a_whole_sequence_asks_for_its_last_visit(tmp_path: Path) -> None:
    cine(tmp_path / "a.nii.gz")
    system = model()
    (case,), _ = gather(data(tmp_path, tmp_path / "a.nii.gz"), system)
    example = system.example(case)
    assert example["visits"].shape == (1, FRAMES - 1, 20, 18, 10)
    assert slab(example["target"][0, 0]) == FRAMES - 1
    assert example["valid"].all()
    assert (example["days"] < example["query"]).all()


def test_of_more_frames_than_the_model_has_an_even_spread_is_taken_and_none_interpolated(tmp_path: Path) -> None:
    cine(tmp_path / "a.nii.gz")
    system = model(patch=[20, 20, 12], frames=3)
    (case,), _ = gather(data(tmp_path, tmp_path / "a.nii.gz"), system)
    for n in range(8):
        example = system.example(case, f"0/{n}")
        there = example["visits"][0, example["days"][0] < example["query"]]
        seen = [slab(frame) for frame in there] + [slab(example["target"][0, 0])]
        assert seen in ([0, 2], [0, 2, 4])
        assert float(there.max()) <= 1.0


def test_frames_are_zoomed_in_space_only(tmp_path: Path) -> None:
    cine(tmp_path / "a.nii.gz")
    system = model(patch=[10, 9, 10], resample=[10, 9, 10])
    (case,), _ = gather(data(tmp_path, tmp_path / "a.nii.gz"), system)
    assert case.voxels.shape == (FRAMES, 10, 9, 10)
    assert case.spacing == (2.0, 2.0, 2.0)
    alone = system.prepare_patient(one_frame(tmp_path, 2)).voxels[0]
    assert np.allclose(case.voxels[2], alone, atol=2e-3)  # no other frame is mixed in


def one_frame(folder: Path, index: int) -> Any:
    """A patient who was seen twice alike."""
    from gen3d.data.visits import read_patient

    for day in (0, 10):
        place = folder / "twice" / f"day-{day}" / "mri.nii.gz"
        place.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(frame(index), np.diag([1.0, 1.0, 2.0, 1.0])), place)
    return read_patient(folder / "twice")


@pytest.mark.parametrize("name", ["sadm", "forecast"])
def test_patients_of_different_many_visits_make_a_batch(tmp_path: Path, name: str) -> None:
    from gen3d.core.draws import collate

    for patient, days in (("p1", (0, 100)), ("p2", (0, 50, 365, 400, 900))):
        for index, day in enumerate(days):
            place = tmp_path / "patients" / patient / f"day-{day}" / "mri.nii.gz"
            place.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(frame(index), np.eye(4)), place)
    system = model("smoke_sadm", frames=4) if name == "sadm" else forecast_model()
    cases, _ = gather(data(tmp_path, tmp_path / "patients"), system)
    assert [case.days.tolist() for case in cases] == [[0, 100], [0, 50, 365, 400, 900]]  # type: ignore[union-attr]
    keys = [f"0/{n}" for n in range(6)]
    example, _ = collate([(system.example(cases[n % 2], key), key) for n, key in enumerate(keys)])
    assert example["visits"].shape[:2] == (6, 3)
    assert (example["valid"] & (example["days"] < example["query"][:, None])).any(1).all()
    terms = system.objectives()[0].loss(example, keys)
    assert torch.isfinite(torch.stack(list(terms.values()))).all()


def forecast_model() -> Any:
    from gen3d.nn.unet import UNetConfig
    from gen3d.sequence.forecast import Forecast, ForecastConfig

    network = UNetConfig(40, 8, width=8, multipliers=(1, 2), blocks=1, groups=4, vector=3)
    return Forecast(ForecastConfig(patch=(16, 16, 8), network=network))


def test_the_cache_is_made_anew_where_a_visit_changes(tmp_path: Path) -> None:
    path = cine(tmp_path / "a.nii.gz")
    system, where = model(), data(tmp_path, path)
    before = gather(where, system)[0][0]
    assert gather(where, system)[0][0].days.tolist() == before.days.tolist()  # type: ignore[union-attr]
    cine(path, count=3)
    os.utime(path, ns=(1, 1))
    assert len(gather(where, system)[0][0].voxels) == 3
    (tmp_path / "a.json").write_text('{"times": [0, 7, 30], "unit": "days"}')
    assert gather(where, system)[0][0].days.tolist() == [0, 7, 30]  # type: ignore[union-attr]


def test_a_model_is_trained_on_them(tmp_path: Path) -> None:
    cine(tmp_path / "cine" / "a.nii.gz")
    cine(tmp_path / "cine" / "b.nii.gz")
    source = f"data.sources=[{{path: '{tmp_path / 'cine'}', sequences: true}}]"
    told = [source, "data.phantoms.count=0", f"data.cache={tmp_path / 'cache'}"]
    folder = run_training(packaged_config("smoke_sadm"), told, tmp_path / "run", device="cpu")
    facts = gen3d.load(folder).provenance
    assert (facts["patients"], facts["cases"], facts["phantoms"]) == (2, 2, 0)


def test_what_is_no_sequence_is_refused(tmp_path: Path) -> None:
    cine(tmp_path / "a.nii.gz")
    with pytest.raises(UserError, match="wdm does not learn from sequences"):
        gather(data(tmp_path, tmp_path / "a.nii.gz"), model_of_scans())
    place = tmp_path / "once" / "day-0" / "mri.nii.gz"
    place.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(frame(0), np.eye(4)), place)
    with pytest.raises(UserError, match="once: has one visit; expected at least two"):
        gather(data(tmp_path, tmp_path / "once"), model())
    other = tmp_path / "once" / "day-9" / "mri.nii.gz"
    other.parent.mkdir()
    nib.save(nib.Nifti1Image(frame(1)[:-1], np.eye(4)), other)
    with pytest.raises(UserError, match="lie on different grids"):
        gather(data(tmp_path, tmp_path / "once"), model())


def model_of_scans() -> Any:
    experiment = read_experiment(packaged_config("smoke_wdm"))
    kind = system_class(experiment.system)
    return kind(build(kind.Config, experiment.model))
