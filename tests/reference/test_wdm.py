"""Official WDM and cWDM checkpoints: our networks answer as theirs did, our sampler walks where theirs walked."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import gen3d
from gen3d.core.checkpoint import save_model
from gen3d.core.condition import Condition
from gen3d.core.error import UsageError, UserError
from gen3d.core.system import System
from gen3d.interop.wdm import import_checkpoint
from gen3d.samplers import ancestral

CASES = {"wdm_unet": "wdm", "wdm_wavunet": "wdm", "cwdm_unet": "cwdm"}
every = pytest.mark.parametrize("name", CASES)


def imported(name: str, reference: Path, folder: Path, target: str | None = None) -> System:
    """Import, load, save again and load again: what is compared has been through everything."""
    files = reference / CASES[name] / name
    import_checkpoint(CASES[name], files.with_suffix(".pt"), files.with_suffix(".json"), target, folder / "imported")
    save_model(gen3d.load(folder / "imported"), folder / "saved")
    return gen3d.load(folder / "saved")


def recorded(name: str, reference: Path) -> dict[str, Tensor]:
    return {key: torch.from_numpy(v) for key, v in np.load(reference / CASES[name] / f"{name}.npz").items()}


@every
@torch.no_grad()
def test_network_answers_as_the_official_one(name: str, reference_folder: Path, tmp_path: Path) -> None:
    network: Any = imported(name, reference_folder, tmp_path).network
    known = recorded(name, reference_folder)
    assert float((network(known["x"], known["t"]) - known["y"]).abs().max()) < 2e-5
    about = json.loads((reference_folder / CASES[name] / f"{name}.json").read_text())
    assert sum(p.numel() for p in network.parameters()) == about["params"]


@torch.no_grad()
def test_condition_may_come_by_itself(reference_folder: Path, tmp_path: Path) -> None:
    network: Any = imported("cwdm_unet", reference_folder, tmp_path).network
    known = recorded("cwdm_unet", reference_folder)
    y = network(known["x"][:, :8], known["t"], channels=known["x"][:, 8:])
    assert float((y - known["y"]).abs().max()) < 2e-5


@every
@torch.no_grad()
def test_our_sampler_walks_the_recorded_trajectory(name: str, reference_folder: Path, tmp_path: Path) -> None:
    system = imported(name, reference_folder, tmp_path)
    known = recorded(name, reference_folder)
    condition = Condition()
    if "traj_cond" in known:
        condition = Condition(channels=known["traj_cond"], present=torch.tensor([[False, True, True, True]]))
    table = system.config.parameterization.levels.table
    denoise, noises, states, guesses = system.denoise(condition, ["0"]), iter(known["traj_noise"]), [], []

    def walk(x: Tensor, start: int, end: int) -> Tensor:
        """Walk the chain from its step ``start`` to ``end``, -1 being the clean volume; x is DDPM's state."""
        sigmas = torch.tensor(
            [float(table[t]) if t >= 0 else 0.0 for t in range(start, end - 1, -1)], dtype=torch.float64
        )

        def record(step: int, x: Tensor, x0: Tensor) -> None:
            states.append(x / (1 + sigmas[step + 1] ** 2).sqrt())
            guesses.append(x0)

        x = x * (1 + sigmas[0] ** 2).sqrt().float()
        ancestral(denoise, x, sigmas, variance="large", noise=lambda _: next(noises), callback=record)
        return states[-1]

    walk(walk(known["traj_x_T"], 999, 996), 3, -1)
    assert known["traj_t"].tolist() == [999, 998, 997, 3, 2, 1, 0]
    assert float((torch.stack(guesses) - known["traj_x0"]).abs().max()) < 1e-4
    assert float((torch.stack(states) - known["traj_sample"]).abs().max()) < 1e-4


def test_chain_is_the_official_one(reference_folder: Path, tmp_path: Path) -> None:
    betas = np.load(reference_folder / "wdm" / "schedule.npz")["betas"]
    alpha_bar = np.cumprod(1 - betas)
    table = imported("wdm_unet", reference_folder, tmp_path).config.parameterization.levels.table
    np.testing.assert_allclose(table.numpy(), np.sqrt((1 - alpha_bar) / alpha_bar), rtol=1e-12)


