"""Values of options that are more than a word or a number."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from gen3d.core.error import UsageError

T = TypeVar("T", int, float)


def separated(names: Sequence[str]) -> list[str]:
    """Split comma-separated values of an option that may also be repeated."""
    return [word.strip() for name in names for word in name.split(",") if word.strip()]


def numbers(option: str, words: Sequence[str], kind: Callable[[str], T]) -> tuple[T, ...]:
    """Return the numbers of an option, with commas between them or repeated.

    Raises:
        UsageError: One is none.
    """
    try:
        return tuple(kind(word) for word in separated(words))
    except ValueError:
        expected = "whole numbers, such as 10,50" if kind is int else "numbers, such as 1.5,2"
        raise UsageError(f"{option} {','.join(words)}: expected {expected}") from None


def parsed_part(asked: str) -> tuple[int, int]:
    """Return i and n of "i/n".

    Raises:
        UsageError: It is no such thing.
    """
    words = asked.split("/")
    if len(words) == 2 and all(word.isdigit() for word in words) and 1 <= int(words[0]) <= int(words[1]):
        return int(words[0]), int(words[1])
    raise UsageError(f"--part '{asked}': expected i/n such as 2/4, i from 1 to n")
