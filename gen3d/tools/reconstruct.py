"""``gen3d reconstruct``: a scan from sparse projections or an undersampled spectrum, which are simulated from it."""

from collections.abc import Callable, Mapping
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
from gen3d.data.measurement import SIMULATED, TASKS, Acquisition, Measurement, measure
from gen3d.data.nifti import ENDINGS, read, without_ending, write
from gen3d.data.total_variation import tuned_total_variation
from gen3d.data.undersampling import Pattern
from gen3d.latent.ct import accept_hu
from gen3d.tools.delivery import delivered, forbid_beside, protect
from gen3d.tools.outcomes import put
from gen3d.tools.reconstruction_report import Reconstructed, Scores, score, show, table
from gen3d.tools.record import description, write_record
from gen3d.tools.sampling import OpenModel, choose_walk, open_model, to_device

MODELS = {"sparse-ct": "ct-recon", "mri": "mri-recon"}
CLASSICAL = 200  # iterations of total variation, shown beside ours; far from its limit at few views
ROUGH = {"sparse-ct": "filtered back-projection", "mri": "zero-filling"}
TABLE = "reconstruction.csv"


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
    advance: Callable[[float, str], None] = lambda done, words: None,
    failed: Callable[[str, Exception], None] = lambda scan, error: None,
    note: Callable[[str], None] = lambda words: None,
) -> list[Reconstructed]:
    """Simulate a sparse measurement of each scan and reconstruct it into ``out``, with sidecar, picture and table.

    The measurements are computed from the given magnitude image, with white noise of the stated level, and the image is
    all there is: nothing lies outside. Filtered back-projection or zero-filling, and total variation with the weight
    that was best on the training scans, stand beside.

    Args:
        source: A NIfTI file, or a folder of them.
        out: Not the input folder nor in it.
        acquisition: What is measured.
        model: A folder, shipped name or hub id; by default the shipped one for the task.
        mode: ``mean``: the expected image; ``sample``: a plausible one.
        seed: Of the noise and the sample.
        device: ``auto``, ``cpu``, ``cuda``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        advance: Told the share done and what is being done.
        failed: Told of every scan of several that failed; the others go on.
        note: Told in words what a user should know.

    Raises:
        UserError: A single scan failed, or some of several did.
    """
    if mode not in ("mean", "sample"):
        raise UsageError(f"mode '{mode}': expected mean or sample{nearest(mode, ('mean', 'sample'))}")
    source, out = Path(source), Path(out)
    forbid_beside(out, source)
    scans = find_scans(source)
    loaded = open_model(model or MODELS[acquisition.task], device, precision)
    if measured(loaded.system) != acquisition.task:
        raise UserError(f"{loaded.name}: reconstructs no {acquisition.task}; choose another --model or --task")
    note(f"{loaded.name}: {SIMULATED}; results are synthetic and not for diagnosis")
    rows: list[Reconstructed] = []
    failures = 0
    for index, scan in enumerate(scans):

        def of_all(share: float, words: str, index: int = index) -> None:
            advance((index + share) / len(scans), words)

        try:
            rows.append(reconstruct_scan(scan, out, acquisition, loaded, mode, seed, of_all))
            put(out / TABLE, table(rows), "part")
        except UserError as error:
            if len(scans) == 1:
                raise
            failures += 1
            failed(scan.name, error)
    if failures:
        raise UserError(f"{len(scans)} scans, {failures} failed; the others are in {out}")
    return rows


def measured(system: System) -> str | None:
    """Return the task of a model that reconstructs; what another one does, or None."""
    config = system.config
    task: str | None = getattr(config, "task", None) or getattr(getattr(config, "acquisitions", None), "task", None)
    return task


def asked(task: str, views: int, acceleration: float, mask: str, noise: float) -> Acquisition:
    """Return the acquisition that options ask for.

    Raises:
        UsageError: They ask for something else.
    """
    if task not in TASKS:
        raise UsageError(f"task '{task}': expected {' or '.join(TASKS)}{nearest(task, TASKS)}")
    if mask not in get_args(Pattern):
        raise UsageError(f"mask '{mask}': expected {' or '.join(get_args(Pattern))}{nearest(mask, get_args(Pattern))}")
    return Acquisition(task, views, acceleration, mask, noise=noise)  # type: ignore[arg-type]


def find_scans(source: Path) -> list[Path]:
    """Return one NIfTI file, or those in a folder.

    Raises:
        UserError: There is none.
    """
    if source.is_file():
        return [source]
    inside = sorted(source.iterdir()) if source.is_dir() else []
    found = [p for p in inside if p.name.lower().endswith(ENDINGS) and p.name[0] != "."]
    if not found:
        raise UserError(f"{source}: no NIfTI file there; expected a scan (.nii or .nii.gz) or a folder of them")
    return found


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


@torch.inference_mode()
def reconstruct_scan(
    path: Path,
    out: Path,
    acquisition: Acquisition,
    model: OpenModel,
    mode: str,
    seed: int,
    advance: Callable[[float, str], None],
) -> Reconstructed:
    """Measure, reconstruct and write one scan."""
    system = model.system
    air = float(getattr(system, "air", 0.0))  # what a measurement of nothing is taken of
    advance(0.0, f"{path.name}: measuring")
    scan = read(path)
    accept(scan, acquisition)
    name = without_ending(path)
    target = f"{name}_reconstructed.nii.gz"
    protect(out, [target])
    contrast = system.config.contrasts[0]
    example = to_device(system.example(Case(name, {contrast: scan})), model.device)
    spacing = example["prepared"].spacing
    key = derive(seed, name)
    measurement = measure(example["voxels"] - air, acquisition, key, (spacing[0], spacing[1]))
    images = {ROUGH[acquisition.task]: measurement.operator.pseudo_inverse(measurement.measured) + air}
    advance(0.05, f"{path.name}: total variation")
    images[f"total variation, {CLASSICAL} iterations"] = tuned_total_variation(measurement, CLASSICAL) + air
    advance(0.5, f"{path.name}: reconstructing")
    example = {**example, "measurement": measurement}
    images[model.name] = system.finish(made(system, example, measurement, mode, key), example)
    volumes = {method: on_file_grid(image, scan, example) for method, image in images.items()}
    given = on_file_grid(example["voxels"], scan, example)
    scores = Scores({method: score(volume, given, acquisition) for method, volume in volumes.items()})
    advance(0.9, f"{path.name}: writing")
    result = volumes[model.name]
    with delivered(out, [name]) as folder:
        write(result, folder / target, like=scan, description=description(model, contrast))
        picture = f"{name}_reconstructed.png"
        show(folder / picture, given, volumes, model.name, acquisition, scores)
        about = {"contrast": name, "source": path.name, **acquisition.facts(), "mode": mode, "seed": seed}
        figures = {m: {"psnr_db": round(p, 2), "ssim": round(s, 4)} for m, (p, s) in scores.items()}
        write_record(folder / target, model, {**about, "against_given_image": figures, "preview": picture})
    return Reconstructed(name, out / target, scores)


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
