"""Going on from a saved model on one's own archive: held-out patients decide when to stop and which model is kept."""

import json
from pathlib import Path

import pytest
import torch
from toy_training import trainer

import gen3d
from gen3d.core.checkpoint import load_state
from gen3d.core.early_stop import EarlyStop
from gen3d.core.error import UsageError, UserError
from gen3d.core.training import BEST, CHECKPOINT
from gen3d.data.phantom import write_phantom
from gen3d.nn.adapter import adapt, merged
from gen3d.tools.train import packaged_config, read_experiment, run_training

SMOKE = Path(__file__).parents[2] / "configs" / "smoke_completion.yaml"
SIZE, SPACING = (40, 48, 40), 4.0


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients, one without FLAIR."""
    folder = tmp_path_factory.mktemp("archive")
    for seed in range(6000, 6004):
        place = write_phantom(folder, seed, SIZE, SPACING, lesion="tumour" if seed % 2 else None)
    next(place.glob("*t2f.nii.gz")).unlink()
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt next to nothing."""
    folder = tmp_path_factory.mktemp("base")
    return run_training(SMOKE, [f"data.cache={folder / 'cache'}"], folder / "run", device="cpu")


def losses(kept: dict[float, float], seen: dict[float, float] | None = None) -> dict[str, float]:
    found = {f"validation/o/sigma {level:g}": value for level, value in kept.items()}
    return found | {f"seen/o/sigma {level:g}": value for level, value in (seen or kept).items()}


def test_what_turns_and_when_to_stop() -> None:
    """Levels count alike whatever the size of their losses; each one's turn is told."""
    early = EarlyStop(patience=2)
    assert early.take(0, losses({0.5: 1.0, 2: 100.0}))
    assert early.take(10, losses({0.5: 0.5, 2: 90.0}))
    assert not early.take(20, losses({0.5: 0.8, 2: 70.0}))
    assert not early.finished
    assert not early.take(30, losses({0.5: 0.9, 2: 80.0}))
    assert early.finished
    assert early.best == 10
    assert early.turned() == {"o/sigma 0.5": 10, "o/sigma 2": 20}
    assert EarlyStop(2, early.rows).best == 10


def test_memorising_is_told_where_held_out_and_seen_losses_part() -> None:
    early = EarlyStop(patience=5)
    early.take(0, losses({0.5: 1.0, 2: 1.0}))
    early.take(10, losses({0.5: 0.9, 2: 0.9}))
    assert not early.memorising()
    early.take(20, losses({0.5: 0.95, 2: 0.8}, {0.5: 0.95, 2: 0.7}))
    assert not early.memorising()  # both rose at 0.5: noise, or another data set, not memory
    early.take(30, losses({0.5: 0.99, 2: 0.7}, {0.5: 0.7, 2: 0.5}))
    assert early.memorising() == "memorising since step 10, at sigma 0.5 (+10% kept out, -22% seen)"


def test_the_best_weights_are_saved_and_a_resumed_run_stops_where_an_undisturbed_one_does(tmp_path: Path) -> None:
    settings = {"lr": 0.05, "ema": 0.0, "validate_every": 1, "patience": 2, "steps": 40, "checkpoint_every": 2}
    whole = trainer(tmp_path / "whole", "alone", **settings)
    reports = list(whole.train())
    assert reports[0]["step"] == 0
    assert whole.early.finished
    assert whole.step == whole.early.rows[-1][0] < 40
    best = load_state(tmp_path / "whole" / BEST)["system"]
    assert all(torch.equal(best[name], value) for name, value in whole.system.state_dict().items())
    assert whole.system.provenance["training"]["best_step"] == whole.early.best
    for report in trainer(tmp_path / "cut", "alone", **settings).train():
        if report["step"] == 1:
            break
    again = trainer(tmp_path / "cut", "alone", **settings)
    list(again.train())
    assert again.early.rows == whole.early.rows
    once_more = trainer(tmp_path / "whole", "alone", **settings)
    assert list(once_more.train()) == []
    assert once_more.step == whole.step
    states = [load_state(tmp_path / name / CHECKPOINT)["validations"] for name in ("whole", "cut")]
    assert states[0] == states[1]
    with pytest.raises(UsageError, match=r"train\.patience: no early stop with train\.shard"):
        trainer(tmp_path / "shard", "shard", patience=1)


