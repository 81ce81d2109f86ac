"""Feature networks: MedicalNet against functional calls, files of weights, slices, modules, random weights."""

import hashlib
import re
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.metrics.features import SliceFeatures, open_features
from gen3d.metrics.radiomics import feature_names, radiomic_features
from gen3d.metrics.weights import FLAG, VARIABLE, find_weights, read_state

pytest.importorskip("monai")

State = dict[str, Tensor]
BLOCKS = {10: (1, 1, 1, 1), 50: (3, 4, 6, 3)}
RANDOM_SHA256 = "e19b695d87c5d2db2fd0b0a2856d3f0dc580c89e08d3411001a796c498bd4e70"


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights but those of a test: empty caches, no variable."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    huggingface = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(huggingface, "try_to_load_from_cache", lambda repository, name: None)


def state_of(depth: int, *, head: bool = True, seed: int = 0) -> State:
    """Random weights under the names of the official files, which know no counters of batches and have a head."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}

    def convolution(name: str, after: int, before: int, side: int) -> None:
        shape = (after, before, side, side, side)
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * (2 / (before * side**3)) ** 0.5

    def norm(name: str, n: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.{part}"] = torch.rand(n, generator=generator) * 0.4 + (
                0 if part in ("bias", "running_mean") else 0.8
            )

    convolution("conv1", 64, 1, 7)
    norm("bn1", 64)
    width = 64
    for k, (planes, blocks) in enumerate(zip((64, 128, 256, 512), BLOCKS[depth], strict=True), 1):
        for b in range(blocks):
            name = f"layer{k}.{b}"
            sides = {
                10: ((planes, width, 3), (planes, planes, 3)),
                50: ((planes, width, 1), (planes, planes, 3), (4 * planes, planes, 1)),
            }
            for c, (after, before, side) in enumerate(sides[depth], 1):
                convolution(f"{name}.conv{c}", after, before, side)
                norm(f"{name}.bn{c}", after)
            if b == 0 and (k > 1 or depth == 50):
                convolution(f"{name}.downsample.0", after, width, 1)
                norm(f"{name}.downsample.1", after)
            width = after
    if head:
        state["conv_seg.0.weight"], state["conv_seg.0.bias"] = torch.zeros(width, 32, 2, 2, 2), torch.zeros(32)
    return state


def forward(state: State, x: Tensor, depth: int) -> Tensor:
    """MedicalNet written out: strides 2, 2 and 2 in front of layers 1 and 2, dilations 2 and 4 in layers 3 and 4."""

    def norm(name: str, x: Tensor) -> Tensor:
        mean, variance, weight, bias = (state[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        return nnf.batch_norm(x, mean, variance, weight, bias)

    x = nnf.relu(norm("bn1", nnf.conv3d(x, state["conv1.weight"], stride=2, padding=3)))
    x = nnf.max_pool3d(x, 3, 2, 1)
    for k, (stride, dilation) in enumerate(((1, 1), (2, 1), (1, 2), (1, 4)), 1):
        for b in range(BLOCKS[depth][k - 1]):
            name, step, kept = f"layer{k}.{b}", stride if b == 0 else 1, x
            strided = 1 if depth == 10 else 2  # the convolution of a block that strides
            last = 2 if depth == 10 else 3
            for c in range(1, last + 1):
                weight = state[f"{name}.conv{c}.weight"]
                wide = dilation if weight.shape[-1] == 3 else 1
                padding = wide if weight.shape[-1] == 3 else 0
                x = nnf.conv3d(x, weight, stride=step if c == strided else 1, padding=padding, dilation=wide)
                x = norm(f"{name}.bn{c}", x)
                x = nnf.relu(x) if c < last else x
            if f"{name}.downsample.0.weight" in state:
                kept = norm(f"{name}.downsample.1", nnf.conv3d(kept, state[f"{name}.downsample.0.weight"], stride=step))
            x = nnf.relu(x + kept)
    return x.mean((2, 3, 4))


def saved(folder: Path, depth: int, state: State, *, bare: bool = False) -> Path:
    path = folder / f"resnet_{depth}_23dataset.pth"
    torch.save(state if bare else {"state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    return path


@pytest.mark.parametrize("depth", [10, 50])
def test_medicalnet_is_the_published_network(tmp_path: Path, depth: int) -> None:
    state = state_of(depth)
    path = saved(tmp_path, depth, state)
    features = open_features(f"medicalnet{depth}", weights=path)
    assert (features.key, features.dim) == (f"fid_medicalnet{depth}", {10: 512, 50: 2048}[depth])
    assert features.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert features.is_network
    for voxels in (noise(2, 1, 24, 17, 33), noise(1, 1, 19, 23, 1)):
        found, expected = features(voxels), forward(state, voxels, depth)
        assert found.shape == (len(voxels), features.dim)
        assert found.dtype == torch.float32
        assert not found.requires_grad
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
        assert expected.std() > 0.01 * expected.abs().max()


def test_one_volume_at_a_time_gives_the_same_features(tmp_path: Path) -> None:
    features = open_features("medicalnet10", weights=saved(tmp_path, 10, state_of(10)))
    voxels = noise(3, 1, 16, 16, 16)
    together, alone = features(voxels), torch.cat([features(one[None]) for one in voxels])
    assert (together - alone).abs().max() < 1e-5 * together.abs().max()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(features(voxels), together)


def test_bare_weights_and_weights_with_counters_are_read(tmp_path: Path) -> None:
    state = state_of(10, head=False)
    counted = state | {
        f"{name.rpartition('.')[0]}.num_batches_tracked": torch.tensor(7) for name in state if "running_mean" in name
    }
    voxels = noise(1, 1, 16, 16, 16)
    bare = open_features("medicalnet10", weights=saved(tmp_path, 10, counted, bare=True))(voxels)
    assert (bare - forward(state, voxels, 10)).abs().max() < 1e-5 * bare.abs().max()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    state = state_of(10)
    wrong = {
        "1 missing (layer2.0.conv1.weight, ...)": {k: v for k, v in state.items() if k != "layer2.0.conv1.weight"},
        "1 unexpected (fc.weight, ...)": state | {"fc.weight": torch.zeros(2)},
        "1 of another shape (conv1.weight, ...)": state | {"conv1.weight": torch.zeros(64, 3, 7, 7, 7)},
    }
    for words, faulty in wrong.items():
        with pytest.raises(ValueError, match=re.escape(words)) as caught:
            open_features("medicalnet10", weights=saved(tmp_path, 10, faulty))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="not those of MedicalNet's ResNet-50"):
        open_features("medicalnet50", weights=saved(tmp_path, 10, state))


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "resnet_10_23dataset.pth"
    torch.save({"state_dict": Trap(sprung)}, path)
    for name in ("medicalnet10", "module"):
        with pytest.raises(ValueError, match="run"):
            open_features(name, weights=path)
    assert not sprung.exists()


def test_files_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    for found in ([1, 2], {}, {"state_dict": {"epoch": 3}}):
        torch.save(found, path)
        with pytest.raises(ValueError, match="holds no state dict"):
            read_state(path)
    for junk in (b"", b"no weights at all"):
        path.write_bytes(junk)
        with pytest.raises(ValueError, match="not a file of weights"):
            read_state(path)


def test_missing_weights_are_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given in (None, tmp_path, tmp_path / "other.pth"):
        with pytest.raises(FileNotFoundError) as caught:
            open_features("medicalnet50", weights=given)
        told = str(caught.value)
        assert "\n" not in told
        for word in ("resnet_50_23dataset.pth", FLAG, VARIABLE, str(tmp_path)):
            assert word in told
    monkeypatch.setenv(VARIABLE, str(tmp_path / "said"))
    with pytest.raises(FileNotFoundError, match="said"):
        open_features("medicalnet50")


def test_where_weights_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given, variable, torch's cache, Hugging Face's cache: the first that has the file."""
    import huggingface_hub

    name, hub = "resnet_10_23dataset.pth", tmp_path / "hub" / "checkpoints"
    places = [tmp_path / "given", tmp_path / "said", hub, tmp_path / "huggingface"]
    for folder in places:
        folder.mkdir(parents=True)
        (folder / name).write_text(folder.name)
    asked = []

    def cached(repository: str, file: str) -> str | None:
        asked.append((repository, file))
        path = places[3] / file
        return str(path) if path.exists() else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    monkeypatch.setenv(VARIABLE, str(places[1]))
    repository = ["TencentMedicalNet/MedicalNet-Resnet10"]
    assert find_weights(name, places[0]) == find_weights(name, places[0] / name) == places[0] / name
    for folder in places[1:]:
        assert find_weights(name, repositories=repository) == folder / name
        (folder / name).unlink()
    assert set(asked) == {(repository[0], name)}
    with pytest.raises(FileNotFoundError, match=FLAG):
        find_weights(name, repositories=repository)
    monkeypatch.setenv(VARIABLE, str(places[0] / name))
    assert find_weights(name, repositories=repository) == places[0] / name


