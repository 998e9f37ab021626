"""Sources: datasets (paths, URLs of buckets, several that are mixed), an endpoint, or a list of endpoints."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import _arguments
from ._errors import DatasetError, OptionsError

# Keys of a `Mapping` are invariant: one of paths is none of strings and paths.
Source = str | os.PathLike[str] | Sequence[str] | Mapping[Any, float]

_UNIX = "unix:"
_SOCKET_AT_HOME = re.compile(r"(unix:(?://)?)(~.*)", re.DOTALL)
_EXPECTED = (
    'a path, a URL such as "s3://bucket/train", a mapping of these to weights, an endpoint such as '
    '"http://data-0:50051", or a list of endpoints'
)
_EXPECTED_MIX = 'paths with their weights, such as {"/data/a": 1, "/data/b": 0.5}'
_ADDRESS = re.compile(r"([\w.-]+|\[[0-9A-Fa-f:.%]+\]):\d+")
# Schemes of buckets, those of web servers, which endpoints have too, and others of endpoints.
_BUCKETS = ("s3", "gs", "az")
_WEB = ("http", "https")
_OF_ENDPOINTS = ("unix", *(f"{dns}{scheme}" for dns in ("", "dns+") for scheme in _WEB))
# What is left of a URL that was made a path.
_BROKEN_URL = re.compile(rf"({'|'.join((*_BUCKETS, *_WEB))}):/[^/]")
_MAX_WEIGHT = 1e6


@dataclass(frozen=True)
class Part:
    """A dataset as a server takes it, with its weight in a mix."""

    path: str
    """An absolute path or a URL; with `#SPLIT` behind it, if a split of it is meant."""
    weight: float = 1.0

    @property
    def is_url(self) -> bool:
        """Whether it is in a bucket."""
        return is_url(self.path)


def is_url(source: str) -> bool:
    """Whether this is the URL of a dataset in a bucket, and neither a path nor an endpoint, which has no path.

    >>> [is_url(source) for source in ("s3://bucket", "gs://bucket/a", "https://host:80/t-{0..9}.tar")]
    [True, True, True]
    >>> [is_url(source) for source in ("/data/train", "https://host:50051", "http://host:50051/", "unix:///s")]
    [False, False, False, False]
    """
    scheme, _, rest = source.partition("://")
    path = rest.partition("/")[2]
    return rest != "" and (scheme in _BUCKETS or scheme in _WEB and path != "")


def endpoints_of(source: Source) -> list[str] | None:
    """The endpoints that a source names; None if it names datasets.

    >>> endpoints_of("data-0:50051")
    ['data-0:50051']
    >>> endpoints_of("dns+http://forebay.ml.svc:50051")
    ['dns+http://forebay.ml.svc:50051']
    >>> endpoints_of(["a:1", "unix:/run/forebay.sock"])
    ['a:1', 'unix:/run/forebay.sock']
    >>> endpoints_of("/data/imagenet/train") is None and endpoints_of("s3://bucket/train") is None
    True
    """
    if isinstance(source, os.PathLike | Mapping):
        return None
    if not isinstance(source, str):
        # Whatever the types say.
        given: Any = source
        endpoints: list[Any] = list(given) if isinstance(given, Sequence) else []
        if not endpoints or not all(isinstance(endpoint, str) for endpoint in endpoints):
            raise _arguments.invalid("source", source, _EXPECTED)
        for endpoint in endpoints:
            if endpoints_of(endpoint) is None:
                kind = "a URL" if is_url(endpoint) else "a path"
                raise OptionsError(
                    f"invalid source {source!r}: a list is one of endpoints, and {endpoint!r} is {kind}: pass one {kind[2:]} "
                    "alone, or several in a mapping to their weights"
                )
        return [_expanded(endpoint) for endpoint in endpoints]
    if source == "":
        raise OptionsError('invalid source "": expected a path, such as ".", or an endpoint')
    if is_url(source):
        return None
    scheme, is_scheme, _ = source.partition("://")
    if is_scheme and scheme not in _OF_ENDPOINTS and re.fullmatch(r"[A-Za-z0-9+]+", scheme):
        raise OptionsError(
            f"invalid source: unknown scheme {scheme}://: expected s3://, gs://, az:// or https://HOST/PATH for a dataset, or "
            "http://host:port, https://host:port, dns+http://name:port or unix:PATH for an endpoint"
        )
    if is_scheme or source.startswith(_UNIX):
        return [_expanded(source)]
    if _ADDRESS.fullmatch(source) and not os.path.exists(source):
        return [source]
    return None


def parts_of(source: Source, split: str | None) -> list[Part]:
    """The datasets that a source names, each with the split. A leading `~` of a path is expanded.

    >>> parts_of({"/data/a": 1, "s3://bucket/b": 0.5}, "val")
    [Part(path='/data/a#val', weight=1.0), Part(path='s3://bucket/b#val', weight=0.5)]
    """
    if not isinstance(source, Mapping):
        return [Part(_dataset(source, split))]
    if not source:
        raise _arguments.invalid("source", dict(source), _EXPECTED_MIX)
    return [Part(_dataset(path, split), _weight(path, weight)) for path, weight in source.items()]


def split_of(path: str) -> tuple[str, str | None]:
    """Path and split of `PATH#SPLIT`. As for servers, a path that exists as it is has no split."""
    before, _, split = path.rpartition("#")
    is_split = before != "" and split != "" and not set(split) & set("/*{")
    return (before, split) if is_split and not os.path.exists(path) else (path, None)


def _dataset(source: Any, split: str | None) -> str:
    """A path or URL with its split."""
    if isinstance(source, str) and is_url(source):
        path, has_split = source, "#" in source and source.startswith(_WEB)
    else:
        if isinstance(source, str) and endpoints_of(source) is not None:
            raise OptionsError(f"invalid source: {source!r} is an endpoint, and only datasets are mixed: give paths or URLs")
        path = _arguments.path("source", source, _EXPECTED)
        if isinstance(source, os.PathLike) and _BROKEN_URL.match(path):
            raise _arguments.invalid("source", source, "a URL as a string: a path has lost one of its slashes")
        path = os.path.abspath(path)
        has_split = split is not None and split_of(path)[1] is not None
    try:
        path.encode()
    except UnicodeEncodeError:
        raise DatasetError(f"the path {path!r} is not UTF-8: rename it") from None
    if split is None:
        return path
    if has_split:
        raise OptionsError(f"invalid split {split!r}: the source {path!r} selects one already; leave one of them out")
    return f"{path}#{split}"


def _weight(path: object, weight: Any) -> float:
    expected = "a number above 0 and at most 1000000"
    number = _arguments.number(f"weight of {path}", weight, expected)
    if not 0 < number <= _MAX_WEIGHT:
        raise _arguments.invalid(f"weight of {path}", weight, expected)
    return number


def _expanded(endpoint: str) -> str:
    """An endpoint, with the whole path of its socket if it is one."""
    found = _SOCKET_AT_HOME.fullmatch(endpoint)
    return found[1] + os.path.expanduser(found[2]) if found else endpoint
