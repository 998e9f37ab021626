"""Sources: a path, an endpoint, or a list of endpoints."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from . import _arguments
from ._errors import OptionsError

Source = str | os.PathLike[str] | Sequence[str]

_UNIX = "unix:"
_SOCKET_AT_HOME = re.compile(r"(unix:(?://)?)(~.*)", re.DOTALL)
_EXPECTED = 'a path, an endpoint such as "http://data-0:50051", or a list of endpoints'
_ADDRESS = re.compile(r"([\w.-]+|\[[0-9A-Fa-f:.%]+\]):\d+")


def endpoints_of(source: Source) -> list[str] | None:
    """The endpoints that a source names; None if it is a path.

    >>> endpoints_of("data-0:50051")
    ['data-0:50051']
    >>> endpoints_of("dns+http://forebay.ml.svc:50051")
    ['dns+http://forebay.ml.svc:50051']
    >>> endpoints_of(["a:1", "unix:/run/forebay.sock"])
    ['a:1', 'unix:/run/forebay.sock']
    >>> endpoints_of("/data/imagenet/train") is None
    True
    """
    if isinstance(source, os.PathLike):
        return None
    if not isinstance(source, str):
        # Whatever the types say.
        given: Any = source
        endpoints: list[Any] = list(given) if isinstance(given, Sequence) else []
        if not endpoints or not all(isinstance(endpoint, str) for endpoint in endpoints):
            raise _arguments.invalid("source", source, _EXPECTED)
        for endpoint in endpoints:
            if endpoints_of(endpoint) is None:
                raise OptionsError(
                    f"invalid source {source!r}: a list is one of endpoints, and {endpoint!r} is a path: pass one path alone"
                )
        return [_expanded(endpoint) for endpoint in endpoints]
    if source == "":
        raise OptionsError('invalid source "": expected a path, such as ".", or an endpoint')
    if "://" in source or source.startswith(_UNIX):
        return [_expanded(source)]
    if _ADDRESS.fullmatch(source) and not os.path.exists(source):
        return [source]
    return None


def path_of(source: Source) -> str:
    """The path that a source names, of which a leading `~` is expanded."""
    return _arguments.path("source", source, _EXPECTED)


def _expanded(endpoint: str) -> str:
    """An endpoint, with the whole path of its socket if it is one."""
    found = _SOCKET_AT_HOME.fullmatch(endpoint)
    return found[1] + os.path.expanduser(found[2]) if found else endpoint
