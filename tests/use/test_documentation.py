"""What the pages print is run as printed, or, where that can't be, checked to exist; links lead somewhere."""

import re
from pathlib import Path

import pytest

from tests.use.documentation import PAGES, ROOT, Block, anchors, blocks, commands, links, mentioned, name
from tests.use.documentation_checks import complaint
from tests.use.documentation_runs import (
    GOES_ON,
    LANGUAGES,
    LEFT_TO_OTHERS,
    NOT_RUN,
    REFUSES,
    RUN,
    SHELL,
    SMALL,
    printed,
    run_page,
)
from tests.use.documentation_stage import GIVEN, STAGE


@pytest.mark.parametrize("page", RUN[0::2], ids=name)  # tests/use/test_documentation_too.py runs the others
def test_what_a_page_prints_runs(page: Path, tmp_path: Path) -> None:
    failures = run_page(page, tmp_path)
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_a_page_mentions_exists(page: Path) -> None:
    said = [f"{each.place}: {each}\n  {words}" for each in mentioned(page) if (words := complaint(each, mention=True))]
    assert not said, "\n".join(said)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name(page)}: {target}"
        assert not anchor or anchor in anchors(file), f"{name(page)}: {target}"


def test_every_block_has_a_known_language() -> None:
    pages = [page for page in PAGES if name(page) not in LEFT_TO_OTHERS]
    assert {block.language for page in pages for block in blocks(page)} <= {*LANGUAGES, *SHELL}


def test_nothing_in_the_tables_is_dead() -> None:
    said = [str(command) for page in RUN for command in printed(page)]
    code = [block.text for page in RUN for block in blocks(page) if block.language == "python"]
    for pattern in (*NOT_RUN, *(pattern for pattern, _ in SMALL), GOES_ON, REFUSES[0]):
        assert any(re.search(pattern, command) for command in said), pattern
    for word, pattern, _ in STAGE:
        if not word.startswith("../"):
            assert any(word in text and re.search(pattern, text) for text in said + code), f"{word}, {pattern}"
    for word in GIVEN:
        assert any(re.search(rf"\b{word}\b", text) for text in code), word


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gen3d generate --model hippocampus-wdm -o OUT --colour", "No such option: --colour"),
        ("gen3d generate --model", "requires an argument"),
        ("make supper", "supper"),
        ("pip install 'gen3d[bells]'", "bells"),
        ("python -m benchmarks.archive --whistles", "--whistles"),
        ("python -m benchmarks.nothing", "no such module"),
        ("pytest tests/use/test_supper.py", "no such test"),
        ("torchrun --nproc_per_node=2 -m gen3d.cli train", "Missing argument"),
        ("fortune", "a program that the tests do not know"),
    ],
)
def test_what_is_wrong_is_noticed(text: str, words: str) -> None:
    (command,) = commands(Block(ROOT / "README.md", 1, "bash", text))
    assert words in complaint(command)


def test_what_fails_is_told(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("""
```python
whole = 1 / 0
```
```bash
gen3d info hippocampus-wdm
gen3d info hippocampus-wdn  # no such model
```
```yaml
system: wdm
train: {step: 1}
```
""")
    division, info, key = run_page(page, tmp_path)
    assert "ZeroDivisionError" in division
    assert info.startswith("page.md:7: gen3d info hippocampus-wdn")
    assert "did you mean 'steps'" in key
