"""What the files of a synthetic DICOM series say: whose it is, where it lies, and wherever possible: synthetic."""

import hashlib
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gen3d import __version__
from gen3d.data.dicom_slices import Slices, decimal
from gen3d.data.dicom_source import PATIENT, STUDY, Series
from gen3d.data.finished import Finished, Synthetic
from gen3d.data.layout import CONTRASTS, titled

_MR_IMAGE, _EXPLICIT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1"
_EMPTY = (
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
_OF_REFERENCE = ("PatientPosition", "BodyPartExamined", "PositionReferenceIndicator")
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


@dataclass(frozen=True)
class About:
    """What the files of one image say.

    Attributes:
        case: What was made.
        image: Which of its images.
        warning: What must be read before it is used.
        series: The DICOM series that it was made from, by contrast.
        reference: The contrast of that on whose grid it lies, if it lies on one's.
    """

    case: Finished
    image: Synthetic
    warning: str
    series: Mapping[str, Series]
    reference: str | None

    @property
    def title(self) -> str:
        """The series' description."""
        words = self.image.label.replace("-", " ").replace("std", "standard deviation")
        return f"SYNTHETIC {titled(self.image.contrast)} {words}".strip()[:64]

    @property
    def number(self) -> int:
        """The series' number, behind those of scanners; the image itself comes before its deviation and its samples."""
        names = list(dict.fromkeys([*CONTRASTS, *sorted(image.contrast for image in self.case.images)]))
        labels = list(dict.fromkeys(["", "std", *sorted(image.label for image in self.case.images)]))
        return 9001 + 100 * names.index(self.image.contrast) + labels.index(self.image.label)

    @property
    def header(self) -> Any:
        """What one of the source's files says; the reference's, where there is one; empty where none is DICOM."""
        first = self.series.get(self.reference or "") or next(iter(self.series.values()), None)
        return first.header if first else {}

    def uid(self, slices: Slices, *parts: object) -> str:
        """Return a UID that is the same for the same image, made from other scans or by other settings another one."""
        image = self.image
        own = image.model["weights_sha256"], image.facts.get("seed"), self.case.study.place.as_posix(), image.contrast
        return uid_of(*own, image.label, slices.digest, *parts)


def of_all(about: About, slices: Slices) -> Any:
    """What all slices of a series say."""
    import pydicom

    dataset: Any = pydicom.Dataset()
    meta: Any = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID = _MR_IMAGE
    meta.TransferSyntaxUID = _EXPLICIT
    meta.ImplementationClassUID = uid_of("gen3d")
    meta.ImplementationVersionName = f"GEN3D {__version__}"[:16]
    dataset.file_meta = meta
    _whose(dataset, about)
    _where(dataset, about, slices)
    _what(dataset, about, slices)
    _how(dataset, about)
    _greys(dataset, slices)
    return dataset


def _whose(dataset: Any, about: About) -> None:
    """Patient and study: as the source series say, else made from the case's name."""
    study = about.case.study
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for tag in (*PATIENT, *STUDY, "SpecificCharacterSet"):
        if tag in about.header:
            dataset.add(about.header[tag])
    for tag in _EMPTY:
        if tag not in dataset:
            setattr(dataset, tag, "")
    name = re.sub(r"[\\^=]", "_", study.patient)[:64]  # these part a name into components
    for tag, value in {"PatientName": name, "PatientID": name, "StudyInstanceUID": _made_study(about)}.items():
        if tag not in dataset:
            setattr(dataset, tag, value)


def _made_study(about: About) -> str:
    """A study UID for scans that never had one: for the same case and the same scans the same."""
    paths = [about.case.study.files[contrast] for contrast in about.case.sources(about.image)]
    scans = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()]
    return uid_of("study", about.case.study.place.as_posix(), *scans)


def _where(dataset: Any, about: About, slices: Slices) -> None:
    """Frame of reference, orientation and spacing; all that one series needs to lie on another."""
    own = about.header.get("FrameOfReferenceUID") if about.reference else None
    dataset.FrameOfReferenceUID = own or uid_of("frame", dataset.StudyInstanceUID, slices.affine.tobytes().hex())
    dataset.PositionReferenceIndicator = dataset.PatientPosition = ""
    for tag in _OF_REFERENCE:
        if about.reference and tag in about.header:
            dataset.add(about.header[tag])
    across, down, between = slices.spacing
    dataset.ImageOrientationPatient = [decimal(value) for value in slices.along.T.ravel()]
    dataset.PixelSpacing = [decimal(down), decimal(across)]
    dataset.SliceThickness = dataset.SpacingBetweenSlices = decimal(round(between, 6))


