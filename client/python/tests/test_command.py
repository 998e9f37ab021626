"""The commands of the wheel, and its doctests."""

from __future__ import annotations

import doctest
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import forebay


@pytest.mark.parametrize("name", ["forebay", "forebay-loadtest", "forebay-trainer"])
def test_the_commands_are_console_scripts(name: str) -> None:
    script = Path(sys.executable).with_name(name)
    assert script.exists()
    done = subprocess.run([script, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{name} {forebay.__version__}\n")
    wrong = subprocess.run([script, "--frobnicate"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "--frobnicate" in wrong.stderr


def test_a_load_test_finds_the_server_of_the_same_wheel(data: Path) -> None:
    scripts = Path(sys.executable).parent
    test = [scripts / "forebay-loadtest", "--spawn", "1", "--dataset", f"train={data / 'train'}", "--recipe", "a3"]
    sizes = ["--set=image_size=64", "--set=batch=16", "--set=microbatches=4", "--trainers", "2", "--steps", "3"]
    found = shutil.which("forebay", path=str(scripts))
    assert found is not None
    done = subprocess.run([*test, *sizes, "--forebay", found], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "module", ["forebay", *(f"forebay._{name}" for name in ("arguments", "loader", "source", "batch", "toml"))]
)
def test_examples_in_the_documentation_work(module: str, data: Path) -> None:
    tested = doctest.testmod(importlib.import_module(module), extraglobs={"data": data})
    assert tested.failed == 0
