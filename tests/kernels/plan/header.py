"""Names and numbers of cuDNN's backend API, from the header in the wheel."""

import ctypes
import re
import sys
from pathlib import Path

HOME = next(Path(sys.prefix).glob("lib/python3*/site-packages/nvidia/cudnn"))
HEADER = (HOME / "include/cudnn_graph.h").read_text()
# The enumerators of the header by name, without CUDNN_.
NAMES = {
    name: int(number)
    for name, number in re.findall(r"\bCUDNN_([A-Za-z0-9_]+)(?: CUDNN_DEPRECATED_ENUM)? *= *(\d+)", HEADER)
}

# The C type of the elements of each attribute type. All others are enumerations.
TYPES = {
    "HANDLE": ctypes.c_void_p,
    "BOOLEAN": ctypes.c_bool,
    "INT32": ctypes.c_int32,
    "INT64": ctypes.c_int64,
    "FLOAT": ctypes.c_float,
    "DOUBLE": ctypes.c_double,
    "VOID_PTR": ctypes.c_void_p,
    "BACKEND_DESCRIPTOR": ctypes.c_void_p,
    "CHAR": ctypes.c_char,
}


def element(type_):
    """The C type of an attribute type."""
    return TYPES.get(type_, ctypes.c_int)
