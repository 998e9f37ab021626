"""Passes on what the client logs: warnings by `warnings`, the rest by `logging`, as `forebay.client`."""

import logging
import os
import sys
import warnings

from . import _forebay
from ._errors import ForebayWarning

_PACKAGE = os.path.dirname(__file__)


def flush() -> None:
    """Passes on what was logged since the last call."""
    for level, target, message in _forebay.take_log():
        if level >= logging.WARNING:
            warn(message)
        else:
            logging.getLogger(target.replace("forebay_", "forebay.", 1)).log(level, "%s", message)


def warn(message: str) -> None:
    """Warns, at the line outside of this package that called it."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, ForebayWarning, stacklevel=level)