def test_adapters_start_as_nothing_train_alone_and_merge() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv3d(2, 8, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv3d(8, 1, 1))
    names, x = set(network.state_dict()), torch.randn(2, 2, 5, 5, 5)
    before, frozen = network(x), network[0].weight.detach().clone()
    adapt(network, 2)
    assert torch.equal(network(x), before)
    assert sum(p.numel() for p in network.parameters()) == 2 * (8 + 54) + 8 + 2 * (1 + 8) + 1
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):  # the first step moves one factor alone
        network(x).square().sum().backward()
        optimizer.step()
    after, plain = network(x), merged(network)
    assert not torch.allclose(after, before)
    assert torch.allclose(plain(x), after, atol=1e-6)
    assert set(plain.state_dict()) == names
    assert torch.equal(network(x), after)  # the merged one is a copy
    assert torch.equal(network[0].parametrizations.weight.original, frozen)
    change = (plain[0].weight - frozen).flatten(1)
    assert torch.linalg.matrix_rank(change, rtol=1e-4) == 2


def test_the_loss_of_an_item_at_its_own_noise_level_is_its_loss() -> None:
    from gen3d.core.config import build
    from gen3d.core.randomness import derive, uniform
    from gen3d.data.phantom import phantom
    from gen3d.systems import system_class

    experiment = read_experiment(SMOKE)
    kind = system_class("completion")
    system = kind(build(kind.Config, experiment.model, "model"))
    for parameter in system.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    case = system.prepare(phantom(6000, SIZE, SPACING))
    levels = system.config.parameterization.levels
    for key in ("0/0/0", "0/0/1", "0/0/2", "0/0/3"):
        example = system.example(case, key)
        terms = system.loss(example, [key])
        mean = float(uniform([derive(key, "mean")])) < system.config.mean_share
        sigma = torch.tensor([float("inf")]) if mean else levels.draw(uniform([derive(key, "sigma")]))
        assert system.loss_at(example, [key], sigma).item() == pytest.approx(sum(terms.values()).item(), rel=1e-5)


def test_an_archive_trains_is_compared_and_judged(archive: Path, base: Path, tmp_path: Path, capsys) -> None:
    options = [f"data={archive}", f"init={base}", f"data.cache={tmp_path / 'cache'}"]
    more = ["train.steps=40", "train.validate_every=20", "train.lr=0.003", "train.ema=0"]
    model = run_training(SMOKE, [*options, *more], tmp_path / "run", device="cpu")
    said = capsys.readouterr().out
    assert "left out: BraTS-PHA-06003-000 (lacks t2f)" in said
    assert "3 of 4 studies are complete, 3 patients" in said
    assert "2 cases (0 patients, 2 phantoms; 1 for validation)" in said
    assert "least held-out loss: sigma 0.1 at" in said
    assert "1 patient held out, 2 trained on" in said
    steps = [
        f"preparing the studies of {archive} (4), kept in",
        "training 40 steps on cpu",
        "measuring the usual error",
    ]
    steps += ["comparing with run/model on 1 case held out", f"{tmp_path / 'run' / 'model'}: saved after 40 steps"]
    assert [word for word in said.splitlines() if word.startswith(tuple(steps))][-1] == said.splitlines()[-1]
    places = [said.index(words) for words in steps]
    assert places == sorted(places)
    assert model == tmp_path / "run" / "model"
    tree = json.loads((tmp_path / "run" / "held_out.json").read_text())
    assert {row["contrast"] for row in tree["rows"]} == {"t1n", "t1c", "t2w", "t2f"}
    gains = [r["scores"]["after"]["brain"] - r["scores"][tree["base"]]["brain"] for r in tree["rows"]]
    assert tree["gains"]["brain"]["mean"] == pytest.approx(sum(gains) / 4)
    assert tree["gains"]["brain"]["mean"] > 0
    card = (model / "README.md").read_text()
    assert "voxel-wise regression" in card
    assert "Training started from `run/model`" in card
    facts = gen3d.load(model).provenance
    assert facts["base"]["phantoms"] == 2
    assert facts["validation"][0] not in facts["names"]


