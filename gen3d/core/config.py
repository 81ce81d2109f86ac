"""Frozen dataclasses from YAML and back: only departures are written, an unknown key names the nearest known one."""

import dataclasses
import os
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from gen3d.core.error import UsageError, nearest

T = TypeVar("T")


def read_yaml(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a YAML mapping under ``a.b=value`` overrides; ``${NAME}`` in strings comes from the environment.

    Raises:
        UsageError: The file is missing or no mapping, or an override is not of the form ``key=value``.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such configuration file")
    try:
        tree = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(tree, dict):
        raise UsageError(f"{path}: expected a mapping of keys to values, found {type(tree).__name__}")
    for override in overrides:
        override_key(tree, override)
    expanded: dict[str, Any] = expand(tree)
    return expanded


def override_key(tree: dict[str, Any], override: str) -> None:
    """Set ``a.b=value`` in a tree, the value read as YAML.

    Raises:
        UsageError: The override is no ``key=value``, or goes through a single value.
    """
    name, equals, value = override.partition("=")
    if not equals or not name:
        raise UsageError(f"'{override}': expected key=value, such as train.steps=100")
    *path, last = name.split(".")
    for part in path:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise UsageError(f"'{override}': '{part}' holds a single value, not keys")
    tree[last] = yaml.safe_load(value)


def expand(tree: Any) -> Any:
    """Replace ``${NAME}`` by environment variables in every string of a tree."""
    if isinstance(tree, dict):
        return {key: expand(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [expand(value) for value in tree]
    return os.path.expandvars(tree) if isinstance(tree, str) else tree


def build(kind: type[T], tree: Mapping[str, Any], where: str = "") -> T:
    """Build a configuration dataclass from a tree of plain values.

    Fields that are dataclasses are built from sub-trees; where a field may be one of several dataclasses, the
    sub-tree's ``kind`` names it.

    Args:
        kind: The dataclass.
        tree: Its fields; those left out keep their defaults.
        where: Dotted path of the tree, for messages.

    Raises:
        UsageError: An unknown key (the nearest is named), a missing one, or a value of the wrong type.
    """
    if not isinstance(tree, Mapping):
        raise UsageError(f"{where or kind.__name__}: expected keys and values, found {tree!r}")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    for key in tree:
        if key not in fields:
            raise UsageError(f"{join(where, key)}: unknown key{nearest(str(key), fields)}; known: {', '.join(fields)}")
    values = {key: convert(hints[key], value, join(where, key)) for key, value in tree.items()}
    for name, f in fields.items():
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise UsageError(f"{join(where, name)}: missing")
    try:
        return kind(**values)
    except ValueError as error:
        raise UsageError(f"{where or kind.__name__}: {error}") from None


def join(where: str, key: object) -> str:
    """Return a dotted path."""
    return f"{where}.{key}" if where else str(key)


def convert(hint: Any, value: Any, where: str) -> Any:
    """Convert a plain value to the type that a field asks for."""
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else build(typing.cast(type, hint), value, where)  # type: ignore[arg-type]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return convert_union(arguments, value, where)
    if origin is tuple:
        return convert_tuple(arguments, value, where)
    if origin is dict and isinstance(value, Mapping):
        return {key: convert(arguments[1], item, join(where, key)) for key, item in value.items()}
    if hint is Any or (
        isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    ):
        return value
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise UsageError(
            f"{where}: {value!r} is none of {', '.join(map(str, arguments))}{nearest(str(value), arguments)}"
        )
    raise UsageError(f"{where}: expected {getattr(hint, '__name__', hint)}, found {value!r}")


def convert_union(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    """Convert to one of several types: None, a plain type, or the dataclass that the value's ``kind`` names."""
    if value is None and type(None) in choices:
        return None
    classes = {str(c.__name__): c for c in choices if isinstance(c, type) and dataclasses.is_dataclass(c)}
    if classes and isinstance(value, Mapping):
        rest = dict(value)
        name = rest.pop("kind", next(iter(classes)) if len(classes) == 1 else None)
        if name not in classes:
            raise UsageError(
                f"{join(where, 'kind')}: {name!r} is none of {', '.join(classes)}{nearest(str(name), classes)}"
            )
        return build(typing.cast(type, classes[name]), rest, where)
    for choice in choices:
        try:
            return convert(choice, value, where)
        except UsageError:
            continue
    raise UsageError(
        f"{where}: expected {' or '.join(getattr(c, '__name__', str(c)) for c in choices)}, found {value!r}"
    )


def convert_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    """Convert a list to a tuple of one repeated type, or of a fixed length."""
    if not isinstance(value, list | tuple):
        raise UsageError(f"{where}: expected a list, found {value!r}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(value) != len(arguments):
        raise UsageError(f"{where}: expected {len(arguments)} values, found {len(value)}")
    return tuple(convert(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(arguments, value, strict=True)))


def to_tree(value: Any) -> Any:
    """Turn a configuration back into plain values that ``build`` reads; unions of dataclasses carry their ``kind``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = typing.get_type_hints(type(value))
        return {f.name: field_tree(hints[f.name], getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {key: to_tree(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_tree(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def field_tree(hint: Any, value: Any) -> Any:
    """Turn one field into plain values."""
    tree = to_tree(value)
    several = typing.get_origin(hint) in (types.UnionType, typing.Union) and dataclasses.is_dataclass(value)
    return {"kind": type(value).__name__, **tree} if several else tree
