"""What the pages print: blocks, commands as a shell reads them, commands in running text, links."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GLOBS = ("README.md", "CONTRIBUTING.md", "docs/*.md", "notebooks/*.md", "metrics/*.md", "gen3d/pretrained/*/*.md")
PAGES = sorted(path for glob in GLOBS for path in ROOT.glob(glob))

FENCED = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
INLINE = re.compile(r"`(?=gen3d |python -m |python benchmarks/|make |pip |pytest |torchrun )([^`]+)`")
SHELL = r"""
said() { printf '%s\0' "$LINE" "$@"; printf '\036'; [[ $# = 1 && $1 = *=* ]]; }
shopt -s extdebug
trap 'LINE=$LINENO; eval "said $BASH_COMMAND"' DEBUG
"""  # bash tells the words of each command in place of running it; only assignments are made
ENVIRONMENT = {"PATH": "/nowhere", "USER": "reader", "SLURM_ARRAY_TASK_ID": "1", "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{name(self.page)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """The words of a command, as a shell hands them over, and what is set in its environment."""

    place: str
    words: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return " ".join(self.words)


def name(page: Path) -> str:
    """Return a page's place in the checkout."""
    return str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else page.name


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, from top to bottom."""
    text = page.read_text()
    found = [Block(page, text.count("\n", 0, m.start()) + 2, m[1], m[2]) for m in FENCED.finditer(text)]
    assert 2 * len(found) == len(re.findall(r"^\s*```", text, re.MULTILINE)), f"{page}: a fence that is not closed"
    return found


def commands(block: Block) -> list[Command]:
    """Return the commands of a bash block."""
    shell = ["/bin/bash", "--norc", "-c", SHELL + block.text]
    done = subprocess.run(shell, env=ENVIRONMENT, cwd="/", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), f"{block}: {done.stderr}"
    found = []
    for told in filter(None, done.stdout.split("\036")):
        line, *words = told.removesuffix("\0").split("\0")
        place = f"{name(block.page)}:{block.line + int(line) - 1 - SHELL.count(chr(10))}"
        found.append(command(place, words))
    return [each for each in found if each.words and each.words[0] != "set"]


def command(place: str, words: list[str]) -> Command:
    """Part what is set for a command alone, ``NAME=value command``, from its words."""
    count = next((i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), len(words))
    settings = tuple((name, value) for name, _, value in (word.partition("=") for word in words[:count]))
    return Command(place, tuple(words[count:]), settings)


def prose(page: Path) -> str:
    """Return the text of a page without its fenced blocks, which are left as empty lines."""
    return FENCED.sub(lambda match: "\n" * match[0].count("\n"), page.read_text())


def mentioned(page: Path) -> Iterator[Command]:
    """Yield the commands in backticks in the running text."""
    text = prose(page)
    for match in INLINE.finditer(text):
        place = f"{name(page)}:{text.count(chr(10), 0, match.start()) + 1}"
        for found in commands(Block(page, 1, "bash", " ".join(match[1].split()))):
            yield Command(place, found.words, found.environment)


def links(page: Path) -> Iterator[str]:
    """Yield the targets of the links and images of a page that are no addresses of the web."""
    yield from (target for target in LINK.findall(prose(page)) if not re.match(r"https?://|mailto:", target))


def anchors(page: Path) -> set[str]:
    """Return what GitHub calls the headings of a page: "# CT kernels, ours" is ct-kernels-ours."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
