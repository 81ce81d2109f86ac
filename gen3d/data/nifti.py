"""NIfTI files in and out.

What goes in comes out: grid, qform, sform, codes, units.
"""

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from gen3d.core.error import UserError
from gen3d.core.volume import Volume, same_grid
from gen3d.data.atomic import appearing

ENDINGS = (".nii.gz", ".nii")
_UNREADABLE = (ImageFileError, HeaderDataError, EOFError, OSError, zlib.error, ValueError, OverflowError)
_ALIGNED = 2  # NIFTI_XFORM_ALIGNED_ANAT: "some" coordinates; 0 would leave the matrix to each reader's own default


def without_ending(path: Path) -> str:
    """Return the file's name without ``.nii`` or ``.nii.gz``."""
    return next((path.name[: -len(e)] for e in ENDINGS if path.name.lower().endswith(e)), path.name)


def read(path: Path | str, contrast: str | None = None, *, flat: bool = False) -> Volume:
    """Read one scan, header scaling applied, axes and affine as nibabel reads them.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file; a fourth axis of length 1 is dropped.
        contrast: What it shows, kept in the volume.
        flat: Whether a single slice is welcome; it becomes (X, Y, 1).

    Raises:
        UserError: if it is missing, truncated, no NIfTI file, 4D, 2D, not finite everywhere, or constant.
    """
    path = Path(path)
    image, voxels = _load(path, np.float32, flat=flat)
    if not np.isfinite(voxels).all():
        raise UserError(f"{path}: contains NaN or infinite voxels; expected finite numbers; replace or mask them")
    if voxels.min() == voxels.max():
        raise UserError(f"{path}: all voxels are {voxels.flat[0]:g}; expected an image; check how it was exported")
    return Volume(voxels, np.array(image.affine, dtype=np.float64), contrast, path, image.header)


def read_labels(path: Path | str, *, flat: bool = False) -> Volume:
    """Read a mask of whole numbers, as int16; it may be empty.

    Raises:
        UserError: as ``read`` does, and if a voxel is no whole number from 0 to 32767.
    """
    path = Path(path)
    image, voxels = _load(path, np.float32, flat=flat)
    labels = np.rint(np.nan_to_num(voxels, nan=-1.0))
    if not (np.abs(labels - voxels) <= 1e-3).all() or labels.min() < 0 or labels.max() > 32767:
        raise UserError(f"{path}: not a mask; expected whole numbers from 0 to 32767")
    return Volume(labels.astype(np.int16), np.array(image.affine, dtype=np.float64), None, path, image.header)


def read_frames(path: Path | str) -> list[Volume]:
    """Read a 4D file, one volume for each point of its fourth axis.

    Raises:
        UserError: as ``read`` does of every volume, and if there are not several.
    """
    path = Path(path)
    image, voxels = _load(path, np.float32, flat=False, frames=True)
    affine = np.array(image.affine, dtype=np.float64)
    for index, frame in enumerate(np.moveaxis(voxels, 3, 0)):
        if not np.isfinite(frame).all() or frame.min() == frame.max():
            raise UserError(f"{path}: volume {index + 1} is constant or not finite; expected images; export it again")
    return [
        Volume(np.ascontiguousarray(frame), affine, None, path, image.header) for frame in np.moveaxis(voxels, 3, 0)
    ]


def _load(path: Path, dtype: type[np.float32], *, flat: bool, frames: bool = False) -> tuple[Any, np.ndarray]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a NIfTI file (.nii or .nii.gz)")
    if not path.name.lower().endswith(ENDINGS):
        raise UserError(f"{path}: not a NIfTI file; expected a name ending in .nii or .nii.gz; convert it first")
    try:
        image: Any = nib.load(path)
        shape = _frames_shape(path, image.shape) if frames else _spatial_shape(path, image.shape, flat=flat)
        if image.get_data_dtype().kind not in "iuf":
            raise UserError(f"{path}: voxels are {image.get_data_dtype()}; expected one real number per voxel")
        with np.errstate(over="ignore"):
            voxels = image.get_fdata(dtype=dtype, caching="unchanged").reshape(shape)
    except PermissionError as error:
        raise UserError(f"{path}: may not be read; expected read permission") from error
    except _UNREADABLE as error:
        raise UserError(f"{path}: truncated or no NIfTI file at all; expected a 3D NIfTI; export it again") from error
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < 1e-9:
        raise UserError(f"{path}: its affine is singular; expected a header with voxel sizes; set its sform or qform")
    return image, voxels


