"""Model cards: what a model was trained on, how it scores, and what it is not for."""

from pathlib import Path
from typing import Any

from gen3d.core.system import System


def model_card(system: System, run: Path | None = None, scores: str = "") -> str:
    """Return the text of a model card (README.md of a saved model).

    Args:
        system: The trained system with its provenance.
        run: Where it was trained, for the title.
        scores: A Markdown table of scores with their baselines; without one the card says that none was measured.
    """
    facts = system.provenance
    training: dict[str, Any] = facts.get("training", {})
    licences = sorted({f"{s['name']}: {s['licence']}" for s in facts.get("sources", [])})
    title = run.name if run else system.name
    lines = [
        "---",
        "library_name: gen3d",
        "license: apache-2.0",
        "tags: [medical-imaging, synthetic]",
        "---",
        f"# {title}",
        "",
        f"A `{system.name}` model of gen3d. What it writes is **synthetic**: never for diagnosis.",
        "",
        "## Trained on",
        f"{facts.get('patients', 0)} patients ({facts.get('cases', 0)} scans or studies) "
        f"and {facts.get('phantoms', 0)} simulated brains; "
        f"{len(facts.get('validation', []))} patients were kept out for validation.",
        *base_words(facts.get("base", {})),
        *part_words(facts.get("parts", {})),
        "A demonstration: train on your own data before you rely on anything.",
        "",
        *[f"- {licence}" for licence in licences],
        "",
        f"{training.get('steps', 0)} steps of {training.get('batch', 0)} on {training.get('device', '?')}, "
        f"{training.get('cpu_minutes', 0)} CPU minutes, computed in {training.get('computed_in', '?')}, "
        f"seed {training.get('seed', 0)}.",
        "",
        "## Scores",
        scores or "None measured.",
        "",
        "## Not for",
        str(facts.get("not_for", "clinical use of any kind")),
        "",
        "## Training envelope",
        *[f"- {name}: {low} to {high}" for name, (low, high) in facts.get("envelope", {}).items()],
        "",
        "## Use",
        "```python",
        "import gen3d",
        "",
        f'system = gen3d.load("{title}")',
        "```",
        "",
    ]
    return "\n".join(lines)


def base_words(base: dict[str, Any]) -> list[str]:
    """Say which model training started from."""
    if not base:
        return []
    return [
        f"Training started from `{base['name']}` (weights {base['weights_sha256'][:12]}), which had seen "
        f"{base.get('patients', 'an unstated number of')} patients and {base.get('phantoms', 0)} simulated brains."
    ]


def part_words(parts: dict[str, Any]) -> list[str]:
    """Say where frozen parts come from."""
    return [
        f"Its {part} is that of `{origin['name']}` (weights {origin['weights_sha256'][:12]}, "
        f"{origin.get('cpu_minutes', 'an unstated number of')} CPU minutes), which had seen "
        f"{origin.get('patients', 'an unstated number of')} patients."
        for part, origin in parts.items()
    ]
