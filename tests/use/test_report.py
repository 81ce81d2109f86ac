"""gen3d report: everything that was written is on the page, marked, escaped, worst first, and nothing leaves it."""

import base64
import gzip
import json
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import Run
from matplotlib.colors import to_rgb
from report_folders import Page, archive, augmented, evaluated, scan, segmented, wrote

from gen3d.core.error import UserError
from gen3d.core.volume import Volume
from gen3d.data.nifti import write
from gen3d.tools.preview import Panel, head, layout, view_of
from gen3d.tools.report import niivue as bundle
from gen3d.tools.report import sheet as sheets
from gen3d.tools.report.found import find
from gen3d.tools.report.images import written
from gen3d.tools.report.parts import WATERMARK
from gen3d.tools.report.report import TEXT, report


def numbers(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict | list):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from numbers(item)
    elif isinstance(tree, int | float) and not isinstance(tree, bool):
        yield json.dumps(tree)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, phantoms: Path, tiny_model: Path) -> tuple[Path, Path]:
    """A run of synthesize whose FLAIR was hidden, and its input."""
    from gen3d.cli import run

    out = tmp_path_factory.mktemp("made") / "OUT"
    model = ["--model", str(tiny_model), "--mode", "sample", "--samples", "2", "--missing", "t2f"]
    assert run(["synthesize", "-i", str(phantoms), "-o", str(out), *model]) == 0
    return out, phantoms


