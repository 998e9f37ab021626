"""Values as TOML has them."""

from __future__ import annotations

import json


def string(value: str) -> str:
    r"""A string. It has the escapes of JSON, of which those for surrogates are none of TOML's.

    >>> print(string('a "b"\n\x7f 😀'))
    "a \"b\"\n\u007f 😀"
    """
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
