"""A batch as HTML, for notebooks: pictures, operations and mix."""

from __future__ import annotations

import base64
import html
import struct
import zlib
from typing import TYPE_CHECKING, Any

from ._errors import Error

if TYPE_CHECKING:
    from ._batch import Batch

_SHOWN = 12


def of_batch(batch: Batch, classes: list[str]) -> str:
    """The first images with their classes, operations and mix."""
    head = f"<p>{html.escape(repr(batch)[1:-1])}</p>"
    if batch.pixels.dtype != "uint8":
        return head
    try:
        plans = batch.explain()
    except Error as error:
        head += f"<p>No plans: {html.escape(str(error))}</p>"
        plans = []
    cells = [_cell(batch, i, plans[i] if plans else {}, classes) for i in range(min(_SHOWN, len(batch)))]
    style = "display:flex;flex-wrap:wrap;gap:12px;font:12px sans-serif"
    return f'{head}<div style="{style}">{"".join(cells)}</div>'


def _cell(batch: Batch, i: int, plan: dict[str, Any], classes: list[str]) -> str:
    height, width, rgb = batch._rgb(i)
    picture = base64.b64encode(_png(height, width, rgb)).decode()
    a, b = batch.label_a.tolist()[i], batch.label_b.tolist()[i]
    weight = batch.lam.tolist()[i]
    lines = [classes[a] if weight == 1 else f"{weight:.2f} {classes[a]} + {1 - weight:.2f} {classes[b]}"]
    if plan:
        lines.append(str(plan["file"]))
        lines += [_operation(operation) for operation in plan["ops"]]
        lines += ["flip"] if plan["flip"] else []
        lines += [str(plan["mix_mode"])] if plan["mix_mode"] not in (None, "none") else []
    text = "<br>".join(html.escape(line) for line in lines)
    source = f"data:image/png;base64,{picture}"
    return f'<div style="width:{max(width, 128)}px"><img src="{source}"><br>{text}</div>'


def _operation(operation: dict[str, Any]) -> str:
    argument = operation["arg"]
    return str(operation["name"]) if argument is None else f"{operation['name']} {argument:.3g}"


def _png(height: int, width: int, rgb: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    rows = [b"\0" + rgb[row * width * 3 : (row + 1) * width * 3] for row in range(height)]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"".join(rows))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
