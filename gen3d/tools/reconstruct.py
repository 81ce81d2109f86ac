"""``gen3d reconstruct``: a scan from sparse projections or an undersampled spectrum, which are simulated from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from gen3d.core.error import UsageError, UserError, nearest
from gen3d.core.randomness import derive, normal_on
from gen3d.core.system import System
from gen3d.core.volume import Case, Volume
from gen3d.data.envelope import departures
from gen3d.data.lone_scans import LoneScan, find_lone_scans
from gen3d.data.measurement import SIMULATED, TASKS, Acquisition, Measurement, measure
from gen3d.data.nifti import write
from gen3d.data.total_variation import tuned_total_variation
from gen3d.data.undersampling import Pattern
from gen3d.latent.ct import accept_hu
from gen3d.tools.batch import close, one_by_one, outcome
from gen3d.tools.delivery import delivered, forbid_beside, protect
from gen3d.tools.outcomes import put
from gen3d.tools.reconstruction_report import Scores, score, show, table
from gen3d.tools.record import about, description, patients, write_record
from gen3d.tools.sampling import OpenModel, choose_walk, open_model, to_device

MODELS = {"sparse-ct": "ct-recon", "mri": "mri-recon"}
CLASSICAL = 200  # iterations of total variation, shown beside ours; far from its limit at few views
ROUGH = {"sparse-ct": "filtered back-projection", "mri": "zero-filling"}
TABLE, NIFTI = "reconstruction.csv", ".nii.gz"


def reconstruct(
    source: Path | str,
    out: Path | str,
    acquisition: Acquisition,
    model: str | Path | None = None,
    mode: Literal["mean", "sample"] = "mean",
    *,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    dry_run: bool = False,
    report: Path | None = None,
    advance: Callable[[float, str], None] = lambda done, words: None,
    done: Callable[[Mapping[str, Any]], None] = lambda row: None,
    failed: Callable[[str, Exception], None] = lambda scan, error: None,
    note: Callable[[str], None] = lambda words: None,
) -> list[dict[str, Any]]:
    """Simulate a sparse measurement of each scan and reconstruct it into ``out``, with sidecar, picture and table.

    The measurements are computed from the given magnitude image, with white noise of the stated level, and the image is
    all there is: nothing lies outside. Filtered back-projection or zero-filling, and total variation with the weight
    that was best on the training scans, stand beside.

    Args:
        source: A NIfTI file, a folder of them, or DICOM: a file of a series, or a folder with series in or below it, of
            CT or MR as the task is.
        out: Not the input folder nor in it.
        acquisition: What is measured.
        model: A folder, shipped name or hub id; by default the shipped one for the task.
        mode: ``mean``: the expected image; ``sample``: a plausible one.
        seed: Of the noise and the sample.
        device: ``auto``, ``cpu``, ``cuda``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        dry_run: Read and check everything, write nothing.
        report: A JSON file of what became of each case; a dry run writes none.
        advance: Told the share done and what is being done.
        done: Told what became of each scan that did not fail.
        failed: Told of every scan of several that failed; the others go on.
        note: Told in words what a user should know.

    Raises:
        UserError: A single scan failed, or some of several did.
    """
    if mode not in ("mean", "sample"):
        raise UsageError(f"mode '{mode}': expected mean or sample{nearest(mode, ('mean', 'sample'))}")
    source, out = Path(source), Path(out)
    forbid_beside(out, source)
    scans, left = find_lone_scans(source, "CT" if acquisition.task == "sparse-ct" else "MR")
    loaded = open_model(model or MODELS[acquisition.task], device, precision)
    if measured(loaded.system) != acquisition.task:
        raise UserError(f"{loaded.name}: reconstructs no {acquisition.task}; choose another --model or --task")
    finished: list[Mapping[str, Any]] = []

    def serve(scan: LoneScan, place: Path, of_all: Callable[[float], None]) -> dict[str, Any]:
        volume = scan.read()
        accept(volume, acquisition)
        target = f"{scan.name}_reconstructed{NIFTI}"
        protect(out, [target])
        unlike = unlike_training(loaded, scan.name, volume)
        facts = {"task": acquisition.task, "measured": acquisition.words()}
        if dry_run:
            return outcome(scan.name, "checked", "; ".join(unlike), **facts)
        scores = reconstruct_scan(scan, volume, out, acquisition, loaded, mode, seed, unlike, of_all)
        status = "outside" if unlike else "made"
        return outcome(scan.name, status, "; ".join(unlike), [target], **facts, scores=scores)

    def told(row: Mapping[str, Any]) -> None:
        if not dry_run:
            finished.append(row)
            put(out / TABLE, table(finished), "part")
        done(row)

    for words in left:
        note(f"left out: {words}")
    names, flat = [scan.name for scan in scans], [Path()] * len(scans)
    rows = one_by_one(scans, flat, serve, names=names, advance=advance, done=told, failed=failed, note=note)
    if any(row["status"] != "failed" for row in rows):
        note(f"{loaded.name}: {patients(loaded)}; results are synthetic and not for diagnosis. {SIMULATED}")
    close(rows, out, about(loaded), report, dry_run=dry_run)
    return rows


def measured(system: System) -> str | None:
    """Return the task of a model that reconstructs; what another one does, or None."""
    config = system.config
    task: str | None = getattr(config, "task", None) or getattr(getattr(config, "acquisitions", None), "task", None)
    return task


def asked(task: str, views: int, acceleration: float, pattern: str, noise: float) -> Acquisition:
    """Return the acquisition that options ask for.

    Raises:
        UsageError: They ask for something else.
    """
    if task not in TASKS:
        raise UsageError(f"task '{task}': expected {' or '.join(TASKS)}{nearest(task, TASKS)}")
    if pattern not in (known := get_args(Pattern)):
        raise UsageError(f"pattern '{pattern}': expected {' or '.join(known)}{nearest(pattern, known)}")
    return Acquisition(task, views, acceleration, pattern, noise=noise)  # type: ignore[arg-type]


def accept(volume: Volume, acquisition: Acquisition) -> None:
    """Check that a scan is of the kind that the task measures.

    Raises:
        UserError: It is not.
    """
    if acquisition.task == "sparse-ct":
        accept_hu(volume)
    elif (share := float(np.mean(volume.voxels < 0))) > 0.2:
        raise UserError(
            f"{volume.origin}: {share:.0%} of its voxels are negative, so it is no magnitude image; expected MRI; "
            "for a CT use --task sparse-ct"
        )


def unlike_training(model: OpenModel, name: str, scan: Volume) -> tuple[str, ...]:
    """Say in which way a scan is unlike the model's training set, as that of its contrasts which it is most like."""
    known, contrasts = model.system.provenance.get("envelope", {}), model.system.config.contrasts
    each = (departures(model.system.prepare(Case(name, {c: scan})), contrasts, known) for c in contrasts)
    return min(each, key=len)


