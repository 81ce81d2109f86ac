"""``gen3d standardize``: a CT as if it had been reconstructed by the standard kernel, with a report of what changed."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gen3d.core.checkpoint import write_json
from gen3d.core.error import UsageError, UserError
from gen3d.core.volume import Case, Prepared, Volume
from gen3d.data.lone_scans import LoneScan, find_lone_scans
from gen3d.data.nifti import write
from gen3d.latent.diffusionct import DiffusionCT
from gen3d.latent.kernels import HU, KERNELS, Kernel, blurred, kernel
from gen3d.tools.batch import close, one_by_one, outcome
from gen3d.tools.ct_images import Job, beside, read_job
from gen3d.tools.delivery import delivered, forbid_beside, protect
from gen3d.tools.kernel_report import against_truth, agreement, body, errors, features, regions
from gen3d.tools.kernel_walk import Request, chosen_steps, recognised_source, standardised
from gen3d.tools.preview import Panel, draw
from gen3d.tools.record import WARNING, about, description, patients, sidecar, write_record
from gen3d.tools.sampling import OpenModel, finite, open_model

SHOWN_HU = (-1000.0, 400.0)
SIMULATED = (
    "What kernels do was simulated by their modulation transfer and noise, from published and estimated figures; no "
    "vendor's kernel is known exactly."
)
Advance = Callable[[float, str], None]


def standardize(
    source: Path | str,
    out: Path | str,
    model: str | Path = "ct-kernel",
    request: Request | None = None,
    *,
    truth: Path | None = None,
    mask: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    dry_run: bool = False,
    report: Path | None = None,
    advance: Advance = lambda share, words: None,
    done: Callable[[Mapping[str, Any]], None] = lambda row: None,
    failed: Callable[[str, Exception], None] = lambda name, error: None,
    note: Callable[[str], None] = lambda words: None,
) -> list[dict[str, Any]]:
    """Write each CT in another kernel, in HU on its own grid and in its own number format, beside what changed.

    For a CT NAME: ``NAME-B30.nii.gz``, ``NAME-B30_difference.nii.gz`` (after - before), ``NAME-B30.png``, JSON sidecars
    and ``NAME-B30_report.json``. Voxels outside -1024 to 3071 HU (padding, metal) stay as they are.

    Args:
        source: A NIfTI file, a folder of them, or DICOM: a file of a series, or a folder with CT series in or below it.
        out: Output folder.
        model: A folder, shipped name or hub id.
        request: What is asked of it; where it names no source kernel, that of the DICOM header (0018,1210) is taken.
        truth: The same scan in the target kernel, or a folder of these under the same names: the report compares.
        mask: Of the body, or a folder; by default what lies between the outermost tissue.
        device: ``auto``, ``cpu``, ``cuda``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        dry_run: Read and check everything, write nothing.
        report: A JSON file of what became of each case; a dry run writes none.
        advance: Told the share done and what is being done.
        done: Told what became of each image that did not fail.
        failed: Told of every image of several that failed; the others go on.
        note: Told in words what a user should know.

    Raises:
        UserError: A file is no CT in HU, masks or truth do not match, or the model can't do what is asked; of several
            files, some failed.
    """
    source, out, request = Path(source), Path(out), request or Request()
    kernel(request.to)
    if request.source:
        kernel(request.source)
    scans, left = find_lone_scans(source, "CT")
    forbid_beside(out, source)
    opened = open_model(model, device, precision)
    if not isinstance(opened.system, DiffusionCT):
        raise UserError(f"model '{model}': a {opened.system.name} model standardises no CT; use ct-kernel")

    def serve(scan: LoneScan, place: Path, of_all: Callable[[float], None]) -> dict[str, Any]:
        companions = beside(truth, scan.place, "truth"), beside(mask, scan.place, "mask")
        job = read_job(scan, *companions, has_spacing=request.spacing_mm is not None)
        for words in job.notes:
            note(f"{scan.name}: {words}")
        asked, told = with_kernel(request, scan.kernel())
        written = [path.name for path in outputs(out, scan.name, request.to)]
        protect(out, written)
        check(opened, asked)
        if dry_run:
            judged = "" if asked.source else "; its noise will be judged"
            return outcome(scan.name, "checked", source_kernel=f"{told}{judged}")
        return outcome(scan.name, "made", "", written[:2], **made(opened, job, out, asked, told, of_all))

    for words in left:
        note(f"left out: {words}")
    names, flat = [scan.name for scan in scans], [Path()] * len(scans)
    rows = one_by_one(scans, flat, serve, names=names, advance=advance, done=done, failed=failed, note=note)
    if any(row["status"] != "failed" for row in rows):
        note(f"{opened.name}: {patients(opened)}; results are synthetic and not for diagnosis. {SIMULATED}")
    close(rows, out, about(opened), report, dry_run=dry_run)
    return rows


def with_kernel(request: Request, header: str) -> tuple[Request, str]:
    """Return what is asked of one image, with the kernel of its DICOM header where none is told, and what that is.

    Args:
        request: What is asked of all.
        header: The kernel's name in the header, such as "B70f"; empty where there is none.
    """
    if not header:
        return request, kernel(request.source).name if request.source else "not told"
    try:
        own = kernel(header.split("\\")[0]).name
    except UsageError:
        own = ""
    if request.source:
        told = kernel(request.source).name
        return request, told if own == told else f"{told}, though its DICOM header says {header}"
    if not own:
        return request, f"not told (its DICOM header says {header}, none of {', '.join(KERNELS)})"
    return replace(request, source=own), f"{own}, as its DICOM header says ({header})"


def check(model: OpenModel, request: Request) -> None:
    """Check that a model makes the kernel from the start that is asked for, as ``DiffusionCT.asked`` does."""
    nothing = torch.zeros(1, 1, 4, 4, 1, device=model.device)
    assert isinstance(model.system, DiffusionCT)
    if model.system.config.offset_hu:
        raise UserError(f"{model.name}: learnt from files that were not in HU; it standardises none that are")
    model.system.asked({"source": nothing}, request.to, request.source, request.start)


def outputs(out: Path, name: str, to: str) -> list[Path]:
    """Return the files that an image's results are written to: image, difference, picture, report, sidecars."""
    stem = f"{name}-{kernel(to).name}"
    image, difference = out / f"{stem}.nii.gz", out / f"{stem}_difference.nii.gz"
    return [image, difference, out / f"{stem}.png", out / f"{stem}_report.json", sidecar(image), sidecar(difference)]


