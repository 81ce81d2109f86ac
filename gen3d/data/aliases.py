"""What people call a contrast: in file names, column headers, series descriptions; and names of one's own."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from gen3d.core.error import UserError
from gen3d.data.layout import ALIASES, CONTRASTS

_CANONICAL = {alias: name for name, aliases in ALIASES.items() for alias in aliases}
_FOLDED = {  # several words that are one
    ("dark", "fluid"): "darkfluid",
    ("da", "fl"): "darkfluid",
    ("fluid", "attenuated"): "flair",
    ("mp", "rage"): "mprage",
    ("t2", "*"): "t2star",
    ("t2", "star"): "t2star",
    ("w", "o"): "without",
    ("+", "c"): "+c",
    ("c", "+"): "+c",
    ("plus", "c"): "+c",
}
_KINDS: Mapping[str, str] = {
    "t1": "t1 t1w t1wi t1n st1w",
    "t1 sequence": "mprage spgr fspgr irspgr bravo",
    "t1c": "t1c t1ce t1gd t1post t1ca t1gad t1km t1wce cet1 cet1w",
    "t2": "t2 t2w t2wi st2w",
    "t2f": "t2f t2flair",
    "flair": "flair fla darkfluid",
    "tirm": "tirm",  # with a long inversion time it is a FLAIR, and then people say T2; with a short one a STIR
    "agent": "gd gad gado gadolinium gadovist dotarem ce km kontrast kontrastmittel contrast enhanced +c "
    "postcontrast postgad postgd postkm",
    "post": "post",
    "unclear": "c con",  # mostly an agent, but not surely
    "native": "pre native nativ without wo non no ohne unenhanced noncontrast precontrast pregad pregd prekm",
    "neutral": "ax axial tra trans transverse transversal sag sagittal cor coronal iv 2d 3d iso isotropic se tse fse "
    "frfse gre ir tfe ffe tfl flash space cube vista vibe dixon spc irprep propeller blade fs fatsat spir weighted "
    "with mit nach after +",
    "other": "t2star map mapping stir pd adc dwi dti diff diffusion ep2d epi trace swi swan perf perfusion dsc dce asl "
    "bold sub subtraction mip minip mnip cbf cbv mtt ttp tof mra angio loc localizer localiser scout survey pdw",
}
_KIND_OF = {word: kind for kind, words in _KINDS.items() for word in words.split()}
_T1 = ("t1", "t1 sequence", "t1c")
_WEIGHTED = (*_T1, "t2", "t2f")
_MEASURE = re.compile(r"p\d|\d+mm|fl[23]d\d?|iso\d+")  # as in t1_mprage_sag_p2_iso_1mm
_CONVERTED = re.compile(r"[-_. ]\d{14}[-_. ]\d+[a-z]?$", re.IGNORECASE)  # time and series number, as dcm2niix adds


class Word(NamedTuple):
    """A word, or several that are one, and where it stands in the text."""

    text: str
    start: int
    end: int

    @property
    def kind(self) -> str:
        """What it says of a contrast, or an empty string."""
        return _KIND_OF.get(self.text) or ("neutral" if _MEASURE.fullmatch(self.text) else "")


class Reading(NamedTuple):
    """One way to understand a file's name: what stands before the contrast, the contrast's word, what it may mean."""

    prefix: str
    word: str
    contrasts: tuple[str, ...]
    doubtful: bool = False  # holds only where other files have the same prefix

    @property
    def owner(self) -> str:
        """The prefix without the signs that end it: whose file it is."""
        return self.prefix.rstrip("-_. ")


@dataclass(frozen=True)
class Vocabulary:
    """All names of contrasts: one's own, which go first, and the known ones.

    Attributes:
        own: Contrast to one's own names for it, as ``read_aliases`` returns them.
    """

    own: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def meanings(self, text: str) -> tuple[str, ...]:
        """Return the contrasts that a description may mean: one, none, or several where that can't be told.

        Args:
            text: "T1 MPRAGE post", "Ax T2 FLAIR"; words that say nothing of a contrast may stand anywhere.
        """
        return self.own_meanings(text) or _meanings(word.kind for word in split(text))

    def own_meanings(self, text: str) -> tuple[str, ...]:
        """Return what one's own names alone say of a text."""
        return tuple(sorted({name for name, *_ in self._mine(split(text))}))

    def readings(self, stem: str) -> list[Reading]:
        """Return the ways to understand a file's name, likeliest first; the known words at its end say what it is."""
        words = split(stem)
        if mine := self._mine(words):
            at = words[mine[0][1]].start
            names = tuple(sorted({name for name, *_ in mine}))
            return [Reading(stem[:at], stem[at:], names)]
        converted = _CONVERTED.search(stem)
        words = [word for word in words if not converted or word.end <= converted.start()]
        tail = _tail(words)
        found: dict[str, Reading] = {}
        for part, doubtful in ((_without_leading(tail), False), (tail, False), (tail[-1:], True)):
            if part and (meanings := _meanings(word.kind for word in part)):
                at = part[0].start
                found.setdefault(stem[:at], Reading(stem[:at], stem[at:], meanings, doubtful))
        return list(found.values())

    def unknown(self, text: str, what: str = "its name") -> str:
        """Say why a name, or another description, is that of no contrast: "'PD' is none of t1n, t1c, t2w, t2f"."""
        others = [text[word.start : word.end] for word in split(text) if word.kind == "other"]
        known = ", ".join(dict.fromkeys((*CONTRASTS, *self.own)))
        return f"'{others[-1]}' is none of {known}" if others else f"{what} says none of {known}"

    def _mine(self, words: Sequence[Word]) -> list[tuple[str, int, int]]:
        """One's own names in a text: contrast, first word, number of words; only the longest, all that are so long."""
        texts = [word.text for word in words]
        found = [
            (name, start, len(phrase))
            for name, aliases in self.own.items()
            for phrase in ([word.text for word in split(alias)] for alias in (*aliases, name))
            for start in range(len(texts) - len(phrase) + 1)
            if phrase and " ".join(phrase) not in _CANONICAL and texts[start : start + len(phrase)] == phrase
        ]
        longest = max((length for *_, length in found), default=0)
        return [match for match in found if match[2] == longest]


