"""Reading checkpoints that hold foreign Python objects, without running any of their code.

``torch.save`` writes a pickle, a program that may call any function by name. Here a name means something only if it is
one of a few plain containers or belongs to a tensor's making; any other becomes a ``Record``, which keeps what it was
called with and does nothing.
"""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from gen3d.core.error import UserError

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
MAGIC = 0x1950A86A20F9469CFC6C  # of files as torch.save wrote them before version 1.6


class Record:
    """What stands for an object of a foreign class: which class, what it was called with, its state.

    Attributes:
        kind: Module and name, such as "argparse.Namespace".
        arguments: What the class or function was called with.
        state: What the object held: usually a dict of its attributes.
        items: What was put into it as into a list or a dict.
    """

    kind = ""
    arguments: tuple[Any, ...]
    state: Any
    items: list[Any]

    def __new__(cls, *arguments: Any, **_: Any) -> "Record":
        self = super().__new__(cls)
        self.arguments, self.state, self.items = arguments, None, []
        return self

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def __hash__(self) -> int:
        return id(self)

    def append(self, item: Any) -> None:
        """Keep what a list's pickle adds."""
        self.items.append(item)

    def extend(self, items: Any) -> None:
        """Keep what a list's pickle adds, several at once."""
        self.items.extend(items)

    def add(self, *items: Any) -> None:
        """Keep what a set's pickle adds."""
        self.items.extend(items)

    def __repr__(self) -> str:
        return f"<{self.kind}>"


def read_foreign(path: Path) -> Any:
    """Read a ``.ckpt`` or ``.pt`` file written by ``torch.save``: tensors on the CPU, foreign objects as records.

    Raises:
        UserError: The file is missing, damaged, or holds tensors of a kind that is not known.
    """
    path = Path(path)
    try:
        with open(path, "rb") as stream:
            if zipfile.is_zipfile(stream):
                with zipfile.ZipFile(stream) as archive:
                    return _read_archive(archive)
            stream.seek(0)
            return _read_stream(stream)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error})") from None
    except Exception as error:  # a pickle is a program: whatever it does wrong ends here
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: refused: it is damaged or no checkpoint ({reason})") from None


def plain(tree: Any) -> Any:
    """Return a tree in which known configuration records are plain dicts and lists; others stay records.

    An ``argparse.Namespace`` is the dict of its attributes; OmegaConf's containers and nodes are what they hold.
    """
    if isinstance(tree, Record):
        state = tree.state[0] if isinstance(tree.state, tuple) and tree.state else tree.state
        if not isinstance(state, Mapping):
            return tree
        if tree.kind.startswith("omegaconf."):
            held = "_content" if "_content" in state else "_val"
            return plain(state[held]) if held in state else tree
        return plain(state) if tree.kind in ("argparse.Namespace", "types.SimpleNamespace") else tree
    if isinstance(tree, Mapping):
        return {key: plain(value) for key, value in tree.items()}
    return [plain(value) for value in tree] if isinstance(tree, list | tuple) else tree


class _Unpickler(pickle.Unpickler):
    """An unpickler for which no name runs code; ``storage`` gives a storage by key, number format and length."""

    def __init__(self, stream: IO[bytes], storage: Callable[[str, torch.dtype, int], Tensor]) -> None:
        super().__init__(stream, encoding="utf-8")
        self.storage = storage
        self.records: dict[str, type[Record]] = {}

        # made anew for each file: a pickle can set attributes of what it may name
        def tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
            return storage.as_strided(tuple(size), tuple(stride), offset)

        def parameter(data: Tensor, *_: Any) -> Tensor:
            return data

        def made(kind: type, *_: Any) -> Any:
            return kind() if isinstance(kind, type) and issubclass(kind, Record) else Record()

        def latin(text: str, encoding: str = "latin1") -> bytes:
            return text.encode("latin1")

        self.known: dict[str, Any] = {
            "collections.OrderedDict": OrderedDict,
            "builtins.set": set,
            "builtins.frozenset": frozenset,
            "builtins.dict": dict,
            "builtins.list": list,
            "builtins.tuple": tuple,
            "torch.Size": torch.Size,
            "torch._utils._rebuild_tensor": tensor,
            "torch._utils._rebuild_tensor_v2": tensor,
            "torch._utils._rebuild_parameter": parameter,
            "torch._utils._rebuild_parameter_with_state": parameter,
            "copyreg._reconstructor": made,
            "_codecs.encode": latin,
        }

    def find_class(self, module: str, name: str) -> Any:
        """Give a name its harmless meaning."""
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        full = f"{module}.{name}"
        if full in self.known:
            return self.known[full]
        if module in ("torch", "torch.cuda") and name in DTYPES:
            return DTYPES[name]
        if full not in self.records:
            self.records[full] = type("Record", (Record,), {"kind": full})
        return self.records[full]

    def persistent_load(self, pid: Any) -> Tensor:
        """Give the storage that a persistent id stands for, one-dimensional."""
        what, dtype, key, _, count, *view = pid
        if what != "storage" or not isinstance(dtype, torch.dtype) or any(view):
            raise pickle.UnpicklingError(f"tensors of a kind that is not known: {getattr(dtype, 'kind', dtype)}")
        return self.storage(str(key), dtype, int(count))


def _read_archive(archive: zipfile.ZipFile) -> Any:
    names = archive.namelist()
    pickled = next((name for name in names if name.endswith("/data.pkl")), None)
    if pickled is None or any(name.endswith("/constants.pkl") for name in names):
        raise pickle.UnpicklingError("a zip file that torch.save did not write")
    root = pickled.removesuffix("data.pkl")
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        raise pickle.UnpicklingError("written by a machine of another byte order")
    read: dict[str, Tensor] = {}

    def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
        if key not in read:
            read[key] = _bytes(archive.read(f"{root}data/{key}"))
        return read[key].view(dtype)

    return _Unpickler(io.BytesIO(archive.read(pickled)), storage).load()


def _read_stream(stream: IO[bytes]) -> Any:
    made: dict[str, Tensor] = {}

    def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
        if key not in made:
            size = count * dtype.itemsize
            if size > Path(stream.name).stat().st_size:
                raise pickle.UnpicklingError("a tensor larger than the file")
            made[key] = torch.zeros(size, dtype=torch.uint8)
        return made[key].view(dtype)

    def load() -> Any:
        return _Unpickler(stream, storage).load()

    if load() != MAGIC:
        raise pickle.UnpicklingError("torch.save did not write it")
    load()  # the format's version
    load()  # sizes on the machine that wrote it
    tree = load()
    for key in load():
        (count,) = struct.unpack("<q", stream.read(8))
        content = stream.read(len(made[str(key)]))
        if len(content) != len(made[str(key)]) or count < 0:
            raise pickle.UnpicklingError("it ends too early")
        made[str(key)].copy_(_bytes(content))
    return tree


def _bytes(content: bytes) -> Tensor:
    if not content:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)
