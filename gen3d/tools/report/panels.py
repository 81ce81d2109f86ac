"""Which panels show a case, side by side, and their volumes, as large as the page may become."""

from collections.abc import Sequence
from dataclasses import dataclass

from gen3d.core.error import UserError
from gen3d.core.volume import Volume
from gen3d.tools.report.found import Case
from gen3d.tools.report.images import KINDS, ROLES, Image, Kind, Role
from gen3d.tools.report.originals import Shown
from gen3d.tools.report.voxels import COARSEST, Grid, Packed, focus, grids, packed


@dataclass(frozen=True)
class Panel:
    """One of the pictures that stand side by side.

    Attributes:
        title: Above it.
        role: What it is to a reader.
        kind: How it is painted.
        synthetic: Whether a model had a hand in what is painted or lies under it.
        images: Numbers of the volumes, several where one is chosen from or all are outlined.
        under: Number of the grey volume below, if any.
    """

    title: str
    role: Role
    kind: Kind
    synthetic: bool
    images: tuple[int, ...]
    under: int | None

    @property
    def heading(self) -> str:
        """The word above the title: a probability says so, and not that it is a kind of uncertainty."""
        return "probability" if self.kind == "probability" and self.role == "uncertainty" else self.role


@dataclass(frozen=True, eq=False)
class Ready:
    """A case as the page shows it.

    Attributes:
        case: Which.
        images: What is shown.
        volumes: Their voxels, in the same order.
        panels: That show them.
        notes: What a reader should know.
        start: Where to look first, in mm.
    """

    case: Case
    images: tuple[Image, ...] = ()
    volumes: tuple[Packed, ...] = ()
    panels: tuple[Panel, ...] = ()
    notes: tuple[str, ...] = ()
    start: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """Bytes that it takes in the page."""
        return sum(len(volume.content) for volume in self.volumes)


def ready(case: Case, shown: Shown, room: int, *, coarse: bool) -> Ready | None:
    """Return a case as the page shows it, or None where there is no room for it.

    Args:
        case: Which.
        shown: Its images, given and made.
        room: Bytes that it may take; samples beyond it are left out.
        coarse: Whether voxels may be left out to make it fit.
    """
    loaded, notes = load(shown)
    if not loaded:
        return Ready(case, notes=tuple(notes))
    boxes = grids([volume for _, volume in loaded])
    first = [(image, volume) for image, volume in loaded if not image.group]
    first = first or loaded[:1]
    for step in range(1, (COARSEST if coarse else 1) + 1):
        kept = [(image, fitted(image, volume, boxes, step)) for image, volume in first]
        used = sum(len(volume.content) for _, volume in kept)
        if used <= room:
            break
    else:
        return None
    if step > 1:
        notes.append(f"every {step}. voxel along each axis is shown, so that the page stays small")
    left = 0
    for image, volume in loaded:
        if all(image is not there for there, _ in kept):
            more = fitted(image, volume, boxes, step)
            if used + len(more.content) > room:
                left += 1
                continue
            used += len(more.content)
            kept.append((image, more))
    if left:
        notes.append(f"{left} samples are left out, so that the page stays small; they are in {case.folder}")
    order = {id(image): index for index, (image, _) in enumerate(loaded)}
    kept.sort(key=lambda pair: (*place(pair[0]), order[id(pair[0])]))
    images = tuple(image for image, _ in kept)
    there = {id(image): volume for image, volume in loaded}
    return Ready(
        case,
        images,
        tuple(volume for _, volume in kept),
        tuple(laid_out(images, [there[id(image)] for image in images])),
        tuple(notes),
        tuple(focus([(image, there[id(image)]) for image in images])),
    )


def place(image: Image) -> tuple[int, bool, int]:
    """Return what sorts images: by role, samples behind what they amount to, colours behind grey."""
    return ROLES.index(image.role), bool(image.group), KINDS.index(image.kind)


def load(shown: Shown) -> tuple[list[tuple[Image, Volume]], list[str]]:
    """Read the images that can be read; say which can't."""
    loaded: list[tuple[Image, Volume]] = []
    notes = list(shown.notes)
    for image in shown.images:
        try:
            loaded.append((image, image.volume()))
        except UserError as error:
            notes.append(str(error))
    return loaded, notes


def fitted(image: Image, volume: Volume, boxes: Sequence[Grid], step: int) -> Packed:
    """Return a volume as the page holds it, cropped as all on its grid."""
    grid = next(grid for grid in boxes if grid.like.on_grid_of(volume))
    return packed(volume, image.kind, grid, step)


def laid_out(images: Sequence[Image], volumes: Sequence[Volume]) -> list[Panel]:
    """Return the panels of a case: one for each image, one for each group of samples."""
    panels: list[Panel] = []
    done: set[str] = set()
    for index, image in enumerate(images):
        if image.group in done:
            continue
        members = [i for i, other in enumerate(images) if image.group and other.group == image.group] or [index]
        title = f"{len(members)} {image.group.removeprefix(f'{len(members)} ')}" if image.group else image.title
        under = below(image, volumes[index], images, volumes)
        synthetic = image.synthetic or (under is not None and images[under].synthetic)
        panels.append(Panel(title, image.role, image.kind, synthetic, tuple(members), under))
        done |= {image.group} - {""}
    return panels


def below(image: Image, volume: Volume, images: Sequence[Image], volumes: Sequence[Volume]) -> int | None:
    """Return the number of the grey image that colours lie on: what was segmented, or what is unsure."""
    if image.kind == "image":
        return None
    of_masks = "segmented" in image.record or any("segmented" in other.record for other in images)
    roles: tuple[Role, ...] = ("input",) if of_masks else ("output", "input")
    for role in roles:
        for index, other in enumerate(images):
            if other.role == role and other.kind == "image" and volumes[index].on_grid_of(volume):
                return index
    return None