def made(
    model: OpenModel, job: Job, out: Path, request: Request, told: str, advance: Callable[[float], None]
) -> dict[str, Any]:
    """Standardise one image, whose kernel ``told`` names, write everything and return the report."""
    system = model.system
    assert isinstance(system, DiffusionCT)
    advance(0.0)
    prepared = system.prepare(Case(job.name, {"ct": job.source}))
    if request.spacing_mm:
        mm = request.spacing_mm
        prepared = replace(prepared, spacing=(mm, mm, prepared.spacing[2]))
    found = recognised_source(prepared, request)
    source = {"source_kernel": told if request.source else f"{told}, {described(found)}"}
    with torch.inference_mode():
        image = standardised(model, prepared, request, job.name, advance, found)
    after = native(job, prepared, image)
    report = {**source, **reported(model, job, after, prepared, request)}
    advance(0.9)
    paths = outputs(out, job.name, request.to)
    facts = {
        "contrast": "ct",
        "kernel": kernel(request.to).name,
        **source,
        "start": request.start or system.config.starts[0],
        "steps": chosen_steps(system, request),
        "seed": request.seed,
        "units": "HU",
        "simulation": SIMULATED,
        "sources": [job.source.origin.name] if job.source.origin else [],
        "preview": paths[2].name,
    }
    difference = after.astype(np.float32) - job.source.voxels.astype(np.float32)
    difference = difference if job.integers is None else np.rint(difference).astype(np.int16)
    with delivered(out) as folder:
        for path, voxels, kind in ((paths[0], after, "standardised"), (paths[1], difference, "after - before")):
            volume = Volume(voxels, job.source.affine, "ct")
            words = description(
                model, f"CT in {kernel(request.to).name}" if kind == "standardised" else "CT difference"
            )
            write(volume, folder / path.name, like=job.source, description=words)
            write_record(folder / path.name, model, {**facts, "kind": kind})
        head = {"synthetic": True, "warning": WARNING, "file": paths[0].name, "report_of": paths[0].name}
        write_json(folder / paths[3].name, {**head, **facts, **report, **about_model(model)})
        picture(folder / paths[2].name, model, job, after, difference, request)
    return report