def _spatial_shape(path: Path, shape: tuple[int, ...], *, flat: bool) -> tuple[int, ...]:
    spatial = shape + (1,) * (3 - len(shape))
    if any(n != 1 for n in spatial[3:]):
        raise UserError(f"{path}: {len(shape)}D, shape {shape}; expected one 3D volume; split it into single volumes")
    spatial = spatial[:3]
    if 1 in spatial and not flat:
        raise UserError(f"{path}: 2D, shape {shape}; expected a 3D volume; stack the slices into one file")
    return spatial


def _frames_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) != 4 or shape[3] < 2 or 1 in shape[:3]:
        raise UserError(f"{path}: {len(shape)}D, shape {shape}; expected 4D, several 3D volumes in order of time")
    return shape


def write(volume: Volume, path: Path | str, like: Volume | None = None, description: str = "") -> None:
    """Write a volume, float32 (integers as they are); the file appears whole or not at all.

    Equal content makes equal bytes: the gzip header carries neither name nor time.

    Args:
        volume: What to write.
        path: A name ending in ``.nii`` or ``.nii.gz``; its folder is made.
        like: The scan whose header (codes, units) is taken; without it, the volume's own.
        description: Goes into the header's ``descrip``, at most 79 bytes.

    Raises:
        UserError: if the file cannot be written.
    """
    path = Path(path)
    if not path.name.endswith(ENDINGS):
        raise UserError(f"{path}: expected an output name ending in .nii or .nii.gz")
    content = _image(volume, (like or volume).header, description).to_bytes()
    with appearing(path) as temporary, open(temporary, "wb") as file:
        if path.name.endswith(".gz"):
            with gzip.GzipFile(filename="", mode="wb", compresslevel=3, fileobj=file, mtime=0) as packed:
                packed.write(content)
        else:
            file.write(content)


def _image(volume: Volume, header: Any, description: str) -> Any:
    voxels = volume.voxels
    if voxels.dtype.kind not in "iu" or voxels.dtype.itemsize > 4:
        voxels = voxels.astype(np.float32)
    header = _header(header, volume, description)
    header.set_data_dtype(voxels.dtype)
    return nib.Nifti1Image(voxels, None, header)


def _header(source: Any, volume: Volume, description: str) -> Any:
    header = _first_kind(source)
    header.extensions.clear()  # they may name the patient
    header.set_intent("none")
    header["cal_min"] = header["cal_max"] = 0
    header["aux_file"] = b""
    if description:
        header["descrip"] = description.encode()[:79].decode(errors="ignore").encode()
    unit = int(header["xyzt_units"]) % 8
    if unit in (1, 3):  # metres, microns: ITK would scale the matrix by them, nibabel does not
        header["xyzt_units"] = header["xyzt_units"] - unit + 2
    header.set_data_shape(volume.shape)
    _set_matrix(header, volume)
    return header


def _first_kind(source: Any) -> Any:
    """A NIfTI-1 header that says what ``source`` says: ITK opens no NIfTI-2."""
    if isinstance(source, nib.Nifti1Header) and not isinstance(source, nib.Nifti2Header):
        return source.as_byteswapped("<")
    header = nib.Nifti1Header(endianness="<")
    if source is None:
        header.set_xyzt_units("mm")
        return header
    for field in set(header.keys()) & set(source.keys()) - {"sizeof_hdr", "magic", "vox_offset"}:
        header[field] = source[field]
    return header


def _set_matrix(header: Any, volume: Volume) -> None:
    """Keep qform and sform where they already say what the volume says; where not, have both say it.

    A sheared sform is kept: no qform, and so no direction matrix of ITK's, can say the same.
    """
    forms = [_coded(header.get_sform), _coded(header.get_qform)]
    coded = [matrix for matrix, code in forms if code]
    if coded and all(m is not None and same_grid(volume.shape, m, volume.affine) for m in coded):
        if not forms[1][1] and not np.allclose(header["pixdim"][1:4], volume.spacing, rtol=1e-5):
            header["pixdim"][1:4] = volume.spacing  # ITK takes spacing from here when only the sform is coded
        return
    (_, scode), (_, qcode) = forms
    header.set_sform(volume.affine, scode or qcode or _ALIGNED)
    header.set_qform(volume.affine, qcode or scode or _ALIGNED)


def _coded(get: Any) -> tuple[np.ndarray | None, int]:
    try:
        matrix, code = get(coded=True)
    except (ValueError, HeaderDataError):  # a quaternion that is none
        return None, _ALIGNED
    return matrix, int(code)
