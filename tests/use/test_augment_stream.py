"""Synthetic pairs as a torch dataset that draws ahead, and as a dictionary transform."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny_pairs import write_tiny_pairs
from torch.utils.data import DataLoader

from gen3d.core.error import UserError
from gen3d.tools.augment.augment import augment
from gen3d.tools.augment.stream import MixSyntheticd, SyntheticPairs, pairs


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_tiny_pairs(tmp_path_factory.mktemp("pairs") / "tiny-pairs")


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("augment") / "set"
    augment(model, 3, out)
    return out


REAL = [{"image": torch.full((1, 2, 2, 2), float(n)), "label": torch.zeros(1, 2, 2, 2)} for n in range(4)]


def test_a_process_draws_what_the_files_hold(model: Path, made: Path) -> None:
    stream = iter(SyntheticPairs(model, ahead=2))
    sample = next(stream)
    first = sorted((made / "labelsTr").iterdir())[0]
    image, mask = (nib.load(path).get_fdata() for path in (made / "imagesTr" / f"{first.name[:12]}_0000.nii.gz", first))
    np.testing.assert_array_equal(sample["image"][0].numpy(), image)
    np.testing.assert_array_equal(sample["label"][0].numpy(), mask)
    assert (sample["image"].dtype, sample["label"].dtype, sample["synthetic"]) == (torch.float32, torch.int64, True)
    stream.close()  # type: ignore[attr-defined]


def test_the_mixture_has_its_ratio_and_follows_the_seed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(job: object, waiting: int) -> Iterator[dict]:
        while True:
            yield {"image": torch.full((1, 2, 2, 2), -1.0), "label": torch.ones(1, 2, 2, 2), "synthetic": True}

    monkeypatch.setattr("gen3d.tools.augment.stream.ahead", quick)
    flags = [
        [sample["synthetic"] for sample in islice(SyntheticPairs(model, REAL, ratio, seed=seed), 400)]
        for ratio, seed in ((0.25, 0), (0.25, 0), (0.25, 1), (0.0, 0))
    ]
    assert flags[0] == flags[1] != flags[2]
    assert 0.17 < np.mean(flags[0]) < 0.33
    assert not any(flags[3])
    seen = {float(sample["image"].mean()) for sample in islice(SyntheticPairs(model, REAL, 0.0), 60)}
    assert seen == {0.0, 1.0, 2.0, 3.0}


def test_a_loader_with_a_worker_gets_the_same_pairs(model: Path) -> None:
    loader = DataLoader(SyntheticPairs(model), batch_size=2, num_workers=1, multiprocessing_context="spawn")
    batch = next(iter(loader))
    dataset = SyntheticPairs(model)
    wanted = torch.stack([sample["image"] for sample in islice(pairs(dataset.job, 1, 1), 2)])
    assert torch.equal(batch["image"], wanted)


def test_what_can_not_be_mixed_is_told(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a share"):
        SyntheticPairs(model, REAL, 1.5)
    with pytest.raises(UserError, match="there are none"):
        SyntheticPairs(model, None, 0.5)
    with pytest.raises(UserError, match="draws no labels"):
        next(iter(SyntheticPairs("hippocampus-wdm")))
    with pytest.raises(UserError, match=r"run\.json"):
        MixSyntheticd(tmp_path, 0.5)


def test_the_transform_exchanges_paths(made: Path) -> None:
    mix = MixSyntheticd(made, 0.5)
    samples = [mix({"image": "real.nii.gz", "label": "mask.nii.gz", "age": 3}) for _ in range(60)]
    assert 15 < sum(sample["synthetic"] for sample in samples) < 45
    for sample in samples:
        assert sample["age"] == 3
        if sample["synthetic"]:
            assert Path(sample["image"]).name == Path(sample["label"]).name.replace(".nii", "_0000.nii")
            assert Path(sample["image"]).is_file()
        else:
            assert (sample["image"], sample["label"]) == ("real.nii.gz", "mask.nii.gz")


def test_monai_loads_what_the_transform_gives(made: Path) -> None:
    transforms = pytest.importorskip("monai.transforms", reason="MONAI is not installed: pip install 'gen3d[metrics]'")
    load = transforms.LoadImaged(keys=("image", "label"), ensure_channel_first=True, image_only=True)
    chain = transforms.Compose([MixSyntheticd(made, 1.0), load])
    sample = chain({"image": "real.nii.gz", "label": "mask.nii.gz"})
    assert sample["image"].shape == sample["label"].shape == (1, 32, 32, 32)
    assert sample["label"].max() == 3
