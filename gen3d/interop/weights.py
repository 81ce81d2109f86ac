"""Official state dicts, tensor by tensor: what is missing, left over or of another shape is told in one line."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from gen3d.core.error import UserError

ADVICE = "is this the checkpoint's configuration? (--config)"


def taken(rest: dict[str, Any], name: str, expected: Tensor, where: str) -> Tensor:
    """Take a tensor of the shape of ``expected`` out of what is left of a state dict.

    Raises:
        UserError: It is missing, or of another shape.
    """
    tensor = rest.pop(name, None)
    if not isinstance(tensor, Tensor):
        raise UserError(f"{where}: no tensor '{name}'; {ADVICE}")
    if tensor.shape != expected.shape:
        found, wanted = tuple(tensor.shape), tuple(expected.shape)
        raise UserError(f"{where}: '{name}' has the shape {found}, expected {wanted}; {ADVICE}")
    return tensor


def nothing_left(rest: Iterable[str], where: str) -> None:
    """Check that every tensor found its place.

    Raises:
        UserError: One did not.
    """
    if name := next(iter(rest), None):
        raise UserError(f"{where}: '{name}' has no place in this network; {ADVICE}")