def test_random_network_is_the_same_everywhere() -> None:
    before = torch.get_rng_state()
    features = open_features("random3d")
    assert torch.equal(torch.get_rng_state(), before)
    assert (features.key, features.dim, features.weights_sha256) == ("fd_random3d", 240, RANDOM_SHA256)
    voxels = noise(2, 1, 20, 17, 9)
    found = features(voxels)
    assert found.shape == (2, 240)
    assert torch.equal(found, open_features("random3d")(voxels))
    assert torch.equal(features(voxels[:, :, :, :, :1]).isfinite(), torch.ones(2, 240, dtype=torch.bool))
    alive = features(noise(6, 1, 16, 16, 16)).std(0) > 0
    assert alive.float().mean() > 0.5


def test_radiomic_features_are_those_of_the_whole_volume() -> None:
    features = open_features("radiomic", weights=Path("ignored"))
    assert (features.key, features.dim, features.is_network) == ("fd_radiomic", len(feature_names()), False)
    voxels = noise(2, 1, 6, 7, 5)
    found = features(voxels)
    assert found.dtype == torch.float32
    for row, volume in zip(found, voxels, strict=True):
        assert row.tolist() == pytest.approx(list(radiomic_features(volume[0]).values()), rel=1e-6, abs=1e-6)


