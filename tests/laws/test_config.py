"""Configuration: a round trip loses nothing, and every mistake is one line that names the nearest."""

from pathlib import Path

import pytest

from gen3d.core.config import build, read_yaml, to_tree
from gen3d.core.error import UsageError
from gen3d.core.parameterization import EDM, X0, Betas, Flow, LogNormal
from gen3d.wavelet.completion import CompletionConfig


@pytest.mark.parametrize("parameterization", [X0(Betas(steps=10)), EDM(LogNormal(mean=-1), 0.5), Flow()])
def test_round_trip(parameterization: X0 | EDM | Flow) -> None:
    config = CompletionConfig(parameterization=parameterization, ranges=((0.0, 1.0),) * 4)
    assert build(CompletionConfig, to_tree(config)) == config


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"patsch": [1, 1, 1]}, "patsch: unknown key (did you mean 'patch'?)"),
        (
            {"network": {"in_channels": 64, "out_channels": 32, "widht": 8}},
            "network.widht: unknown key (did you mean 'width'?)",
        ),
        ({"parameterization": {"kind": "EMD"}}, "did you mean 'EDM'?"),
        ({"patch": [1, 2]}, "patch: expected 3 values, found 2"),
        ({"mean_share": "much"}, "mean_share: expected float, found 'much'"),
        ({"space": {"scale": "wmd"}}, "did you mean 'wdm'?"),
        ({"contrasts": ["a"]}, "expected at least two"),
        ({"network": {"in_channels": 64}}, "network.out_channels: missing"),
    ],
)
def test_mistakes_are_named(tree: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(CompletionConfig, tree)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMEWHERE", "scans")
    path = tmp_path / "a.yaml"
    path.write_text("data: {path: '${SOMEWHERE}/brats'}\ntrain: {steps: 1}\n")
    tree = read_yaml(path, ["train.steps=5", "train.lr=1e-3", "model.patch=[8, 8, 8]"])
    assert tree["data"]["path"] == "scans/brats"
    assert tree["train"]["steps"] == 5
    assert tree["model"]["patch"] == [8, 8, 8]
    with pytest.raises(UsageError, match="expected key=value"):
        read_yaml(path, ["steps"])
    with pytest.raises(UsageError, match="no such configuration file"):
        read_yaml(tmp_path / "b.yaml")
