"""``gen3d augment --merge``: one data set of all parts, and a report: what was refused and why, duplicates, volumes."""

import math
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.core.error import UserError
from gen3d.tools.augment.files import MANIFEST, Row, line, read_lines, settings_of, staged, unpacked
from gen3d.tools.augment.gates import GATES
from gen3d.tools.augment.layouts import front, written
from gen3d.tools.augment.picture import contact_sheet
from gen3d.tools.augment.real import check_real, copy_real, folds
from gen3d.tools.record import WARNING

TOLD, BLOCK = 20, 2048  # examples in the report; rows of fingerprints that are compared at once


def merge(out: Path | str, *, dry_run: bool = False) -> dict[str, Any]:
    """Write the manifest, data set, report and picture of a folder whose parts are all finished; return the report.

    Raises:
        UserError: It is no such folder, or cases are missing; in a dry run nothing else is done than to find out.
    """
    out = Path(out)
    run = settings_of(out)
    parts = sorted(out.glob("manifest-part-*-of-*.jsonl"))
    rows = read_lines([*([out / MANIFEST] if (out / MANIFEST).is_file() else []), *parts])
    lost = [
        n for n in range(1, run["n"] + 1) if n not in rows or not all((out / p).is_file() for p in rows[n]["sha256"])
    ]
    if lost:
        shown = ", ".join(map(str, lost[:5])) + (" ..." if len(lost) > 5 else "")
        raise UserError(f"{out}: {len(lost)} of {run['n']} cases are not there yet ({shown}); run their parts again")
    accepted = [row for row in rows.values() if row["status"] == "accepted"]
    names, real = [row["case"] for row in accepted], check_real(run)
    report = {"warning": WARNING, **counted(list(rows.values())), "asked": run["n"], "real": len(real)}
    if dry_run:
        return report
    report |= judged(accepted, run)
    report["refused"] = [
        {"case": row["case"], "attempt": place, **faults}
        for row in rows.values()
        for place, faults in enumerate(row["rejected"], 1)
    ][:TOLD]
    with staged(out / ".part-merge", out, MANIFEST) as folder:
        copy_real(real, run, folder)
        texts = front(run["layout"], names, folds(real), run["contrasts"], run["labels"], run["model"])
        texts |= {"report.json": written(report), "report.md": as_words(report, run)}
        for name, text in {**texts, MANIFEST: "".join(map(line, rows.values()))}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        if names:
            contact_sheet(folder / "contact-sheet.png", out, names, run)
    for path in [*parts, *out.glob(".part-*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return report


def counted(rows: Sequence[Row]) -> dict[str, Any]:
    """Count cases that were accepted and given up, draws, and refusals by gate."""
    faults = Counter(gate for row in rows for refused in row["rejected"] for gate in refused)
    statuses = [row["status"] for row in rows]
    return {
        "cases": len(rows),
        "accepted": statuses.count("accepted"),
        "given_up": statuses.count("given up"),
        "draws": sum(row["attempts"] for row in rows),
        "rejected": {gate: faults[gate] for gate in (*GATES, *sorted(faults.keys() - set(GATES)))},
    }


def judged(accepted: Sequence[Row], run: Mapping[str, Any]) -> dict[str, Any]:
    """Return duplicates among accepted cases, how alike they are to training scans, and the labels' volumes."""
    count, examples = duplicates(accepted, run["alike"])
    told: dict[str, Any] = {
        "alike_at_most": run["alike"],
        "alike_to_training": quartiles([row["alike"] for row in accepted]),
        "duplicates": count,
        "duplicate_pairs": examples,
        "volumes_ml": {},
    }
    for number, name in enumerate(run["labels"]):
        real, made = [row[number] for row in run["real_volumes_ml"]], [row["volumes_ml"][name] for row in accepted]
        distance, p = kolmogorov_smirnov(real, made)
        facts = {"real": quartiles(real), "synthetic": quartiles(made), "ks_distance": distance, "ks_p": p}
        told["volumes_ml"][name] = facts
    return told


def duplicates(accepted: Sequence[Row], alike: float) -> tuple[int, list[list[str]]]:
    """Count pairs of cases that are more alike than any two different training scans, and name the first ones."""
    if not accepted:
        return 0, []
    prints = np.stack([unpacked(row["fingerprint"]) for row in accepted])
    count, found = 0, []
    for start in range(0, len(prints), BLOCK):
        products = prints[start : start + BLOCK] @ prints[start:].T
        ones, others = np.nonzero(np.triu(products > alike, 1))
        count += len(ones)
        places = zip(ones.tolist(), others.tolist(), strict=True)
        found += [[accepted[start + i]["case"], accepted[start + j]["case"]] for i, j in islice(places, TOLD)]
    return count, found[:TOLD]


def quartiles(values: Sequence[float]) -> list[float] | None:
    """Return the least, the quartiles and the largest."""
    return np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).round(4).tolist() if len(values) else None


def kolmogorov_smirnov(a: Sequence[float], b: Sequence[float]) -> tuple[float | None, float | None]:
    r"""Return the two-sample distance $D = \max |F_a - F_b|$ and its asymptotic probability if both are alike.

    $p = 2 \sum_k (-1)^{k-1} e^{-2 k^2 \lambda^2}$ with $\lambda = (\sqrt n + 0.12 + 0.11 / \sqrt n) D$ and
    $n = n_a n_b / (n_a + n_b)$ (Stephens 1970, Journal of the Royal Statistical Society B 32:115).
    """
    if not len(a) or not len(b):
        return None, None
    both = np.concatenate([a, b])
    shares = [np.searchsorted(np.sort(one), both, side="right") / len(one) for one in (a, b)]
    distance = float(np.abs(shares[0] - shares[1]).max())
    root = math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    scaled = (root + 0.12 + 0.11 / root) * distance
    p = 1.0 if scaled < 0.2 else 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101))
    return round(distance, 4), float(f"{min(max(p, 0.0), 1.0):.3g}")


