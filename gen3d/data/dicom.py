"""Studies as scanners send them: folders of DICOM series, told apart by their headers."""

import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gen3d.core.error import UserError
from gen3d.core.volume import Naming, Volume
from gen3d.data.aliases import Vocabulary, is_without_contrast, says_native
from gen3d.data.dicom_stack import INSTALL, Header, installed, number_of, read, read_header, text_of
from gen3d.data.study import ALIASES_HELP, Study, few, own_name

_SUFFIXES = (".dcm", ".ima", ".dicom", "")
_NO_SCAN = re.compile(  # a word of ImageType
    "LOCALIZER|ADC|MIP|MINIP|MNIP|MIN IP|PROJECTION IMAGE|SUB(TRACTION)?|PERFUSION|TTP|CBF|CBV|MTT|TRACEW|FA|DIFFUSION|"
    "P|PHASE|PHASE[_ ]MAP|REAL|IMAGINARY|SCREENSHOT|SCREEN SAVE"
)
_LEAST_SLICES = 5  # fewer are a localizer, or one slice that was measured to plan the others


@dataclass(frozen=True)
class Series:
    """One series: its first file's header, and its files."""

    header: Header
    files: tuple[Path, ...]

    @property
    def description(self) -> str:
        """What the scanner, or who sat at it, called it."""
        return text_of(self.header, "SeriesDescription") or text_of(self.header, "ProtocolName")

    @property
    def image_type(self) -> set[str]:
        """The words of its image type, in capitals."""
        value = self.header["ImageType"] or []
        return {str(word).upper() for word in ([value] if isinstance(value, str) else value)}

    @property
    def slices(self) -> int:
        """How many images it holds."""
        return len(self.files) * int(number_of(self.header["NumberOfFrames"], 1))

    @property
    def rank(self) -> tuple[bool, float, float, int, int]:
        """The best sorts first: as measured, thinnest slices, finest pixels, most slices, first in time."""
        thickness = number_of(self.header["SliceThickness"], math.inf)
        pixel = min((number_of(mm, math.inf) for mm in self.header["PixelSpacing"] or ()), default=math.inf)
        number = int(number_of(self.header["SeriesNumber"], 0))
        return "DERIVED" in self.image_type, round(max(thickness, pixel), 1), pixel, -self.slices, number

    @property
    def place(self) -> Path:
        """Its folder, or its first file where others lie in that folder."""
        folder = self.files[0].parent
        return folder if set(dicom_files(folder)) <= set(self.files) else self.files[0]

    @property
    def modality(self) -> str:
        """MR, CT ...; empty where none is told."""
        return text_of(self.header, "Modality")

    @property
    def unfit(self) -> str:
        """Why it is no scan of a contrast, whatever it is called; empty where it may be one."""
        if self.modality not in ("MR", "CT"):
            return f"its modality is {self.modality or 'not told'}"
        if any(map(_NO_SCAN.fullmatch, self.image_type)):
            return "a localizer or a derived map"
        return f"{self.slices} slices, so a localizer" if self.slices < _LEAST_SLICES else ""

    def contrasts(self, vocabulary: Vocabulary) -> tuple[str, ...]:
        """What it may show; nothing where it is a localizer, a derived map or no image."""
        if self.unfit:
            return ()
        said = [text_of(self.header, tag) for tag in ("SeriesDescription", "ProtocolName")]
        if mine := next((found for text in said if (found := vocabulary.own_meanings(text))), ()):
            return mine
        if self.modality == "CT":
            return ("ct",)
        agent = text_of(self.header, "ContrastBolusAgent")
        meanings = vocabulary.meanings(self.description)
        given = bool(agent) and not is_without_contrast(agent)
        return ("t1c",) if meanings == ("t1n",) and given and not says_native(self.description) else meanings


def dicom_files(folder: Path) -> list[Path]:
    """Return the DICOM files of a folder, sorted: by ending or without one, and by the mark that opens them."""
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return []
    named = (p for p in paths if p.suffix.lower() in _SUFFIXES or p.suffix[1:].isdecimal())
    return [p for p in named if not p.name.startswith(".") and _is_dicom(p)]


