"""The other half of the pages that tests/use/test_documentation.py runs, so that two processes share the work."""

from pathlib import Path

import pytest

from tests.use.documentation import name
from tests.use.documentation_runs import RUN, run_page


@pytest.mark.parametrize("page", RUN[1::2], ids=name)
def test_what_a_page_prints_runs(page: Path, tmp_path: Path) -> None:
    failures = run_page(page, tmp_path)
    assert not failures, "\n".join(failures)
