"""What one worker does: hold the model, make cases by number, each a function of its number alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from gen3d import __version__
from gen3d.core.error import UsageError
from gen3d.core.randomness import derive
from gen3d.data.layout import canonical
from gen3d.tools.augment.files import Part, Row, packed, read_row, stage_of, staged, write_pair, write_row
from gen3d.tools.augment.gates import Known, Verdict, judge, known_of
from gen3d.tools.augment.layouts import case_name, check_layout
from gen3d.tools.augment.pair import Drawing, Pair, UnfitMaskError, Wishes
from gen3d.tools.record import WARNING, about, patients


@dataclass(frozen=True)
class Job:
    """What is asked for.

    Attributes:
        model: A folder, shipped name or hub id.
        out: The data set's folder; for workers on other machines, the same on all.
        count: How many cases.
        layout: ``nnunet``, ``msd`` or ``bids``.
        wishes: How pairs are drawn.
        seed: Of all of them.
        attempts: Draws of a case that the gates may refuse before it is given up.
        channels: What the model's images are called in the data set; by default as the model calls them.
        part: i of n: every n-th case from the i-th on.
        real: A folder of real cases to validate on.
        threads: Of the processor, for one worker; with others the last digits of a volume differ.
    """

    model: str
    out: Path
    count: int
    layout: str = "nnunet"
    wishes: Wishes = Wishes()
    seed: int = 0
    attempts: int = 5
    channels: tuple[str, ...] | None = None
    part: Part = (1, 1)
    real: Path | None = None
    threads: int = 1


class Maker:
    """A worker; the model is opened when it is first asked for something."""

    def __init__(self, job: Job) -> None:
        self.job = job

    @cached_property
    def drawing(self) -> Drawing:
        """The opened model."""
        torch.set_num_threads(self.job.threads)
        return Drawing(self.job.model, self.job.wishes)

    @cached_property
    def known(self) -> Known:
        """What pairs are judged by."""
        return known_of(self.drawing.system)

    @cached_property
    def _settings(self) -> Mapping[str, Any]:
        job, drawing = self.job, self.drawing
        own = drawing.system.config.contrasts
        contrasts = own if job.channels is None else tuple(canonical(name) for name in job.channels)
        if len(contrasts) != len(own):
            raise UsageError(f"--channels {','.join(contrasts)}: expected a name for each of {', '.join(own)}")
        check_layout(job.layout, contrasts)
        return {
            "warning": WARNING,
            "gen3d": __version__,
            "model": about(drawing.model),
            "patients": patients(drawing.model),
            "n": job.count,
            "seed": job.seed,
            "layout": job.layout,
            "attempts": job.attempts,
            "threads": job.threads,
            **drawing.settings(),
            "contrasts": list(contrasts),
            "drawn": list(own),
            "labels": list(self.known.names),
            "alike": self.known.alike,
            "real": str(job.real.resolve()) if job.real else None,
            "real_volumes_ml": self.known.volumes_ml.tolist(),
        }

    def settings(self) -> Mapping[str, Any]:
        """Return all that the data set depends on, JSON-like; what run.json holds.

        Raises:
            UserError: The model can't do what is asked.
        """
        return self._settings

    def make(self, number: int) -> Row:
        """Make a case, or give it up, and return its row; one that is finished is left as it is.

        Raises:
            UserError: The weights are damaged, a mask is none, or the file system refuses.
        """
        job, run = self.job, self._settings
        case = case_name(job.layout, number)
        if before := read_row(job.out, case):
            return before
        found, rejected = self.accepted(number)
        row: Row = {
            "number": number,
            "case": case,
            "status": "accepted" if found else "given up",
            "attempts": len(rejected) + (found is not None),
            "rejected": rejected,
            "volumes_ml": dict(found[1].volumes_ml) if found else {},
            "alike": found[1].alike if found else None,
            "fingerprint": packed(found[1].fingerprint) if found else "",
            "sha256": {},
        }
        model, system = self.drawing.model, self.drawing.system
        with staged(stage_of(job.out, job.part) / case, job.out, f"provenance/{case}.json") as folder:
            facts: dict[str, Any] = {"seed": job.seed, "sampler": run["sampler"], "steps": run["steps"]}
            if found:
                pair, window = found[0], system.window(system.config.contrasts[0])
                row["sha256"] = write_pair(folder, job.layout, case, pair, model, window, run)
                facts |= {"key": self.key(number, len(rejected)), **self.drawing.changes, **pair.facts}
            write_row(folder, row, model, facts)
        return row

    def accepted(self, number: int) -> tuple[tuple[Pair, Verdict] | None, list[dict[str, str]]]:
        """Draw until the gates let a pair pass; return it, or None, and what was refused and why."""
        rejected: list[dict[str, str]] = []
        while True:
            try:
                pair = self.drawing.draw(number, self.key(number, len(rejected)))
            except UnfitMaskError as error:
                return None, [*rejected, {"mask": str(error)}]
            verdict = judge(pair, self.known, self.drawing.system.config.contrasts)
            if not verdict.faults:
                return (pair, verdict), rejected
            rejected.append(dict(verdict.faults))
            if len(rejected) == self.job.attempts:
                return None, rejected

    def key(self, number: int, attempt: int) -> str:
        """Return the key of an attempt, counted from 0."""
        return derive(self.job.seed, "augment", number, attempt)
