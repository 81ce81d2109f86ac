"""Validation: kept-out patients, the same items every time, with the averaged weights, and training never notices."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from toy_training import Toy, cases, trainer

import gen3d
from gen3d.core.draws import collate
from gen3d.core.error import UsageError, UserError
from gen3d.core.training import CHECKPOINT, LOG, TrainConfig, Trainer
from gen3d.data.splits import is_validation
from gen3d.tools.train import run_training
from gen3d.tools.training_cases import keep_out

SMOKE = Path(__file__).parents[2] / "configs" / "smoke_completion.yaml"


def test_patients_are_kept_out_by_their_names_alone() -> None:
    """Hashed, so that others change nothing; the share is met; a larger share keeps all of a smaller one."""
    names = [f"patient{i}" for i in range(4000)]
    kept = {share: {name for name in names if is_validation(name, share)} for share in (0.0, 0.1, 0.25)}
    assert not kept[0.0]
    assert kept[0.1] < kept[0.25]
    assert len(kept[0.1]) / 4000 == pytest.approx(0.1, abs=0.015)
    first = min(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert first in kept[0.1]


def test_all_scans_of_a_patient_are_on_one_side() -> None:
    scans = [case for case in cases(30) for _ in range(2)]
    training, weights, validation = keep_out(scans, [float(i) for i in range(60)], 0.3)
    assert {c.patient for c in training}.isdisjoint({c.patient for c in validation})
    assert len(training) + len(validation) == 60
    assert weights == [float(i) for i, case in enumerate(scans) if not is_validation(case.patient, 0.3)]
    with pytest.raises(UserError, match=r"data\.validation: 1e-09 of 30 patients leaves none for validation; choose"):
        keep_out(scans, weights := [1.0] * 60, 1e-9)
    with pytest.raises(UserError, match="leaves none for training"):
        keep_out(scans, weights, 1 - 1e-12)


def test_training_is_the_same_bit_for_bit_whether_or_not_it_validates(tmp_path: Path) -> None:
    """Dropout is on, which draws from the one hidden state that there is."""
    states = {}
    for every in (0, 2):
        training = trainer(tmp_path / str(every), validate_every=every)
        training.system.guess.append(torch.nn.Dropout(0.2))
        torch.manual_seed(3)
        assert sum("validation/guess/error" in report for report in training.train()) == 6 * (every > 0)
        states[every] = torch.load(tmp_path / str(every) / CHECKPOINT, weights_only=True)
    flat = [torch.utils._pytree.tree_leaves([s["system"], s["objectives"]]) for s in states.values()]
    different = [a for a, b in zip(*flat, strict=True) if not (torch.equal(a, b) if torch.is_tensor(a) else a == b)]
    assert [d.shape for d in different] == [torch.Size([1])]  # the toy's own count of what it was asked


def test_a_line_says_what_the_averaged_weights_reach(tmp_path: Path) -> None:
    """Written at a validation step even where no line is due, with the mean over items ``seed/validation/i``."""
    training = trainer(tmp_path, steps=6, validate_every=4, log_every=5)
    reports = list(training.train())
    assert [report["step"] for report in reports] == [4, 5, 6]
    assert ["validation/guess/error" in report for report in reports] == [True, False, True]
    saved = Toy().eval()
    with training.averaged():
        saved.load_state_dict(training.system.state_dict())
    expected = []
    for i in range(5):
        key = f"0/validation/{i}"
        drawn = training.validations[0].draws[i]
        assert drawn[1] == key
        expected.append(saved.guess_loss(*collate([drawn]))["error"].item())
    assert reports[-1]["validation/guess/error"] == pytest.approx(sum(expected) / 5, rel=1e-6)
    assert training.system.training


def test_what_is_kept_out_is_measured_and_told(tmp_path: Path) -> None:
    """Of two phantoms one trains the model and the other is kept; the saved model says which."""
    options = [f"data.cache={tmp_path / 'cache'}", "data.validation=0.43", "train.validate_every=1"]
    model = run_training(SMOKE, options, tmp_path / "run", device="cpu")
    facts = gen3d.load(model).provenance
    kept = [name for name in ("BraTS-PHA-05000", "BraTS-PHA-05001") if is_validation(name, 0.43)]
    assert facts["validation"] == kept == ["BraTS-PHA-05001"]
    assert facts["phantoms"] == 1
    assert "1 patients were kept out for validation" in (model / "README.md").read_text()
    lines = [json.loads(line) for line in (tmp_path / "run" / LOG).read_text().splitlines()]
    assert all("validation/completion/noisy" in line for line in lines)
    with pytest.raises(UserError, match=r"data\.validation: 0\.001 of 2 patients leaves none for validation"):
        run_training(SMOKE, [options[0], "data.validation=0.001"], tmp_path / "none", device="cpu")
    with pytest.raises(UsageError, match=r"validation: 1\.5; expected a share"):
        run_training(SMOKE, ["data.validation=1.5"], tmp_path / "none", device="cpu")
    with pytest.raises(UsageError, match=r"no cases to validate on; set data\.validation"):
        run_training(SMOKE, [options[0], "train.validate_every=1"], tmp_path / "none", device="cpu")
    assert not (tmp_path / "none").exists()


def test_validation_needs_an_item(tmp_path: Path) -> None:
    config = TrainConfig(validate_every=1, validation_items=0)
    with pytest.raises(UsageError, match=r"train\.validation_items: 0; expected at least one"):
        Trainer(Toy(), cases(1), config, tmp_path, validation=cases(1, 10))