@torch.no_grad()
def test_targets_imported_into_one_folder_make_one_model(reference_folder: Path, tmp_path: Path) -> None:
    files, folder = reference_folder / "cwdm" / "cwdm_unet", tmp_path / "model"
    weights = torch.load(files.with_suffix(".pt"), weights_only=True)
    torch.save({name: tensor + 0.01 for name, tensor in weights.items()}, tmp_path / "other.pt")
    import_checkpoint("cwdm", files.with_suffix(".pt"), files.with_suffix(".json"), "t2f", folder)
    import_checkpoint("cwdm", tmp_path / "other.pt", files.with_suffix(".json"), None, folder)
    system: Any = gen3d.load(folder)
    assert list(system.networks) == ["t1n", "t2f"]
    assert set(system.provenance["imported"]) == {"t1n", "t2f"}
    card = (folder / "README.md").read_text()
    assert all(entry["sha256"] in card for entry in system.provenance["imported"].values())
    known = recorded("cwdm_unet", reference_folder)
    assert float((system.networks["t2f"](known["x"], known["t"]) - known["y"]).abs().max()) < 2e-5
    assert float((system.networks["t1n"](known["x"], known["t"]) - known["y"]).abs().max()) > 1e-2
    with pytest.raises(UserError, match=r"networks\[target\]"):
        _ = system.network
    sigma, x = torch.tensor(10.0, dtype=torch.float64), known["traj_x_T"]
    first, last = (
        system.denoise(
            Condition(channels=known["traj_cond"], present=torch.tensor([[i != c for i in range(4)]])), ["0"]
        )(x, sigma)
        for c in (0, 3)
    )
    assert float((first - last).abs().max()) > 1e-3  # the missing contrast picks its network


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('the payload ran')",))


@pytest.mark.parametrize("inside", [Payload(), {"weight": torch.zeros(1), "code": Payload()}])
def test_a_pickle_payload_is_refused_and_never_runs(inside: Any, tmp_path: Path) -> None:
    torch.save(inside, tmp_path / "bad.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(inside, protocol=2))
    for name in ("bad.pt", "plain.pt"):
        with pytest.raises(UserError, match="refused") as failure:
            import_checkpoint("wdm", tmp_path / name, None, None, tmp_path / "model")
        assert "\n" not in str(failure.value)
        assert not (tmp_path / "model").exists()


def test_what_does_not_fit_is_one_clear_line(reference_folder: Path, tmp_path: Path) -> None:
    wdm, cwdm = (reference_folder / "wdm" / "wdm_unet", reference_folder / "cwdm" / "cwdm_unet")
    config = json.loads(wdm.with_suffix(".json").read_text())["config"]

    def changed(**changes: object) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps({**config, **changes}))
        return path

    weights, folder, used = wdm.with_suffix(".pt"), tmp_path / "model", tmp_path / "used"
    used.mkdir()
    (used / "thesis.txt").write_text("precious")
    attempts: list[tuple[tuple[Any, ...], str]] = [
        (("wdm", tmp_path / "none.pt", None, None, folder), "no such checkpoint"),
        (("wdm", weights, None, None, folder), "--config"),  # the release's configuration is wider
        (("wdm", weights, changed(num_channels=16), None, folder), "has the shape"),
        (("wdm", weights, changed(channel_mult="1,2"), None, folder), "--config"),
        (("wdm", weights, changed(channel_mult="1,x"), None, folder), "wrong kind"),
        (("wdm", weights, changed(chanel_mult="1,2,2"), None, folder), "did you mean 'channel_mult'"),
        (("wdm", weights, changed(attention_resolutions="16"), None, folder), "not supported"),
        (("wdm", cwdm.with_suffix(".pt"), cwdm.with_suffix(".json"), None, folder), "expected in_channels"),
        (("wmd", weights, None, None, folder), "did you mean 'wdm'"),
        (("cwdm", cwdm.with_suffix(".pt"), cwdm.with_suffix(".json"), "t1", folder), "did you mean 't1"),
        (("wdm", weights, wdm.with_suffix(".json"), "t1n", folder), "no target"),
        (("wdm", weights, wdm.with_suffix(".json"), None, used), "no saved model"),
        (("wdm", weights, tmp_path / "none.json", None, folder), "none.json"),
    ]
    for arguments, message in attempts:
        with pytest.raises((UserError, UsageError)) as failure:
            import_checkpoint(*arguments)
        assert message in str(failure.value)
        assert "\n" not in str(failure.value)
    assert not folder.exists()
    assert [path.name for path in used.iterdir()] == ["thesis.txt"]


def test_default_configuration_is_the_official_release() -> None:
    from gen3d.interop.adm import official_config
    from gen3d.interop.wdm import RELEASES
    from gen3d.wavelet.cwdm import CWDMConfig
    from gen3d.wavelet.wdm import WDMConfig

    assert official_config(None, RELEASES["wdm"]).network == WDMConfig().network
    assert official_config(None, RELEASES["cwdm"]).network == CWDMConfig().network