def colour_network(channels: int) -> nn.Module:
    """A 2D network whose two features are the mean of its first channel and that of its last one squared."""

    class Colours(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(channels, channels, 1, bias=False)
            nn.init.dirac_(self.first.weight)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return torch.stack([x[:, 0], x[:, -1].square()], 1)

    return Colours()


@pytest.mark.parametrize("channels", [1, 3])
def test_slices_are_averaged_over_planes_and_blank_ones_left_out(channels: int) -> None:
    features = open_features("slices", module=colour_network(channels))
    assert isinstance(features, SliceFeatures)
    assert (features.key, features.dim, features.channels) == ("fd_slices", 2, channels)
    voxels = torch.zeros(2, 1, 10, 12, 70)
    voxels[:, :, 2:8, 3:9, 1:69] = noise(2, 1, 6, 6, 68) + 0.1
    planes = features.per_plane(voxels)
    assert list(planes) == ["yz", "xz", "xy"]
    for plane, axis in (("yz", 2), ("xz", 3), ("xy", 4)):
        rest = [k for k in (2, 3, 4) if k != axis]
        shown = (voxels.amax(rest, keepdim=True) > 0.05).expand_as(voxels)
        expected = [[v[s].mean(), v[s].square().mean()] for v, s in zip(voxels, shown, strict=True)]
        assert (planes[plane] - torch.tensor(expected)).abs().max() < 1e-5
    assert torch.allclose(features(voxels), torch.stack(list(planes.values())).mean(0))


def test_slices_of_an_image_and_of_nothing() -> None:
    features = open_features("slices", module=colour_network(1))
    assert isinstance(features, SliceFeatures)
    image = noise(1, 1, 9, 8, 1)
    assert list(features.per_plane(image)) == ["xy"]
    assert features(image)[0, 0] == pytest.approx(float(image.mean()), rel=1e-6)
    assert features(image * 0).tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="two axes"):
        features(noise(1, 1, 9, 1, 1))


def test_any_module_is_taken() -> None:
    network = nn.Sequential(nn.Conv3d(1, 5, 3), nn.BatchNorm3d(5), nn.Dropout(0.5))
    features = open_features("module", module=network)
    assert (features.key, features.dim, features.weights_sha256) == ("fd_module", 5, None)
    voxels = noise(2, 1, 6, 7, 8)
    assert torch.equal(features(voxels), features(voxels))
    assert (features(voxels) - network(voxels).mean((2, 3, 4))).abs().max() < 1e-6
    with pytest.raises(ValueError, match=r"cannot take images of \(1, 2, 2, 2\)"):
        features(noise(1, 1, 2, 2, 2))


class Fixed(nn.Module):
    """A network for volumes of one size, which has to say how many features it has."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.head = nn.Linear(64, 3)
        nn.init.constant_(self.head.weight, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


def test_a_module_may_say_how_many_features_it_has() -> None:
    network = Fixed()
    with pytest.raises(ValueError, match="num_features"):
        open_features("module", module=network)
    network.num_features = 3  # type: ignore[assignment]
    features = open_features("module", module=network)
    assert features.dim == 3
    assert features(noise(2, 1, 4, 4, 4)).shape == (2, 3)
    network.head.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        features(noise(2, 1, 4, 4, 4))


def test_a_torchscript_file_is_taken_without_a_warning(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU()).eval()
    path = tmp_path / "network.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(network, noise(1, 1, 8, 8, 8)), path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features = open_features("module", weights=path)
        found = features(noise(2, 1, 9, 10, 11))
    assert torch.allclose(found, open_features("module", module=network)(noise(2, 1, 9, 10, 11)), atol=1e-6)
    assert features.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_exported_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "network.pt2"
    torch.export.save(torch.export.export(nn.Conv3d(1, 2, 3), (noise(1, 1, 8, 8, 8),)), path)
    with pytest.raises(ValueError, match="give the module"):
        open_features("module", weights=path)


def test_what_cannot_be_opened_or_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown features 'inception': choose one of radiomic, medicalnet10"):
        open_features("inception")
    with pytest.raises(ValueError, match="brings its own network"):
        open_features("medicalnet10", module=nn.Identity())
    with pytest.raises(ValueError, match="not both"):
        open_features("module", module=nn.Conv3d(1, 1, 1), weights=tmp_path)
    with pytest.raises(FileNotFoundError, match=FLAG):
        open_features("slices")
    features = open_features("random3d")
    for voxels, words in (
        (noise(16, 16, 16), r"\(B, 1, X, Y, Z\)"),
        (noise(1, 2, 16, 16, 16), r"\(B, 1, X, Y, Z\)"),
        (noise(1, 1, 16, 16, 7), "at least 8 voxels"),
        (noise(1, 1, 1, 1, 1), "at least 8 voxels"),
        (noise(1, 1, 16, 16, 16) / 0, "not finite"),
    ):
        with pytest.raises(ValueError, match=words):
            features(voxels)