def described(found: Kernel | None) -> str:
    """Say what kernel was read off an image's noise."""
    assert found is not None
    return f"{found.name} by its noise (50 % at {found.mtf50:.1f} lp/cm)"


def about_model(model: OpenModel) -> dict[str, Any]:
    """Return what identifies the model and the version."""
    from gen3d import __version__

    return {"model": about(model), "gen3d": __version__}


def native(job: Job, prepared: Prepared, image: np.ndarray) -> np.ndarray:
    """Bring an image to the file's grid, HU and number format; what CT can't store stays as it was."""
    assert prepared.placement is not None
    scale = prepared.scales[0]
    assert scale is not None
    hu = prepared.placement.place(scale.invert(finite(image, job.name)))
    before = job.source.voxels
    hu = np.where((before < HU[0]) | (before > HU[1]), before, np.clip(hu, *HU))
    return hu.astype(np.float32) if job.integers is None else np.rint(hu).astype(job.integers)


def reported(model: OpenModel, job: Job, after: np.ndarray, prepared: Prepared, request: Request) -> dict[str, Any]:
    """Compare before and after, and both with the truth where there is one, slices along the model's third axis."""
    place = prepared.placement
    assert place is not None
    before, image = (place.take(v.astype(np.float32)) for v in (job.source.voxels, after))
    inside = body(before) if job.mask is None else place.take(job.mask.astype(np.float32)) > 0
    where = regions(inside)
    found = agreement(features(before, where), features(image, where)) if len(where) > 1 else None
    report: dict[str, Any] = {
        "body": "the mask that was given" if job.mask is not None else "between the outermost tissue of rows, columns",
        "before_after": {
            "regions": len(where),
            "change_hu": errors(before, image, inside),
            "concordance": found.tree() if found else None,
        },
    }
    if job.truth is not None:
        true = place.take(job.truth.voxels)
        told = model.system.provenance.get("blur_sigma_mm", {})
        sigma = told.get(kernel(request.source).name if request.source else "all")
        rows = {"untouched": before, "standardised": image}
        if sigma is not None:
            blur = blurred(torch.from_numpy(before), prepared.spacing[:2], sigma).numpy()
            rows[f"Gaussian blur, sigma {sigma} mm, fitted to simulated pairs"] = blur
        report["against_truth"] = against_truth(true, rows, inside)
    return report


def picture(
    path: Path, model: OpenModel, job: Job, after: np.ndarray, difference: np.ndarray, request: Request
) -> None:
    """Draw before, after, their difference and the truth."""
    like = job.source

    def panel(voxels: np.ndarray, title: str, **more: Any) -> Panel:
        return Panel(Volume(voxels.astype(np.float32), like.affine), title, **more)

    end = max(20.0, float(np.percentile(np.abs(difference), 99.5)))
    panels = [
        panel(like.voxels, f"given ({request.source or 'kernel not told'})", limits=SHOWN_HU),
        panel(after, f"in {kernel(request.to).name}", synthetic=True, limits=SHOWN_HU),
        panel(difference, "after - before, HU", synthetic=True, kind="difference", limits=(-end, end)),
    ]
    if job.truth is not None:
        panels.append(panel(job.truth.voxels, "truth", limits=SHOWN_HU))
    footer = f"Framed columns are synthetic, made by {model.name} ({patients(model)}). Not for diagnosis.\n{SIMULATED}"
    draw(path, panels, f"{job.name}: CT in kernel {kernel(request.to).name}", footer, like.voxels > -500)
