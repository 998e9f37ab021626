"""The console scripts: `forebay`, `forebay-loadtest` and `forebay-trainer`, as in a build by Cargo."""

import sys

from . import _forebay


def _run(name: str) -> int:
    return _forebay.run_command(name, [name, *sys.argv[1:]])


def forebay() -> int:
    """Runs `forebay`."""
    return _run("forebay")


def loadtest() -> int:
    """Runs `forebay-loadtest`."""
    return _run("forebay-loadtest")


def trainer() -> int:
    """Runs `forebay-trainer`."""
    return _run("forebay-trainer")
