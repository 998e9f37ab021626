"""Arguments of users, checked: one that is wrong is refused by its name, with what was given and what is expected."""

from __future__ import annotations

import difflib
import numbers
import operator
import os
import re
from collections.abc import Iterable
from typing import Any

from ._errors import OptionsError

# Longest value that is shown whole.
_SHOWN = 200


def invalid(name: str, value: object, expected: str) -> OptionsError:
    """The error for an argument.

    >>> str(invalid("seed", "1", "an integer"))
    "invalid seed '1': expected an integer"
    """
    shown = repr(value)
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]}..."
    return OptionsError(f"invalid {name} {shown}: expected {expected}")


# What users of other loaders look for first.
_OF_OTHERS = {
    **dict.fromkeys(
        ("batch_size", "batch", "image_size", "input_size"),
        'those of a recipe are changed by set, as in set={"batch": 256, "image_size": 160}, with the batch of all ranks',
    ),
    **dict.fromkeys(
        ("transform", "transforms", "collate_fn", "mixup", "cutmix"),
        "a recipe has all that is done to images: recipe and set",
    ),
    **dict.fromkeys(("shuffle", "sampler", "batch_sampler", "drop_last"), "the order is that of the recipe"),
    "num_workers": "images are made by threads of the server: threads for a path",
    "prefetch_factor": "what is received ahead is counted in bytes: prefetch_bytes",
    "prefetch": "it is counted in bytes: prefetch_bytes",
    "endpoint": "endpoints are the source, which comes first",
}


def unknown(name: str, known: Iterable[str]) -> OptionsError:
    """The error for an argument that does not exist.

    >>> str(unknown("num_workers", []))
    'unknown argument num_workers: images are made by threads of the server: threads for a path'
    >>> str(unknown("sead", ["seed"]))
    'unknown argument sead: did you mean seed?'
    """
    near = difflib.get_close_matches(name, known, n=1)
    advice = _OF_OTHERS.get(name) or (f"did you mean {near[0]}?" if near else "see help(forebay.Loader)")
    return OptionsError(f"unknown argument {name}: {advice}")


# Flags of the server that are arguments of a loader.
_FLAG = re.compile(r"--(index-dir|threads|memory|disk-cache-bytes|disk-cache)(?![\w-])")
_FLAG_WITH_SPLIT = re.compile(r"--split ([\w.-]+)")


def instead_of_flags(message: str) -> str:
    """A message of a server, or of indexing, with arguments where it has flags. What a loader has not stays a flag.

    >>> instead_of_flags("select one, by --split train; use --index-dir, or forebay index --label-column x")
    'select one, by split="train"; use index_dir, or forebay index --label-column x'
    """
    message = _FLAG_WITH_SPLIT.sub(r'split="\1"', message)
    return _FLAG.sub(lambda found: found[1].replace("-", "_"), message)


def integer(name: str, value: Any, minimum: int = 0, maximum: int = 2**64 - 1) -> int:
    """An integer, also one of numpy."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        number = minimum - 1
    if minimum <= number <= maximum:
        return number
    top = {2**64 - 1: "2**64 - 1", 2**32 - 1: "2**32 - 1"}.get(maximum, str(maximum))
    raise invalid(name, value, f"an integer from {minimum} to {top}")


def small(name: str, value: Any) -> int:
    """An integer of 32 bits."""
    return integer(name, value, 0, 2**32 - 1)


def positive(name: str, value: Any) -> int:
    """An integer that is not 0."""
    return integer(name, value, 1)


def size(name: str, value: Any) -> str | int:
    """Bytes, as a number or with a unit, which the server checks."""
    if isinstance(value, str):
        return value
    try:
        return integer(name, value)
    except OptionsError:
        raise invalid(name, value, 'a number of bytes, or a string with a unit, such as "4GiB"') from None


def number(name: str, value: Any, expected: str = "a number") -> float:
    """A number, also one of numpy."""
    if not isinstance(value, bool) and isinstance(value, numbers.Real):
        return float(value)
    raise invalid(name, value, expected)


def seconds(name: str, value: Any) -> float:
    """A number of seconds. The client checks its range."""
    return number(name, value, "a number of seconds, such as 2.5")


def flag(name: str, value: Any) -> bool:
    """True or False, or a number that equals one of them, as scripts have them."""
    if isinstance(value, numbers.Integral) and value in (0, 1):
        return bool(value)
    # Those of numpy are no integers.
    if type(value).__name__ in ("bool", "bool_") and type(value).__module__ == "numpy":
        return bool(value)
    raise invalid(name, value, "True or False")


def text(name: str, value: Any, expected: str = "a string") -> str:
    """A string."""
    if isinstance(value, str):
        return value
    raise invalid(name, value, expected)


def path(name: str, value: Any, expected: str = "a path") -> str:
    """A path, of which a leading `~` or `~user` is expanded."""
    if isinstance(value, str | os.PathLike):
        found: str | bytes = os.fspath(value)
        if isinstance(found, str) and found and "\0" not in found:
            return os.path.expanduser(found)
    raise invalid(name, value, expected)


def split(name: str, value: Any) -> str:
    """The name of a split."""
    expected = 'the name of a split, such as "val"'
    found = text(name, value, expected)
    # What a path could not end in.
    if found and not set(found) & set("#/*{\0"):
        return found
    raise invalid(name, value, expected)


def recipe(name: str, value: Any) -> str:
    """The name of a recipe, or the path of its file."""
    return path(name, value, 'the name of a recipe, such as "a2", or the path of a TOML file')


def of_targets(num_classes: Any, smoothing: Any) -> tuple[int | None, float | None]:
    """The arguments of dense targets, of which None stands for a default. What they are for says their range."""
    return (
        None if num_classes is None else integer("num_classes", num_classes),
        None if smoothing is None else number("smoothing", smoothing),
    )