def in_a_line(report: Mapping[str, Any], out: Path, *, dry_run: bool = False) -> str:
    """Return what is printed of a data set, or of a part of it."""
    if dry_run:
        there = f"{report['asked']} cases, {report['cases']} of them there"
        return f"{there}; the others would be made in {out}; nothing was written"
    rejected = ", ".join(f"{count} by {gate}" for gate, count in report["rejected"].items() if count) or "none"
    words = f"{report['asked']} cases: {report['accepted']} accepted, {report['given_up']} given up; "
    words += f"{report['draws']} draws, refused: {rejected}"
    if "duplicates" not in report:
        return f"{words}; when all parts are there: gen3d augment --merge -o {out}"
    return f"{words}; {report['duplicates']} duplicates; {out / 'report.md'}"


def as_words(report: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Return the report as Markdown."""
    rejected = ", ".join(f"{count} by {gate}" for gate, count in report["rejected"].items())
    lines = [
        f"# Synthetic cases by {run['model']['name']}",
        "",
        WARNING,
        "",
        f"- asked for {run['n']} (seed {run['seed']}), {report['accepted']} accepted, {report['given_up']} given up "
        f"after {run['attempts']} attempts each; {report['draws']} draws",
        f"- refused draws: {rejected}; `manifest.jsonl` says why, case by case",
        f"- duplicates: {report['duplicates']} pairs of cases are more alike ({run['alike']:.3f}) than any two "
        "different training scans; they are kept, remove one of each if that matters",
        f"- the model was {run['patients']}; {report['real']} real cases beside, which alone validate",
        "",
        "| label | real mL: least, quartiles, most | synthetic mL | distance of the distributions (p if alike) |",
        "|---|---|---|---|",
    ]
    for name, facts in report["volumes_ml"].items():
        real, made = (", ".join(f"{ml:.3g}" for ml in facts[kind] or []) for kind in ("real", "synthetic"))
        apart = f"{facts['ks_distance']:.3f} ({facts['ks_p']:.3g})" if facts["ks_distance"] is not None else "–"
        lines.append(f"| {name} | {real} | {made} | {apart} |")
    if report["refused"]:
        lines += ["", f"First refusals (of {sum(report['rejected'].values())}):", ""]
    for refused in report["refused"]:
        why = "; ".join(f"{gate}: {refused[gate]}" for gate in refused if gate not in ("case", "attempt"))
        lines.append(f"- {refused['case']}, attempt {refused['attempt']}: {why}")
    return "\n".join(lines) + "\n"