def split(text: str) -> list[Word]:
    """Return the words of a text, in lower case; phrases that are one word are joined."""
    single = [Word(m[0].casefold(), m.start(), m.end()) for m in re.finditer(r"[^\W_]+|[+*]", text)]
    words: list[Word] = []
    for word in single:
        joined = _FOLDED.get((words[-1].text, word.text)) if words else None
        if joined:
            words[-1] = Word(joined, words[-1].start, word.end)
        else:
            words.append(word)
    return words


def is_plain(word: str) -> bool:
    """Say whether a word alone has always been a contrast's name: "t1ce", but not "t1 mprage gd"."""
    return word.lower() in _CANONICAL


def is_without_contrast(text: str) -> bool:
    """Say whether a text says that no contrast agent was given: "none", "pre", "without"."""
    words = split(text)
    return says_native(text) or all(word.text in ("none", "0", "na", "n", "a", "nil") for word in words)


def says_native(text: str) -> bool:
    """Say whether a description says that no contrast agent was given: "T1 pre", "T1 without contrast"."""
    return _given(word.kind for word in split(text))[1]


def says_contrast_agent(text: str) -> bool:
    """Say whether a text clearly says that a contrast agent was given: "postcontrast", "Gd", not "post" alone."""
    return _given([word.kind for word in split(text) if word.kind != "post"]) == (True, False)


def _meanings(said: Iterable[str]) -> tuple[str, ...]:
    kinds = list(said)
    if "other" in kinds:
        return ()
    t1 = any(kind in _T1 for kind in kinds)
    t2 = "t2" in kinds
    flair = "t2f" in kinds or "flair" in kinds or (t2 and "tirm" in kinds)
    agent, native = _given(kinds)
    agent = agent or "t1c" in kinds
    unclear = native if agent else "unclear" in kinds and not native
    t1_names = ("t1c", "t1n") if unclear else ("t1c",) if agent else ("t1n",)
    return (*(t1_names if t1 else ()), *(("t2f",) if flair else ("t2w",) if t2 else ()))


def _given(kinds: Iterable[str]) -> tuple[bool, bool]:
    """Whether a contrast agent is said to be given, and not given; "without gadolinium" says the second only."""
    agent = native = denied = False
    for kind in kinds:
        if kind == "native":
            native = denied = True
        elif kind == "agent" and denied:
            continue
        elif kind in ("agent", "post"):
            agent, denied = True, False
        elif kind != "neutral":
            denied = False
    return agent, native


def _tail(words: Sequence[Word]) -> list[Word]:
    """The known words that a name ends in. A second T1 or T2 is no part: people number visits so."""
    tail: list[Word] = []
    for word in reversed(words):
        if word.kind in ("", "other"):
            break
        kinds = {w.kind for w in tail}
        if word.kind in _WEIGHTED and _crowded(word.kind, kinds):
            break
        if word.kind == "unclear" and kinds & set(_WEIGHTED):  # "c" before the contrast is a case's name
            break
        tail.insert(0, word)
    return tail


def _crowded(kind: str, kinds: set[str]) -> bool:
    weights = kinds & set(_WEIGHTED)
    pair = len(weights) == 1 and kind not in weights and "t1 sequence" in weights | {kind} <= {*_T1}
    return bool(weights) and not pair


def _without_leading(tail: list[Word]) -> list[Word]:
    """Without what need not belong to the contrast: "ax", or "post", which may be a visit's name."""
    start = next((i for i, word in enumerate(tail) if word.kind not in ("neutral", "native", "post")), len(tail))
    return tail[start:]


def read_aliases(path: Path) -> dict[str, tuple[str, ...]]:
    """Read one's own names of contrasts from a YAML file such as ``{t1c: [T1_KM, "MPRAGE post"], t2f: [dark fluid]}``.

    Raises:
        UserError: if the file is missing or not of this form, or a name is given twice or means another contrast.
    """
    tree = _yaml(Path(path))
    found: dict[str, tuple[str, ...]] = {}
    given: dict[tuple[str, ...], str] = {}
    for key, value in tree.items():
        if not isinstance(key, str) or not split(key):
            raise UserError(f"{path}: '{key}' is no contrast's name; expected one such as t1c; put it in quotes")
        name = _CANONICAL.get(key.lower(), key.lower())
        for alias in value if isinstance(value, list) else [value]:
            if not isinstance(alias, str):
                raise UserError(f"{path}: {key}: {alias!r} is no text; expected a name; put it in quotes, as '0000'")
            words = tuple(word.text for word in split(alias))
            if not words:
                raise UserError(f"{path}: {key}: '{alias}' has no letter or digit; expected a name; remove it")
            if words in given:
                raise UserError(f"{path}: '{alias}' is given twice, for {given[words]} and {name}; remove one")
            if (other := _CANONICAL.get(" ".join(words), name)) != name:
                raise UserError(f"{path}: '{alias}' already means {other}, it can't mean {name} too; remove it")
            given[words] = name
            found[name] = (*found.get(name, ()), alias)
    return found


def _yaml(path: Path) -> dict[Any, Any]:
    expected = "expected lines such as t1c: [T1_KM, MPRAGE post]"
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: can't be read ({(error.strerror or 'error').lower()}); {expected}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())}); {expected}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: no aliases in it; {expected}")
    return tree