@pytest.fixture(scope="module")
def page(made: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = tmp_path_factory.mktemp("page") / "report.html"
    report(made[0], path, source=made[1])
    return Page(path)


def test_every_number_of_every_record_is_on_the_page(made: tuple[Path, Path], page: Page) -> None:
    records = sorted(made[0].rglob("*.json"))
    assert len(records) == 5  # mean, deviation, two samples, and what became of the case
    for path in records:
        missing = [n for n in numbers(json.loads(path.read_text())) if n not in page.text]
        assert not missing, path
    sha = json.loads(next(made[0].rglob("*_std.json"), records[0]).read_text())["model"]["weights_sha256"]
    assert sha in page.text


def test_nothing_leaves_the_page(page: Page, tmp_path: Path) -> None:
    report(evaluated(archive(tmp_path / "OUT", {"a": "made", "b": "failed"})), tmp_path / "page.html")
    other = Page(tmp_path / "page.html")
    elements = [*page.elements, *other.elements]
    links = [about[name] or "" for _, about in elements for name in ("src", "href") if name in about]
    assert {link[:5] for link in links} == {"#case", "data:"}
    policies = {about["content"] for _, about in elements if about.get("http-equiv") == "Content-Security-Policy"}
    assert len(policies) == 1
    assert "default-src 'none'" in str(policies)
    assert "http" not in str(policies)
    assert not [tag for tag, _ in elements if tag in ("link", "iframe", "object", "embed")]


def test_generated_panels_are_marked_and_given_ones_are_not(page: Page) -> None:
    figures = page.with_class("panel")
    roles = [str(about["class"]).split()[1] for about in figures]
    assert roles == ["input"] * 3 + ["output"] * 2 + ["reference", "uncertainty", "difference"]
    labels = [
        str(about["aria-label"]) for tag, about in page.elements if tag == "canvas" and about.get("role") == "img"
    ]
    for role, about, label in zip(roles, figures, labels, strict=True):
        generated = role not in ("input", "reference")
        assert ("synthetic" in str(about["class"]).split()) == generated
        assert (WATERMARK in label) == generated
    told = json.loads(page.scripts["data"])
    assert [panel["synthetic"] for panel in told["panels"]] == [role not in ("input", "reference") for role in roles]
    assert page.text.count("SYNTHETIC") >= sum(panel["synthetic"] for panel in told["panels"])


def test_volumes_on_the_page_show_the_files_voxels_at_their_places(made: tuple[Path, Path], page: Page) -> None:
    told = json.loads(page.scripts["data"])["volumes"]
    titles = [volume["title"] for volume in told]
    files = {
        "FLAIR, mean of samples": next(made[0].rglob("*-t2f.nii.gz")),
        "T2": next(made[1].rglob("*-t2w.nii.gz")),
        "FLAIR, standard deviation of samples": next(made[0].rglob("*_std.nii.gz")),
    }
    for title, path in files.items():
        shown, true = page.volume(0, titles.index(title)), nib.load(path)
        step = (np.linalg.inv(true.affine) @ shown.affine)[:3]
        at = np.array(np.meshgrid(*map(np.arange, shown.shape), indexing="ij")).reshape(3, -1)
        there = np.rint(step[:, :3] @ at + step[:, 3:]).astype(int)
        values = true.get_fdata()[tuple(there)].reshape(shown.shape)
        top = np.percentile(values, 99.99)
        assert np.abs(shown.get_fdata() - values.clip(max=top)).max() <= 0.51 * top / 255 + 1e-6
        assert (shown.get_fdata()[values == 0] == 0).all()


def test_a_difference_is_made_minus_true(made: tuple[Path, Path], page: Page) -> None:
    told = json.loads(page.scripts["data"])["volumes"]
    index = next(i for i, volume in enumerate(told) if volume["kind"] == "difference")
    assert told[index]["title"].startswith("FLAIR, mean of samples - FLAIR; grey values fitted by a line")
    fake, real = (nib.load(next(folder.rglob("*-t2f.nii.gz"))).get_fdata() for folder in made)
    inside = (fake != 0) & (real != 0)
    line = np.polyfit(fake[inside], real[inside], 1)
    expected = np.where(inside, np.polyval(line, fake) - real, 0)
    shown = page.volume(0, index).get_fdata()
    assert shown.min() < 0 < shown.max()
    assert np.isclose(
        np.sort(shown.ravel())[::500], np.sort(expected.ravel())[::500], atol=0.02 * np.ptp(expected)
    ).all()


def test_results_are_left_alone_and_the_page_is_the_same_again(made: tuple[Path, Path], tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in made[0].rglob("*") if path.is_file()}
    first = report(made[0], tmp_path / "a.html", source=made[1], sheet=True)
    report(made[0], tmp_path / "b.html", source=made[1])
    assert {path: path.read_bytes() for path in made[0].rglob("*") if path.is_file()} == before
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    (sheet,) = first.sheets
    assert sheet.read_bytes()[:4] == b"\x89PNG"


def test_text_is_escaped(tmp_path: Path) -> None:
    bad = "<img src=x onerror=alert(1)></script>&"
    folder = segmented(tmp_path / "OUT", "case1", kind=bad, sources=[bad])
    report(folder, tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert not [about for tag, about in page.elements if tag == "img" or "onerror" in about]
    assert bad in page.text
    assert json.loads(page.scripts["data"])["volumes"][0]["title"] == bad


def test_the_worst_case_comes_first_and_the_rest_is_counted(tmp_path: Path) -> None:
    folder = archive(tmp_path / "OUT", {"fine": "made", "odd": "outside", "broken": "failed", "poor": "made"})
    told: list[str] = []
    made = report(folder, tmp_path / "page.html", count=2, note=told.append)
    page = Page(tmp_path / "page.html")
    assert [case.name for case in find(folder).cases] == ["broken", "odd", "poor", "fine"]
    words = [page.text.index(name) for name in ("broken", "odd", "poor", "fine")]
    assert words == sorted(words)  # in the table, all of them
    assert [ready.case.name for ready in made.shown] == ["odd", "poor"]  # of the broken one there is no image
    assert len(page.with_class("case")) == 2
    assert any("1 more case not shown (--cases 2)" in words for words in told)
    assert "no such scan" in page.text  # why the broken one failed


def test_a_page_stays_as_small_as_asked(tmp_path: Path) -> None:
    folder = archive(tmp_path / "OUT", {f"case{i}": "made" for i in range(3)}, size=32)
    whole = report(folder, tmp_path / "whole.html")
    assert len(whole.shown) == 3
    one, rest = whole.shown[0].size, len(bundle.niivue()[0] or "") + TEXT
    told: list[str] = []
    small = report(folder, tmp_path / "small.html", largest=rest + one + one // 2, note=told.append)
    assert small.bytes <= rest + one + one // 2
    assert [len(ready.panels) for ready in small.shown] == [1]
    assert "2 more cases not shown (the page would be larger than" in told[0]
    assert told[0] in Page(tmp_path / "small.html").text
    coarse = report(folder, tmp_path / "coarse.html", largest=rest + one // 2)
    assert [len(ready.panels) for ready in coarse.shown] == [1]
    assert "every 2. voxel" in " ".join(coarse.shown[0].notes)
    assert coarse.bytes <= rest + one // 2


def test_raters_stand_beside_samples(tmp_path: Path) -> None:
    folder = segmented(tmp_path / "OUT", "case1")
    masks = np.zeros((3, 12, 10), dtype=np.uint8)
    masks[0, 2:8, 2:8] = masks[1, 3:8, 2:8] = 1
    np.savez(tmp_path / "raters.npz", case1_image=np.arange(120).reshape(12, 10), case1_masks=masks)
    made = report(folder, tmp_path / "page.html", source=tmp_path / "raters.npz")
    panels = {panel.title: panel for panel in made.shown[0].panels}
    assert list(panels) == [
        *("image", "most likely label", "2 samples of case1", "share of 3 raters", "3 raters", "brain: probability"),
        "brain: probability - share of 3 raters",
    ]
    assert len(panels["3 raters"].images) == 3
    assert [panels[name].heading for name in ("brain: probability", "image")] == ["probability", "input"]
    assert not panels["share of 3 raters"].synthetic
    assert {panel.under for panel in panels.values()} == {None, 0}  # all lie on the image
    share = made.shown[0].images[panels["share of 3 raters"].images[0]].volume().voxels
    assert np.isclose(np.unique(share), [0, 1 / 3, 2 / 3]).all()
    page = Page(tmp_path / "page.html")
    assert "rater 1, 0.036 mL" in page.text


def test_names_that_mean_two_files_are_told_rather_than_guessed(tmp_path: Path) -> None:
    folder = archive(tmp_path / "OUT", {"case1": "made"})
    for name in ("a", "b"):
        scan(tmp_path / "in" / name / "t1.nii.gz", 5)
    made = report(folder, tmp_path / "page.html", source=tmp_path / "in")
    assert made.shown[0].notes[0].startswith("t1.nii.gz: 2 files of this name")
    (tmp_path / "in" / "a").rename(tmp_path / "in" / "case1")
    made = report(folder, tmp_path / "page.html", source=tmp_path / "in")
    assert [panel.role for panel in made.shown[0].panels][:1] == ["input"]


def test_a_damaged_image_is_named_and_the_others_shown(tmp_path: Path) -> None:
    folder = segmented(tmp_path / "OUT", "case1")
    (folder / "case1" / "case1_probability.nii.gz").write_bytes(b"no image")
    made = report(folder, tmp_path / "page.html")
    assert "case1_probability.nii.gz: can't be read" in made.shown[0].notes[0]
    assert len(made.shown[0].panels) == 2


def test_contact_sheets_never_cut_the_warning_and_name_each_label(tmp_path: Path) -> None:
    """As narrow as a sheet of one column is, and with outlines of two labels."""
    mask = np.zeros((12, 10, 8), dtype=np.uint8)
    mask[2:6, 2:7, 2:6], mask[6:10, 2:7, 2:6] = 1, 2
    path = tmp_path / "case1_seg.nii.gz"
    write(Volume(mask, np.eye(4)), path)
    facts = {"segmented": "case1", "kind": "most likely label", "labels": {"1": "front", "2": "back"}}
    column = sheets.Column("", written(path, facts), [Volume(mask, np.eye(4))], None)
    figure, cells = layout(1, view_of(mask > 0, None, np.eye(4)), 3)
    sheets.paint(cells[0][0], column, 0, view_of(mask > 0, None, np.eye(4)))
    colours = [tuple(lines.get_edgecolor()[0][:3]) for lines in cells[0][0].collections]
    assert len(set(colours)) == 2
    sheets.small_print(figure, sheets.labels(column))
    drawn = {text.get_text(): text for text in figure.texts}
    assert [to_rgb(drawn[f"— {name}"].get_color()) for name in ("front", "back")] == colours
    figure.canvas.draw()
    footer = next(text for words, text in drawn.items() if "Not for diagnosis" in words)
    assert footer.get_window_extent().x1 < figure.bbox.x1
    assert footer.get_window_extent().y1 < drawn["— front"].get_window_extent().y0 + 1


def test_a_difference_says_what_its_colours_mean() -> None:
    panel = Panel(Volume(np.ones((4, 4, 4)), np.eye(4)), "made - true", kind="difference")
    _, cells = layout(1, view_of(np.ones((4, 4, 4), dtype=bool), None, np.eye(4)), 2)
    head(cells[0][0], panel, -2, 2)
    assert cells[0][0].get_title().splitlines() == ["made - true", "-2 to 2", "blue: darker, red: brighter"]


def test_evaluations_show_their_tables_baselines_and_warnings(tmp_path: Path) -> None:
    told: list[str] = []
    report(evaluated(tmp_path / "OUT"), tmp_path / "page.html", sheet=True, note=told.append)
    assert told[-1].endswith("holds no images, so there is no contact sheet")
    page = Page(tmp_path / "page.html")
    for words in ("best copy", "14.66", "14.14", "synthetic", "don't beat the best copy", "evaluate pairs"):
        assert words in page.text
    assert any(str(about.get("src")).startswith("data:image/png") for tag, about in page.elements if tag == "img")


def test_data_sets_show_cases_and_what_gates_refused(tmp_path: Path) -> None:
    made = report(augmented(tmp_path / "OUT"), tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert "labels 2, copy 1" in page.text
    assert "core has 112 mL; real ones 46.2 to 57.3 mL" in page.text
    assert page.text.index("synth_000002") < page.text.index("synth_000001")  # the one that was given up
    assert [(one.case.name, [panel.kind for panel in one.panels]) for one in made.shown] == [
        ("synth_000001", ["image", "mask"])
    ]


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.mkdir(), "is empty"),
        (lambda folder: folder.write_text(""), "is a file"),
        (lambda folder: scan(folder / "scan.nii.gz", 5), "holds nothing that gen3d wrote"),
        (lambda folder: wrote(folder / "x.json", {"synthetic": False}), "holds nothing that gen3d wrote"),
    ],
)
def test_what_is_no_result_is_one_line(gen3d: Run, tmp_path: Path, prepare: Any, words: str) -> None:
    prepare(tmp_path / "OUT")
    status, out, err = gen3d("report", tmp_path / "OUT", "-o", tmp_path / "page.html")
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert words in err
    assert not (tmp_path / "page.html").exists()


def test_pages_of_others_are_left_alone(gen3d: Run, tmp_path: Path) -> None:
    folder = segmented(tmp_path / "OUT", "case1")
    assert gen3d("report", folder, "-o", tmp_path / "page.txt")[0] == 2
    assert gen3d("report", folder, "--cases", "0")[0] == 2
    (folder / "report.html").write_text("<p>mine</p>")
    status, _, err = gen3d("report", folder)
    assert status == 1
    assert "gen3d did not write it" in err
    assert (folder / "report.html").read_text() == "<p>mine</p>"
    (folder / "report.html").unlink()
    status, out, _ = gen3d("report", folder, "--dry-run")
    assert status == 0
    assert "would be written" in out
    assert not (folder / "report.html").exists()
    for _ in range(2):  # one of ours may be replaced
        status, out, _ = gen3d("report", folder)
        assert (status, out.strip()) == (0, str(folder / "report.html"))


def test_without_niivue_slices_are_shown_and_the_page_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise PackageNotFoundError(name)

    folder = segmented(tmp_path / "OUT", "case1")
    monkeypatch.setattr(bundle, "distribution", absent)
    told: list[str] = []
    report(folder, tmp_path / "page.html", note=told.append)
    page = Page(tmp_path / "page.html")
    assert "pip install 'gen3d[report]'" in told[0]
    assert told[0] in page.text
    assert "niivue" not in page.scripts
    assert len(page.with_class("panel")) == 3
    assert not page.with_class("solid")


def test_niivue_comes_from_its_package() -> None:
    packed, why = bundle.niivue()
    if packed is None:
        pytest.skip(why)
    code = gzip.decompress(base64.b64decode(packed)).decode()
    assert code.rstrip().endswith('dispatchEvent(new Event("niivue"));')
    assert "attachToCanvas" in code
    assert "export{" not in code[-200:]


def test_an_input_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    folder = segmented(tmp_path / "OUT", "case1")
    with pytest.raises(UserError, match=r"--input .*no such file or folder"):
        report(folder, tmp_path / "page.html", source=tmp_path / "nowhere")