def _what(dataset: Any, about: About, slices: Slices) -> None:
    """That it is synthetic, in every place where DICOM has room for it."""
    facts, model = about.image.facts, about.image.model
    names = ", ".join(map(titled, about.case.sources(about.image))) or "no scan"
    dataset.Modality, dataset.Laterality, dataset.ImageType = "MR", "", ["DERIVED", "SECONDARY", "OTHER", "SYNTHETIC"]
    dataset.SyntheticData, dataset.BurnedInAnnotation = "YES", "NO"
    dataset.SeriesInstanceUID = about.uid(slices, "series")
    dataset.SeriesNumber, dataset.SeriesDescription = about.number, about.title
    dataset.DerivationDescription = plain(
        f"{about.warning} {titled(about.image.contrast)}, {facts.get('kind', 'image')}, computed from {names} by gen3d "
        f"{__version__}, model {model['name']}, weights SHA-256 {model['weights_sha256']}, seed {facts.get('seed')}."
    )[:1024]
    dataset.ImageComments = plain(about.warning)
    for tag in _LOSSY:
        if tag in about.header and str(about.header.get("LossyImageCompression")) == "01":
            dataset.add(about.header[tag])


def _how(dataset: Any, about: About) -> None:
    """The equipment: what computed it, and what measured the scans that it was computed from."""
    model = about.image.model
    dataset.Manufacturer, dataset.ManufacturerModelName = "gen3d", plain(f"gen3d {model['name']}")[:64]
    dataset.SoftwareVersions = __version__
    dataset.ScanningSequence, dataset.SequenceVariant = "RM", "NONE"  # "research mode": no known sequence
    dataset.ScanOptions = dataset.MRAcquisitionType = ""
    dataset.RepetitionTime = dataset.EchoTime = dataset.EchoTrainLength = None
    item = _item(
        Manufacturer="gen3d",
        ManufacturerModelName=dataset.ManufacturerModelName,
        SoftwareVersions=__version__,
        ContributionDescription=plain(f"Computed the image; model weights SHA-256 {model['weights_sha256']}"),
        PurposeOfReferenceCodeSequence=[_code("109102", "DCM", "Processing Equipment")],
    )
    dataset.ContributingEquipmentSequence = [item]
    if about.header.get("Manufacturer"):
        kind = [_code("109101", "DCM", "Acquisition Equipment")]
        scanner = _item(Manufacturer=about.header["Manufacturer"].value, PurposeOfReferenceCodeSequence=kind)
        if about.header.get("ManufacturerModelName"):
            scanner.add(about.header["ManufacturerModelName"])
        dataset.ContributingEquipmentSequence.append(scanner)


def _greys(dataset: Any, slices: Slices) -> None:
    """What a pixel is worth."""
    _, dataset.Rows, dataset.Columns = slices.pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = decimal(slices.slope), decimal(slices.intercept)
    dataset.RescaleType = "US"
    low, high = slices.window
    dataset.WindowCenter, dataset.WindowWidth = decimal((low + high) / 2), decimal(high - low)


def sources(about: About, slices: Slices, index: int) -> list[Any]:
    """The slices of the source series that lie where one of the image's does."""
    found = []
    for series in about.series.values():
        for near in series.near(slices.position(index), slices.normal, float(slices.spacing[2])):
            purpose = [_code("121322", "DCM", "Source image for image processing operation")]
            kind, instance = near.uids
            found.append(
                _item(
                    ReferencedSOPClassUID=kind,
                    ReferencedSOPInstanceUID=instance,
                    PurposeOfReferenceCodeSequence=purpose,
                )
            )
    return found


def _item(**values: Any) -> Any:
    import pydicom

    item = pydicom.Dataset()
    for tag, value in values.items():
        setattr(item, tag, value)
    return item


def _code(value: str, scheme: str, meaning: str) -> Any:
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def plain(text: str) -> str:
    """Return text in the letters that every character set has."""
    return text.encode("ascii", "replace").decode()


def uid_of(*parts: object) -> str:
    """Return the UID that stands for the parts: 2.25 and 128 bits of their SHA-256, as a UUID."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"
