"""What systems of CT in Hounsfield units share."""

from dataclasses import replace

import numpy as np

from gen3d.core.error import UserError
from gen3d.core.system import System
from gen3d.core.volume import Case, Placement, Prepared, Scale, Triple, Volume
from gen3d.latent.kernel_pairs import SCALE, UNIT_HU
from gen3d.latent.kernels import HU


class CT(System):
    """A system of one contrast, "ct", in HU / 500, arrays in its own axes."""

    preparation = ("contrasts", "axes", "offset_hu")

    @property
    def training_size(self) -> Triple:
        """A patch."""
        patch: Triple = self.config.patch
        return patch

    def prepare(self, case: Case) -> Prepared:
        """Turn to the model's axes and put HU on its scale; the contrast may have any name if it is the only one.

        Raises:
            UserError: There are several contrasts, or the voxels are no Hounsfield units.
        """
        name = self.config.contrasts[0]
        if len(case.volumes) != 1 and name not in case.volumes:
            raise UserError(f"{case.name}: has {', '.join(case.volumes)}; expected one CT; keep only that")
        volume = case.volumes.get(name) or next(iter(case.volumes.values()))
        offset = self.config.offset_hu
        accept_hu(replace(volume, voxels=volume.voxels + offset))
        scale = Scale(SCALE.gain, offset * SCALE.gain, SCALE.low - offset, SCALE.high - offset)
        placement = Placement(volume.shape, volume.affine, self.config.axes, (0, 0, 0), volume.shape)
        placement = Placement(volume.shape, volume.affine, self.config.axes, (0, 0, 0), placement.turned_shape)
        voxels = scale.apply(placement.take(volume.voxels))[None]
        spacing = Volume(voxels[0], placement.model_affine).spacing
        return Prepared(case.name, case.patient, voxels, np.array([True]), None, spacing, (scale,), placement)

    def window(self, contrast: str) -> tuple[float, float]:
        """Return the ends of CT's scale."""
        return HU[0] / UNIT_HU, HU[1] / UNIT_HU


def accept_hu(volume: Volume) -> None:
    """Check that voxels may be Hounsfield units: some are below -200 (air, lung) and few beyond what CT stores.

    Raises:
        UserError: They are not.
    """
    low, high = float(volume.voxels.min()), float(volume.voxels.max())
    place = volume.origin or "image"
    beyond = float(np.mean((volume.voxels > 2 * HU[1]) | (volume.voxels < -4096)))
    if low > -200 or beyond > 1e-3 or high < -200:
        raise UserError(
            f"{place}: values from {low:g} to {high:g} are no CT in Hounsfield units; expected air near -1000 and "
            "tissue near 0; subtract the offset, or use the original CT"
        )
