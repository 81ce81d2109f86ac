"""From a model's images of one case to files: NIfTI on the case's own grids, sidecars, a picture."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from gen3d import __version__
from gen3d.core.volume import Prepared, Scale, Volume
from gen3d.data.alignment import back, save_transform
from gen3d.data.layout import titled
from gen3d.data.nifti import write
from gen3d.data.prepare import foreground
from gen3d.tools.least_certain import NOT_ESTIMATED, Region, apart, least_certain
from gen3d.tools.outcomes import OUTSIDE
from gen3d.tools.preview import Panel, draw
from gen3d.tools.record import description, patients, write_record
from gen3d.tools.reliability import Hidden, expected_psnr
from gen3d.tools.request import Plan, Request, on_grid, sample_suffix
from gen3d.tools.sampling import OpenModel, Walk, finite

UNITS = "0 to 1000 over the model's window"


class Scans:
    """Turns a model's images of one case into files."""

    def __init__(
        self,
        plan: Plan,
        model: OpenModel,
        request: Request,
        walk: Walk | None,
        folder: Path,
        prepared: Prepared,
        found: Mapping[str, Hidden],
    ) -> None:
        self.plan, self.model, self.request, self.walk, self.folder = plan, model, request, walk, folder
        self.first = next(iter(plan.case.volumes.values()))
        self.mask = foreground(plan.case.volumes.values())
        assert prepared.placement is not None
        self.placement = prepared.placement
        self.scale = model.system.config.intensity.fit(request.like.voxels) if request.like else None
        self.several = request.samples > 1
        self.found = found
        usual = model.system.provenance.get("usual_psnr", {})
        self.expected = {n: round(v, 2) for n, v in expected_psnr(found, usual, plan.missing).items()}
        self.doubt: dict[str, float] = {}
        self.regions: dict[str, Region] = {}
        self.sums: dict[str, np.ndarray] = {}
        self.squares: dict[str, np.ndarray] = {}
        self.shown: list[Panel] = []
        self.brain = self.write_mask()

    def take(self, index: int, images: Mapping[str, np.ndarray]) -> None:
        """Take in one image of each missing contrast."""
        for contrast, image in images.items():
            voxels = self.native(contrast, finite(image, f"{self.plan.source}, {contrast}"))
            if not self.several:
                self.deliver(contrast, voxels, "", self.kind, {"least_certain": NOT_ESTIMATED[self.request.mode]})
                self.shown.append(Panel(self.volume(contrast, voxels), titled(contrast), synthetic=True))
                continue
            self.write(contrast, voxels, sample_suffix(index), "sample", {"sample": index + 1})
            wide = voxels.astype(np.float64)
            if index == 0:
                self.sums[contrast], self.squares[contrast] = wide, wide**2
            else:
                self.sums[contrast] += wide
                self.squares[contrast] += wide**2

    def finish(self) -> None:
        """Write what needs all samples, what brought contrasts into register, and the picture."""
        for contrast, matrix in self.plan.transforms.items():
            save_transform(matrix, self.folder / self.plan.transform_name(contrast))
        count = self.request.samples
        for contrast, total in self.sums.items():
            mean = total / count
            spread = np.sqrt(np.maximum(self.squares[contrast] / count - mean**2, 0) * count / (count - 1))
            self.doubt[contrast] = round(100 * float(spread[self.mask].mean()) / self.width, 2)
            both = {"": mean.astype(np.float32), "_std": spread.astype(np.float32)}
            region = least_certain(both["_std"], self.mask, self.first.affine, self.width)
            if region:
                self.regions[contrast] = region
            facts = self.told_apart(both["_std"])
            self.deliver(contrast, both[""], "", "mean of samples", facts)
            self.deliver(contrast, both["_std"], "_std", "standard deviation of samples", facts)
            std, ring = f"{titled(contrast)}, std", region.voxel if region else None
            self.shown += [
                Panel(self.volume(contrast, both[""]), f"{titled(contrast)}, mean of {count}", synthetic=True),
                Panel(self.volume(contrast, both["_std"]), std, synthetic=True, kind="std", ring=ring),
            ]
        self.draw()

    def told_apart(self, spread: np.ndarray) -> dict[str, Any]:
        """Return how uncertain the lesion is beside the rest, where it is known."""
        lesion = self.plan.case.lesion
        if lesion is None or not lesion.voxels.any():
            return {}
        return {"lesion_std_percent_of_window": apart(spread, self.mask, lesion.voxels > 0, self.width)}

    @property
    def kind(self) -> str:
        """What a single image is."""
        return "expected image" if self.walk is None else "sample"

    @property
    def width(self) -> float:
        """How wide the window is in what is written."""
        return 1000.0 if self.scale is None else self.scale.high - self.scale.low

    def native(self, contrast: str, image: np.ndarray) -> np.ndarray:
        """Bring an image from the model's grid and scale to the file's, float32, 0 outside the foreground."""
        if self.scale is None or self.request.like is None:
            voxels = thousandths(image, self.model.system.window(contrast))
        else:
            voxels = on_scale(image, self.scale, self.request.like)
        return np.where(self.mask, self.placement.place(voxels), np.float32(0))

    def volume(self, contrast: str, voxels: np.ndarray) -> Volume:
        """Return voxels with their place in the world."""
        return Volume(voxels, self.first.affine, contrast)

    def deliver(self, contrast: str, voxels: np.ndarray, suffix: str, kind: str, facts: Mapping[str, Any]) -> None:
        """Write one scan, and once more for each contrast that was moved, on its own grid."""
        region = self.regions.get(contrast)
        least = {"least_certain": region.facts(self.first.affine)} if region else {}
        self.write(contrast, voxels, suffix, kind, {**facts, **least})
        for name, native in self.plan.natives.items():
            matrix = self.plan.transforms.get(name, np.eye(4))
            moved = back(self.volume(contrast, voxels), matrix, native)
            least = {"least_certain": region.facts(native.affine, matrix)} if region else {}
            grid = {
                "of": native.origin.name if native.origin else name,
                "from": self.plan.name(contrast, suffix),
                "transform": self.plan.transform_name(name) if name in self.plan.transforms else None,
                "interpolation": "linear, means where voxels are larger, 0 outside",
            }
            self.write(contrast, moved.voxels, suffix + on_grid(name), kind, {**facts, **least, "grid": grid}, native)

    def write(
        self,
        contrast: str,
        voxels: np.ndarray,
        suffix: str,
        kind: str,
        facts: Mapping[str, Any],
        native: Volume | None = None,
    ) -> None:
        """Write one scan and its sidecar, by default on the first contrast's grid."""
        path, like = self.folder / self.plan.name(contrast, suffix), native or self.first
        write(Volume(voxels, like.affine, contrast), path, like=like, description=description(self.model, contrast))
        write_record(path, self.model, {**self.facts(contrast), "kind": kind, **facts})

    def write_mask(self) -> dict[str, Any]:
        """Write the mask of the brain that an extractor found, if one did, and return what sidecars say of it."""
        found = self.plan.extracted
        if found is None:
            return {}
        path = self.folder / self.plan.mask_name
        words = f"brain mask by {found.by}; gen3d {__version__}"
        write(Volume(found.mask.astype(np.uint8), self.first.affine), path, like=self.first, description=words)
        return {"by": found.by, "of": found.of, "file": path.name, "sha256": sha256(path.read_bytes()).hexdigest()}

    def facts(self, contrast: str) -> dict[str, Any]:
        """Return what every sidecar of a contrast says."""
        walk, request = self.walk, self.request
        like = request.like.origin if request.like else None
        transforms = [self.plan.transform_name(name) for name in self.plan.transforms]
        return {
            "contrast": contrast,
            "mode": request.mode,
            "seed": request.seed,
            "sampler": walk.sampler if walk else None,
            "steps": walk.steps if walk else 1,
            "samples": request.samples,
            "sources": [v.origin.name for v in self.plan.case.volumes.values() if v.origin],
            "hidden": list(self.plan.hidden),
            "intensity": f"that of {like.name}" if like else UNITS,
            **({"foretold": {name: round(h.explained, 4) for name, h in self.found.items()}} if self.found else {}),
            **({"expected_psnr": self.expected[contrast]} if contrast in self.expected else {}),
            **({"transforms": transforms} if transforms else {}),
            **({"mask": self.brain} if self.brain else {}),
            **({"warnings": list(self.plan.warnings)} if self.plan.warnings else {}),
            "preview": self.plan.preview,
        }

    def draw(self) -> None:
        """Write the picture."""
        given = [Panel(volume, titled(name)) for name, volume in self.plan.case.volumes.items()]
        title = f"{self.plan.case.name}: synthetic {', '.join(titled(name) for name in self.plan.missing)}"
        footer = f"Framed columns are synthetic, made by {self.model.name} ({patients(self.model)}). Not for diagnosis."
        focus = None
        if self.regions:
            focus = np.zeros(self.mask.shape, dtype=bool)
            focus[max(self.regions.values(), key=lambda region: region.std_percent).voxel] = True
            footer += " Ring: where the samples differ most."
        alarm = OUTSIDE if self.plan.warnings else ""
        footer = "\n".join([*self.plan.warnings, footer])
        draw(self.folder / self.plan.preview, [*given, *self.shown], title, footer, self.mask, focus, alarm)


def thousandths(image: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Bring an image from the model's scale to 0 ... 1000 over its window, float32; what is brighter stays so."""
    low, high = window
    scaled: np.ndarray = np.maximum((image - np.float32(low)) * np.float32(1000 / (high - low)), 0)
    return scaled


def on_scale(image: np.ndarray, scale: Scale, like: Volume) -> np.ndarray:
    """Bring an image from the model's scale to that of a scan, no darker than the scan itself."""
    return np.maximum(scale.invert(image), np.float32(like.voxels.min()))