def find(folders: Iterable[Path], source: Path, vocabulary: Vocabulary) -> list[Study]:
    """Return the DICOM studies whose files lie in ``folders``, all at or below ``source``.

    A series' contrast comes from its description, and from the contrast agent in its header. Localizers and derived
    maps are left alone; of several series of one contrast that with the thinnest slices is taken, and the notes say so.
    """
    files = [path for folder in folders for path in dicom_files(folder)]
    if not files:
        return []
    if not installed():
        name = own_name(source)
        return [Study(name, source, {}, Path(name), name, Naming(f"{name}-"), problem=f"{source}: {INSTALL}")]
    studies: dict[str, list[Series]] = defaultdict(list)
    for series in series_among(files):
        studies[text_of(series.header, "StudyInstanceUID")].append(series)
    by_folder: dict[Path, list[list[Series]]] = defaultdict(list)
    for several in sorted(studies.values(), key=_time):
        parents = {str(path.parent) for series in several for path in series.files}
        by_folder[Path(os.path.commonpath(parents))].append(several)
    found = []
    for folder, visits in by_folder.items():
        for index, several in enumerate(visits, start=1):
            below = Path(own_name(source)) if folder == source else folder.relative_to(source)
            place = below if index == 1 else below.with_name(f"{below.name}-{index}")
            note = f"{folder}: {len(visits)} DICOM studies lie in it; this is number {index} in time"
            found.append(_study(folder, place, several, vocabulary, (note,) if len(visits) > 1 else ()))
    return found


def read_place(place: Path, contrast: str) -> Volume:
    """Read the one series of a folder, or the series of a file with what lies beside it, as ``read`` does.

    Raises:
        UserError: if the folder has no series, or several; or as ``read`` does.
    """
    return read(series_at(place), contrast, place)


def series_at(place: Path) -> tuple[Path, ...]:
    """Return the files of the one series of a folder, or of the series that a file belongs to.

    Raises:
        UserError: if the folder has no series, or several.
    """
    if not installed():
        raise UserError(f"{place}: {INSTALL}")
    series = series_among(dicom_files(place if place.is_dir() else place.parent))
    mine = series if place.is_dir() else [one for one in series if place in one.files]
    if len(mine) != 1:
        raise UserError(f"{place}: {len(mine)} DICOM series; expected one; name a file of the one that is meant")
    return mine[0].files


def is_dicom(path: Path) -> bool:
    """Say whether a file bears the mark of DICOM."""
    return path.is_file() and _is_dicom(path)


def _is_dicom(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def series_among(files: Iterable[Path]) -> list[Series]:
    """Return the series that files belong to, in the order of their first files."""
    headers: dict[str, Header] = {}
    paths: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        if (header := read_header(path)) is not None:
            uid = text_of(header, "SeriesInstanceUID")
            headers.setdefault(uid, header)
            paths[uid].append(path)
    return [Series(header, tuple(paths[uid])) for uid, header in headers.items()]


def _time(series: Sequence[Series]) -> tuple[str, ...]:
    return tuple(text_of(series[0].header, tag) for tag in ("StudyDate", "StudyTime", "StudyInstanceUID"))


def _study(
    folder: Path, place: Path, several: Sequence[Series], vocabulary: Vocabulary, notes: tuple[str, ...]
) -> Study:
    candidates: dict[str, list[Series]] = defaultdict(list)
    unknown: list[str] = []
    for series in several:
        meanings = series.contrasts(vocabulary)
        if len(meanings) == 1:
            candidates[meanings[0]].append(series)
        elif meanings:
            may = " or ".join(meanings)
            notes += (f"series '{series.description}': may be {may}; left out; {ALIASES_HELP}",)
        else:
            why = series.unfit or vocabulary.unknown(series.description, "its description")
            unknown.append(f"series {_told(series)}: {why}")
    chosen: dict[str, Series] = {}
    for contrast, alike in sorted(candidates.items()):
        chosen[contrast], *others = sorted(alike, key=lambda series: series.rank)
        if others:
            rest = few([_told(other) for other in others])
            notes += (f"{contrast}: series {_told(chosen[contrast])} is taken; {rest}: left out",)
    problem = ""
    if not chosen:
        seen = few(list(dict.fromkeys(f"'{series.description}'" for series in several)))
        problem = f"{folder}: no series of a known contrast among {seen}; {ALIASES_HELP}"
    files = {contrast: series.place for contrast, series in chosen.items()}
    patient = text_of(several[0].header, "PatientID") or place.name
    naming, all_files = Naming(f"{place.name}-"), {contrast: series.files for contrast, series in chosen.items()}
    return Study(
        place.name,
        folder,
        files,
        place,
        patient,
        naming,
        problem=problem,
        notes=notes,
        series=all_files,
        left_out=tuple(unknown),
    )


def _told(series: Series) -> str:
    return f"{text_of(series.header, 'SeriesNumber') or '?'} '{series.description}'"