@torch.inference_mode()
def reconstruct_scan(
    lone: LoneScan,
    scan: Volume,
    out: Path,
    acquisition: Acquisition,
    model: OpenModel,
    mode: str,
    seed: int,
    unlike: Sequence[str],
    advance: Callable[[float], None],
) -> dict[str, dict[str, float]]:
    """Measure, reconstruct and write one scan; return PSNR and SSIM against it of every method, ours last."""
    system = model.system
    air = float(getattr(system, "air", 0.0))  # what a measurement of nothing is taken of
    name, target = lone.name, f"{lone.name}_reconstructed{NIFTI}"
    contrast = system.config.contrasts[0]
    example = to_device(system.example(Case(name, {contrast: scan})), model.device)
    spacing = example["prepared"].spacing
    key = derive(seed, name)
    measurement = measure(example["voxels"] - air, acquisition, key, (spacing[0], spacing[1]))
    images = {ROUGH[acquisition.task]: measurement.operator.pseudo_inverse(measurement.measured) + air}
    advance(0.05)
    images[f"total variation, {CLASSICAL} iterations"] = tuned_total_variation(measurement, CLASSICAL) + air
    advance(0.5)
    example = {**example, "measurement": measurement}
    images[model.name] = system.finish(made(system, example, measurement, mode, key), example)
    volumes = {method: on_file_grid(image, scan, example) for method, image in images.items()}
    given = on_file_grid(example["voxels"], scan, example)
    scores = Scores({method: score(volume, given, acquisition) for method, volume in volumes.items()})
    advance(0.9)
    result = volumes[model.name]
    figures = {method: {"psnr_db": round(p, 2), "ssim": round(s, 4)} for method, (p, s) in scores.items()}
    with delivered(out, [name]) as folder:
        write(result, folder / target, like=scan, description=description(model, contrast))
        picture = f"{name}_reconstructed.png"
        show(folder / picture, given, volumes, model.name, acquisition, scores)
        facts = {"contrast": name, "source": lone.place.name, **acquisition.facts(), "mode": mode, "seed": seed}
        found = {"outside_training": list(unlike), "against_given_image": figures, "preview": picture}
        write_record(folder / target, model, {**facts, **found})
    return figures


def made(system: System, example: Mapping[str, Any], measurement: Measurement, mode: str, key: str) -> Tensor:
    """Return the coordinates of the expected image or of a plausible one, both in agreement with the measurement."""
    condition = system.condition(dict(example))
    denoise = system.denoise(condition, [key], measurement)  # type: ignore[call-arg]
    if mode == "mean":
        sigma = torch.tensor(system.config.parameterization.levels.sigma_max, dtype=torch.float64)
        return denoise(torch.zeros_like(system.start(dict(example), [key], 1.0)), sigma)
    walk = choose_walk(system)
    x = system.start(dict(example), [key], walk.sigma)

    def noise(x: Tensor) -> Tensor:
        return normal_on(x.device, [derive(key, "step")], x.shape[1:])

    return walk.run(denoise, x, noise, lambda *_: None)


def on_file_grid(image: Tensor, scan: Volume, example: Mapping[str, Any]) -> Volume:
    """Bring an image on the model's scale and grid to the file's."""
    prepared = example["prepared"]
    scale = prepared.scales[int(np.flatnonzero(prepared.present)[0])]
    return replace(scan, voxels=prepared.placement.place(scale.invert(image[0, 0].float().cpu().numpy())))
