"""Which cases a model may learn from."""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import yaml

from gen3d.core.error import UsageError, UserError, nearest

_HOMES = Path(__file__).resolve().parents[1:3]  # gen3d/configs where installed, configs in a checkout
SPLITS = next((p for home in _HOMES if (p := home / "configs" / "splits.yaml").is_file()), Path("configs/splits.yaml"))


class Patient(Protocol):
    """Anything that belongs to a patient: a Case, a Prepared."""

    @property
    def patient(self) -> str:
        """Whose it is."""
        ...


Item = TypeVar("Item", bound=Patient)


def is_test(dataset: str, name: str, splits: Path = SPLITS) -> bool:
    """Say whether a case is a test case, which no shipped weights or statistics may ever see.

    Args:
        dataset: The folder in shared/data: "brats", "ms", "hippocampus", ...
        name: The case's folder, or its file name without ``.nii.gz``.
        splits: The file with the rules.

    Raises:
        UsageError: if the file has no rule for the dataset.
        UserError: if there is no such file.
    """
    rules = _rules(Path(splits))
    if dataset not in rules:
        raise UsageError(f"{splits}: no split for dataset '{dataset}'{nearest(dataset, rules)}")
    rule = rules[dataset]["test"]
    if rule == "all":
        return True
    if isinstance(rule, list):
        return name in rule
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % int(rule["hash"]) == 0


def is_validation(patient: str, share: float) -> bool:
    """Say whether a patient belongs to the ``share`` that is kept out of training for validation.

    The first 8 bytes of SHA-256 of the name, as a fraction of their range, are below the share: whoever else is there
    changes nothing, and a larger share keeps the patients of a smaller one.
    """
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") < share * 2**64


def split_by_patient(items: Sequence[Item], fraction: float, seed: int = 0) -> tuple[list[Item], list[Item]]:
    """Split into (training, test) so that nobody is in both: about ``fraction`` of the patients are tested on.

    Patients are ranked by SHA-256 of "seed/patient", so neither the order of the items nor the machine matters. With
    two patients or more and 0 < fraction < 1, both sides have one.
    """
    patients = sorted({item.patient for item in items}, key=lambda p: hashlib.sha256(f"{seed}/{p}".encode()).digest())
    count = round(fraction * len(patients))
    if 0 < fraction < 1 and len(patients) > 1:
        count = min(max(count, 1), len(patients) - 1)
    test = set(patients[:count])
    return [item for item in items if item.patient not in test], [item for item in items if item.patient in test]


@cache
def _rules(path: Path) -> dict[str, Any]:
    try:
        rules: dict[str, Any] = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: no such file; expected the project's split; name one that is there") from error
    return rules
