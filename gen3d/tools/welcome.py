"""What ``gen3d`` alone says: what it can do, and what to try first."""

from collections.abc import Mapping

from gen3d import __version__

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Make images and masks": ("synthesize", "generate", "augment", "segment", "forecast", "standardize", "reconstruct"),
    "Judge them, hand them on": ("evaluate", "report", "export"),
    "Models of your own": ("train", "plan", "import", "push", "pull", "bundle"),
    "Look around": ("info", "doctor"),
}


def welcome(commands: Mapping[str, str]) -> str:
    """Return the page that names every command in its group.

    Args:
        commands: What each is for, by name.
    """
    wide = max(len(name) for name in commands)
    lines = [f"gen3d {__version__}: 3D medical images by diffusion models. Synthetic, and never for diagnosis.", ""]
    lines += ["Try first; it needs no data and takes seconds:"]
    lines += ["  gen3d generate --model hippocampus-wdm -n 2 -o OUT    then look at OUT/contact-sheet.png"]
    lines += ["  gen3d synthesize -i CASE -o OUT                       what a brain study lacks of T1, T1c, T2, FLAIR"]
    known = {name for names in GROUPS.values() for name in names}
    for title, names in {**GROUPS, "More": tuple(name for name in commands if name not in known)}.items():
        if not names:
            continue
        lines += ["", f"{title}:", *(f"  {name:{wide}}  {commands[name]}" for name in names)]
    lines += ["", "gen3d COMMAND --help tells all about one; gen3d --install-completion has your shell complete them."]
    return "\n".join(lines)