def test_a_worse_model_never_takes_its_bases_place(archive: Path, base: Path, tmp_path: Path, capsys) -> None:
    """Random leaps instead of learning: the base's own weights are the best, and what is no better is put aside."""
    options = [f"data={archive}", f"init={base}", f"data.cache={tmp_path / 'cache'}", "train.ema=0"]
    options += ["train.steps=2", "train.validate_every=1", "train.lr=30", "train.clip=null"]
    model = run_training(SMOKE, options, tmp_path / "run", device="cpu")
    assert model == base
    assert not (tmp_path / "run" / "model").exists()
    assert (tmp_path / "run" / "rejected" / "model_index.json").is_file()
    assert f"no better than run/model on patients held out: put into {tmp_path / 'run' / 'rejected'}" in (
        capsys.readouterr().out
    )


def test_adapters_train_from_the_command_line_and_save_plain_weights(archive: Path, base: Path, tmp_path: Path) -> None:
    options = [f"data={archive}", f"init={base}", f"data.cache={tmp_path / 'cache'}", "data.validation=0"]
    model = run_training(SMOKE, [*options, "train.adapter=2", "train.steps=2"], tmp_path / "run", device="cpu")
    tuned, plain = gen3d.load(model).state_dict(), gen3d.load(base).state_dict()
    assert set(tuned) == set(plain)
    assert any(not torch.equal(tuned[name], plain[name]) for name in tuned if name.endswith("weight"))


def test_what_an_archive_needs_is_said(archive: Path, base: Path, tmp_path: Path) -> None:
    cache = f"data.cache={tmp_path / 'cache'}"
    hold_out = "data.hold_out=[BraTS-PHA-06000-000, BraTS-PHA-06001-000]"
    with pytest.raises(UserError, match=r"data\.archive: its complete studies are of one patient"):
        run_training(SMOKE, [f"data={archive}", f"init={base}", cache, hold_out], tmp_path / "run", device="cpu")
    with pytest.raises(UserError, match=r"none of its 1 studies is complete; expected some with all of t1n, t1c"):
        run_training(SMOKE, [f"data={archive / 'BraTS-PHA-06003-000'}", cache], tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_what_is_not_said_is_gentle_and_what_is_said_counts() -> None:
    experiment = read_experiment(packaged_config("completion_brain_small"), ["data=there", "init=brain-completion"])
    assert experiment.train.lr == pytest.approx(0.15 * 2e-3)
    assert experiment.train.patience
    told = read_experiment(
        packaged_config("completion_brain_small"), ["data=there", "init=x", "train.lr=1e-3", "train.steps=7"]
    ).train
    assert (told.lr, told.steps) == (1e-3, 7)
    assert read_experiment(packaged_config("completion_brain_small")).train.patience == 0


def test_validation_may_be_turned_on_at_a_checkpoint(tmp_path: Path) -> None:
    """What a run that did not validate lacks is no reason to lose it: the first validation counts as its start."""
    blind = trainer(tmp_path, "alone", patience=2, validate_every=0, checkpoint_every=2)
    for report in blind.train():
        if report["step"] == 3:
            break
    seeing = trainer(tmp_path, "alone", patience=2, validate_every=2, checkpoint_every=2)
    assert next(seeing.train())["step"] == 2
    assert seeing.early.best == 2
