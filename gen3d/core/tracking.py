"""The log of a training."""

import json
from pathlib import Path
from typing import Any

from gen3d.core.error import UserError

LOG = "log.jsonl"


class Report(dict[str, float]):
    """One line of the log.

    ``step``, ``seconds`` on the clock, ``cpu_seconds`` summed over the training processes, workers that
    prepare examples included, ``lr``, the mean of each ``objective/term`` over all items since the line before, after
    a validation ``validation/objective/term``, and with a picture ``quality/score``.
    """


def forget_after(step: int, path: Path) -> None:
    """Remove from a log what a resumed training will write again, and a line cut short."""
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
    path.write_text("".join(f"{line}\n" for line in kept))


class Tracker:
    """Writes reports to ``log.jsonl`` and, where asked for, to wandb.

    Args:
        run: The run folder.
        mode: ``disabled``, ``offline`` or ``online``, for wandb.
        config: What wandb shows of the configuration.

    Raises:
        UserError: wandb is asked for and not installed.
    """

    def __init__(self, run: Path, mode: str, config: Any) -> None:
        self.path = run / LOG
        self.wandb: Any = None
        if mode != "disabled":
            try:
                import wandb
            except ImportError:
                raise UserError("train.wandb: wandb is not installed; pip install 'gen3d[wandb]'") from None
            start: Any = wandb.init  # typed where wandb is installed
            self.wandb_image = wandb.Image
            self.wandb = start(project="gen3d", name=run.name, dir=run, mode=mode, config=config, resume="allow")

    def write(self, report: Report, picture: Path | None = None) -> None:
        """Add one line, and to wandb a picture."""
        try:
            with open(self.path, "a") as stream:
                stream.write(json.dumps(report) + "\n")
        except OSError as error:
            raise UserError(
                f"{self.path}: can't be written ({error.strerror}); the last checkpoint is untouched"
            ) from None
        if self.wandb:
            shown = {"samples": self.wandb_image(str(picture))} if picture else {}
            self.wandb.log({**report, **shown}, step=int(report["step"]))

    def close(self) -> None:
        """End the tracking."""
        if self.wandb:
            self.wandb.finish()
