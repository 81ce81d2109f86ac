"""``gen3d export``: what ``gen3d synthesize`` made, as other tools take it: nnU-Net, BIDS, DICOM."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gen3d.core.checkpoint import read_index, weights_sha256
from gen3d.core.error import UsageError, UserError, nearest
from gen3d.data import bids, bids_out, dicom_out, dicom_stack, nnunet_out
from gen3d.data.finished import Finished, Output, Synthetic
from gen3d.data.layout import CONTRASTS, canonical
from gen3d.data.studies import Study, find_studies, read_aliases
from gen3d.systems import find_model
from gen3d.tools.dataset import dataset, forbid_around, models_of, refuse_foreign, write_case, write_front
from gen3d.tools.delivery import forbid_beside, sidecars
from gen3d.tools.outcomes import RECORDS, Outcome, outcomes
from gen3d.tools.record import WARNING

TARGETS = ("nnunet", "bids", "dicom")
Convert = Callable[[Finished], tuple[list[Output], list[str]]]
Front = Callable[[Sequence[Mapping[str, Any]]], dict[str, str]]


@dataclass
class Exported:
    """What became of an export.

    Attributes:
        cases: How many there were.
        failures: How many failed.
        empty: How many had nothing to export.
        outputs: All that was written, or, in a dry run, would be.
    """

    cases: int
    failures: int = 0
    empty: int = 0
    outputs: list[Output] = field(default_factory=list)

    def counted(self, verb: str = "exported") -> str:
        """Say how many cases ended in which way; ``verb`` says what became of those that did not fail."""
        whole = self.cases - self.failures - self.empty
        counts = ((whole, verb), (self.empty, "with nothing synthetic"), (self.failures, "failed"))
        return ", ".join(f"{count} {words}" for count, words in counts if count)


def export(
    results: Path | str,
    source: Path | str,
    to: str,
    out: Path | str,
    *,
    aliases: Path | str | None = None,
    channels: Sequence[str] | None = None,
    dry_run: bool = False,
    advance: Callable[[float, str], None] = lambda done, words: None,
    done: Callable[[str, Sequence[str], Sequence[str]], None] = lambda case, made, given: None,
    failed: Callable[[str, Exception], None] = lambda case, error: None,
    note: Callable[[str], None] = lambda words: None,
) -> Exported:
    """Turn the results of ``gen3d synthesize`` into a dataset for another tool.

    ``out`` appears whole or not at all, without the cases that failed; an earlier export there is replaced. Its
    ``synthetic.json`` tells which files are synthetic and by which model.

    Args:
        results: The output folder of ``gen3d synthesize``.
        source: The originals, its ``-i``.
        to: ``nnunet``, ``bids`` or ``dicom``.
        out: Neither in ``results`` nor in ``source``, nor above one of them.
        aliases: The YAML file with one's own names of contrasts that it was given.
        channels: For ``nnunet``: the contrasts, in order; by default the model's.
        dry_run: Read and check everything, write nothing.
        advance: Told the share done and what is being done.
        done: Told of every case that did not fail: which of its contrasts are synthetic, and which acquired.
        failed: Told of every case of several that failed; the others go on.
        note: Told in words what a user should know of a case.

    Raises:
        UserError: The single case failed, nothing fits together, or ``out`` holds what gen3d did not write.
    """
    results, source, out = Path(results), Path(source), Path(out)
    if to not in TARGETS:
        raise UsageError(f"--to '{to}': expected one of {', '.join(TARGETS)}{nearest(to, TARGETS)}")
    if channels is not None and (to != "nnunet" or not channels):
        raise UsageError("--channels: expected contrasts such as t1n,t1c,t2w,t2f, and --to nnunet")
    if to == "dicom" and not dicom_stack.installed():
        raise UserError("--to dicom: writing DICOM needs pydicom; pip install 'gen3d[dicom]'")
    forbid_around(out, source, results)
    found = outcomes(results)
    if not found:
        raise UserError(
            f"{results / RECORDS}: no case's JSON in it; expected the folder of an earlier gen3d synthesize"
        )
    studies = find_studies(source, read_aliases(Path(aliases)) if aliases is not None else None)
    for folder in {path.parent for study in studies for path in study.files.values()}:
        forbid_beside(out, folder)
    refuse_foreign(out)
    by_place = {str(study.place): study for study in studies}
    known = sorted((outcome for outcome in found if outcome.place in by_place), key=lambda outcome: outcome.place)
    if not known:
        words = f"none of the {len(found)} cases of {results}; expected the -i of gen3d synthesize"
        raise UserError(f"{source}: {words}, and its --aliases")
    if more := len(studies) - len(known):
        note(f"{more} of {len(studies)} studies in {source} are not in {results}; gen3d synthesize has not done them")
    order = channels_of(known, channels, note) if to == "nnunet" else []
    convert, front = converter(to, studies, source, out, order)
    exported = Exported(len(found))
    with nullcontext() if dry_run else dataset(out) as whole:
        for index, outcome in enumerate(sorted(found, key=lambda outcome: outcome.place)):
            advance(index / len(found), outcome.case)
            try:
                case = finished(results, outcome, by_place.get(outcome.place), source)
                outputs, notes = convert(case)
                if whole:
                    write_case(outputs, whole)
            except Exception as error:
                if len(found) == 1:
                    raise
                exported.failures += 1
                failed(outcome.case, error)
                continue
            for words in notes:
                note(f"{outcome.case}: {words}")
            exported.outputs += [output.written() for output in outputs]
            exported.empty += not outputs
            done(outcome.case, contrasts(outputs, "model"), contrasts(outputs, "from"))
        advance(1.0, "writing")
        if whole and exported.outputs:
            write_front(front(models_of(exported.outputs)), to, exported.outputs, whole)
    return exported


def contrasts(outputs: Sequence[Output], key: str) -> list[str]:
    """Return the contrasts of the files whose facts have a key, each once."""
    return list(dict.fromkeys(str(output.facts["contrast"]) for output in outputs if key in output.facts))


def converter(
    to: str,
    studies: Sequence[Study],
    source: Path,
    out: Path,
    channels: Sequence[str],
) -> tuple[Convert, Front]:
    """Return what turns a case into files, and what makes the files of the whole dataset from its models."""
    places = [study.place for study in studies]
    if to == "bids":
        root = bids.root_of(source) if source.is_dir() else None
        visits = bids_out.visit_names(studies, root)
        home = source if source.is_dir() else source.parent
        raw = Path(os.path.relpath((root or home).resolve(), out.resolve())).as_posix()
        return (
            lambda case: bids_out.outputs(case, visits[case.study.place], home, root),
            lambda made_by: bids_out.front(made_by, WARNING, raw, root),
        )
    names = nnunet_out.case_names(places)
    if to == "dicom":
        return lambda case: dicom_out.outputs(case, names[case.study.place], WARNING), lambda made_by: {}
    return (
        lambda case: nnunet_out.outputs(case, names[case.study.place], channels),
        lambda made_by: nnunet_out.front(channels),
    )


def channels_of(known: Sequence[Outcome], asked: Sequence[str] | None, note: Callable[[str], None]) -> list[str]:
    """Return the contrasts of the channels, as asked for or as the model has them.

    Raises:
        UsageError: One is unknown, or asked for twice.
    """
    if asked is None:
        return contrasts_of(known, note)
    used = {contrast for outcome in known for contrast in (*outcome.given, *outcome.made)}
    order = [name if name in used else canonical(name) for name in asked]
    if len(set(order)) < len(order):
        raise UsageError(f"--channels {','.join(asked)}: a contrast twice; expected each once")
    return order


def contrasts_of(known: Sequence[Outcome], note: Callable[[str], None]) -> list[str]:
    """Return the contrasts of the model, in its order; where it is not at hand, those that the cases have."""
    for outcome in known:
        model = outcome.request.get("model", {})
        with suppress(UserError):
            folder = find_model(str(model.get("name")))
            order = read_index(folder).get("config", {}).get("contrasts")
            if order and weights_sha256(folder) == model.get("weights_sha256"):
                return [str(name) for name in order]
    used = {contrast for outcome in known for contrast in (*outcome.given, *outcome.made)}
    order = [*(name for name in CONTRASTS if name in used), *sorted(used - set(CONTRASTS))]
    note(f"the model is not at hand; channels are what the cases have: {', '.join(order)}; --channels says otherwise")
    return order


def finished(results: Path, outcome: Outcome, study: Study | None, source: Path) -> Finished:
    """Return a study and what was made of it.

    Raises:
        UserError: It is not in the archive, is another one now, was not made, or files are lost.
    """
    if study is None:
        raise UserError(f"{outcome.place}: not in {source}; expected the -i of gen3d synthesize, and its --aliases")
    if study.problem:
        raise UserError(study.problem)
    if outcome.status in ("failed", "refused"):
        raise UserError(f"gen3d synthesize {outcome.status} it, so there is nothing to export: {outcome.reason}")
    names = {contrast: path.name for contrast, path in study.files.items()}
    if (then := outcome.request.get("files")) is not None and dict(then) != names:
        odd = next(name for name in {**names, **then} if names.get(name) != then.get(name))
        raise UserError(
            f"{study.source}: its {odd} is {names.get(odd, 'lost')}, and was {then.get(odd, 'not there')} when it was "
            "synthesized; expected the same scans; synthesize it anew, or give the same --aliases"
        )
    place = results / outcome.place
    trees = [tree for tree in sidecars(place).values() if "contrast" in tree and "file" in tree and "grid" not in tree]
    images = tuple(Synthetic(place / str(tree["file"]), tree) for tree in trees)
    made = {image.contrast for image in images if not image.label}
    lost = [str(image.path) for image in images if not image.path.is_file()]
    lost += [f"{place}: the synthetic {name}" for name in outcome.made if name not in made]
    if lost:
        raise UserError(f"{lost[0]}: no such file; expected what gen3d synthesize wrote; run it again")
    return Finished(study, images, tuple(outcome.made))
