"""Sources: a path, an endpoint, or a list of endpoints."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from ._errors import OptionsError

Source = str | os.PathLike[str] | Sequence[str]

_ADDRESS = re.compile(r"([\w.-]+|\[[0-9A-Fa-f:.%]+\]):\d+")


def endpoints_of(source: Source) -> list[str] | None:
    """The endpoints that a source names; None if it is a path.

    >>> endpoints_of("data-0:50051")
    ['data-0:50051']
    >>> endpoints_of("dns+http://forebay.ml.svc:50051")
    ['dns+http://forebay.ml.svc:50051']
    >>> endpoints_of("/data/imagenet/train") is None
    True
    """
    if isinstance(source, os.PathLike):
        return None
    if source == "":
        raise OptionsError('invalid source "": expected a path, such as ".", or an endpoint')
    if not isinstance(source, str):
        endpoints: list[Any] = list(source)
        if not endpoints or not all(isinstance(endpoint, str) for endpoint in endpoints):
            raise OptionsError(
                f"invalid source {source!r}: expected a path, an endpoint such as "
                '"http://data-0:50051", or a list of endpoints'
            )
        for endpoint in endpoints:
            if endpoints_of(endpoint) is None:
                raise OptionsError(
                    f"invalid source {source!r}: a list is one of endpoints, and {endpoint!r} is a path: pass one path alone"
                )
        return endpoints
    if "://" in source or source.startswith("unix:"):
        return [source]
    if _ADDRESS.fullmatch(source) and not os.path.exists(source):
        return [source]
    return None
