"""Reading foreign checkpoints: tensors as they were, foreign objects inert, no code run."""

import argparse
import os
import pickle
import sys
import types
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gen3d.core.error import UserError
from gen3d.interop.unpickle import Record, plain, read_foreign

both = pytest.mark.parametrize("zipped", [True, False])


def write(path: Path, content: Any, zipped: bool) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@both
def test_tensors_come_back_bit_for_bit(zipped: bool, tmp_path: Path) -> None:
    whole = torch.arange(24.0).view(2, 3, 4)
    tensors = {
        "whole": whole,
        "view": whole[:, 1:, ::2],
        "turned": whole.permute(2, 0, 1),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3),
        **{str(t): torch.ones(2, 2, dtype=t) for t in (torch.float16, torch.bfloat16, torch.bool, torch.int8)},
    }
    read = read_foreign(write(tmp_path / "x.ckpt", {"state_dict": OrderedDict(tensors), "epoch": 3}, zipped))
    assert read["epoch"] == 3
    for name, tensor in tensors.items():
        assert read["state_dict"][name].dtype == tensor.dtype
        assert torch.equal(read["state_dict"][name], tensor)


@both
def test_namespaces_are_told_and_stay_inert(zipped: bool, tmp_path: Path) -> None:
    args = argparse.Namespace(lr=1e-4, sizes=[1, 2], nested=argparse.Namespace(name="CT"), path=Path("a"))
    read = read_foreign(write(tmp_path / "x.pt", {"args": args, "scores": np.arange(3)}, zipped))
    assert type(read["args"]).__mro__[1] is Record
    assert read["args"].kind == "argparse.Namespace"
    told = plain(read)
    assert told["args"] | {"path": None} == {"lr": 1e-4, "sizes": [1, 2], "nested": {"name": "CT"}, "path": None}
    assert told["args"]["path"].arguments == ("a",)
    assert isinstance(told["scores"], Record)


def test_omegaconf_is_told_without_omegaconf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kind(module: str, name: str) -> type:
        made = type(name, (), {"__module__": module})
        for part in ("omegaconf", module):
            monkeypatch.setitem(sys.modules, part, sys.modules.get(part) or types.ModuleType(part))
        setattr(sys.modules[module], name, made)
        return made

    def with_state(made: type, **state: Any) -> Any:
        self = made()
        self.__dict__.update(state)
        return self

    node, mapping, sequence = (
        kind("omegaconf.nodes", "AnyNode"),
        kind("omegaconf.dictconfig", "DictConfig"),
        kind("omegaconf.listconfig", "ListConfig"),
    )
    factors = with_state(sequence, _parent=None, _content=[with_state(node, _val=8) for _ in range(3)])
    model = with_state(mapping, _content={"n_hiddens": with_state(node, _val=48), "downsample": factors})
    path = write(
        tmp_path / "x.ckpt", {"hyper_parameters": {"cfg": with_state(mapping, _content={"model": model})}}, True
    )
    for part in ("omegaconf.nodes", "omegaconf.dictconfig", "omegaconf.listconfig", "omegaconf"):
        monkeypatch.delitem(sys.modules, part)
    told = plain(read_foreign(path))
    assert told == {"hyper_parameters": {"cfg": {"model": {"n_hiddens": 48, "downsample": [8, 8, 8]}}}}
    assert not [name for name in sys.modules if name.startswith("omegaconf")]


class Calls:
    """An object whose pickle calls a function when it is read."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.how = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.how


@both
def test_a_malicious_pickle_does_not_run(zipped: bool, tmp_path: Path) -> None:
    victim = tmp_path / "ran"
    attacks = {
        "system": Calls(os.system, f"touch {victim}"),
        "exec": Calls(exec, f"open({str(victim)!r}, 'w')"),
        "open": Calls(open, str(victim), "w"),
        "getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        "mkdir": Calls(os.mkdir, f"{victim}-too"),
    }
    path = write(tmp_path / "bad.ckpt", {"weight": torch.ones(2), **attacks}, zipped)
    read = read_foreign(path)
    assert not list(tmp_path.glob("ran*"))
    assert read["system"].kind == f"{os.name}.system"
    assert read["system"].arguments == (f"touch {victim}",)
    assert torch.equal(read["weight"], torch.ones(2))
    torch.load(path, weights_only=False)
    assert victim.exists()  # so the file was malicious indeed


def test_a_pickle_can_not_change_what_it_may_name(tmp_path: Path) -> None:
    class Stream:
        """Protocol 0: push what is named, then BUILD it with a state."""

        def __init__(self, module: str, name: str) -> None:
            self.content = f"c{module}\n{name}\n(N(dS'__defaults__'\n(I1\ntsttb.".encode()

    for module, name in (("torch._utils", "_rebuild_tensor_v2"), ("collections", "OrderedDict"), ("os", "system")):
        path = tmp_path / "bad.pt"
        path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C) + pickle.dumps(1001) + pickle.dumps({}))
        path.write_bytes(path.read_bytes() + Stream(module, name).content + pickle.dumps([]))
        with suppress(UserError):
            read_foreign(path)
        good = read_foreign(write(tmp_path / "good.pt", {"weight": torch.arange(3)}, True))
        assert torch.equal(good["weight"], torch.arange(3))


def test_what_is_no_checkpoint_is_one_clear_line(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.pt", {"weight": torch.zeros(1000)}, True).read_bytes()
    old = write(tmp_path / "old.pt", {"weight": torch.zeros(1000)}, False).read_bytes()
    complexes = write(tmp_path / "complex.pt", torch.zeros(2, dtype=torch.complex64), True).read_bytes()
    contents = {"empty": b"", "text": b"hello", "cut": whole[:2000], "cut old": old[:-500], "complex": complexes}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: refused") as failure:
            read_foreign(tmp_path / name)
        assert "\n" not in str(failure.value)
    with pytest.raises(UserError, match="none: can't be read"):
        read_foreign(tmp_path / "none")
