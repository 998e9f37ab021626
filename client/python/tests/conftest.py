"""Data, servers and processes for the tests: all in temporary folders, on free ports."""

from __future__ import annotations

import gc
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import forebay
from forebay import _forebay

SMALL: dict[str, object] = {"image_size": 64, "batch": 16, "microbatches": 4}
"""Changes to a recipe for small, quick batches."""

SHARED: dict[str, object] = {"image_size": 64, "batch": 32, "microbatches": 4}
"""Changes to a recipe for microbatches that are just large enough for shared memory."""

# Time after which a test that waits for something fails, instead of hanging.
HANG = 120.0


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "forebay", *arguments]


def eventually(what: str, holds: Callable[[], bool]) -> None:
    end = time.monotonic() + HANG
    while not holds():
        assert time.monotonic() < end, f"waited too long until {what}"
        time.sleep(0.02)


@pytest.fixture(scope="session", autouse=True)
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The servers of paths are those of this run."""
    before = dict(os.environ)
    os.environ["XDG_RUNTIME_DIR"] = str(tmp_path_factory.mktemp("run"))
    for name in [name for name in os.environ if name.startswith("FOREBAY_")]:
        del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An indexed dataset of 128 training images and 18 others, in 4 and 6 classes each."""
    folder = tmp_path_factory.mktemp("data")
    made = ["--classes", "4", "--per-class", "32", "--val-per-class", "5"]
    subprocess.run(command("sample-data", str(folder), *made), check=True, capture_output=True)
    for split in ("train", "val"):
        subprocess.run(command("index", str(folder / split)), check=True, capture_output=True)
    return folder


@pytest.fixture(autouse=True)
def names_in_doctests(doctest_namespace: dict[str, Any], data: Path) -> None:
    doctest_namespace["data"] = data


@pytest.fixture(autouse=True)
def own_warnings() -> Iterator[None]:
    """What a test leaves behind, such as a pass whose server it killed, warns of nothing in the next test.

    It is set up first and ends last, so that the servers of the test have ended. A pass that is dropped logs nothing
    from then on; what was logged before belongs to the test that has ended.
    """
    yield
    gc.collect()
    _forebay.take_log()


class Server:
    """`forebay serve` in a process, on a free port or on a Unix socket."""

    def __init__(self, data: Path, *arguments: str, listen: str = "127.0.0.1:0") -> None:
        datasets = [f"--dataset={split}={data / split}" for split in ("train", "val")]
        metrics = ("--metrics-listen", "127.0.0.1:0")
        serve = command("serve", "--listen", listen, *metrics, "--threads", "1", "--device", "cpu", *datasets, *arguments)
        self.process = subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        address = self.process.stdout.readline().removeprefix("listening on ").strip()
        self.endpoint = address if address.startswith("unix:") else f"http://{address}"
        self.page = self.process.stdout.readline().split()[-1]

    def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        with urllib.request.urlopen(f"{self.page}metrics", timeout=HANG) as page:
            lines = page.read().decode().splitlines()
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        return float(line.split()[1])

    def has_all_buffers(self) -> bool:
        """Whether nobody has a buffer of a server without a cache."""
        return self.metric("forebay_buffer_bytes") == 0

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def servers(data: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers."""
    started: list[Server] = []

    def start(*arguments: str, **options: str) -> Server:
        started.append(Server(data, *arguments, **options))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[Server]:
    """A server that the tests of a file share."""
    server = Server(data)
    yield server
    server.close()


@pytest.fixture(scope="module")
def local_server(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on a Unix socket, for clients that read in its memory."""
    server = Server(data, "--cache-bytes", "0", listen=f"unix:{tmp_path_factory.mktemp('socket') / 's'}")
    yield server
    server.close()


def open_files(process: int | str = "self") -> list[str]:
    """What a process has open. Files may be closed meanwhile."""
    found = []
    for entry in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(os.readlink(entry))
    return found


def has_no_connection(server: Server) -> bool:
    """Whether this process has closed all its connections to a server on a port."""
    port = int(server.endpoint.rsplit(":", 1)[1])
    own = set(open_files())
    # Each line has the other end as ADDRESS:PORT, in hexadecimal, and the number of the socket.
    lines = (line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:])
    return not any(int(line[2].split(":")[1], 16) == port and f"socket:[{line[9]}]" in own for line in lines)


@contextmanager
def warned(match: str) -> Iterator[list[warnings.WarningMessage]]:
    """Expects a warning among any others, which would be errors."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
    messages = [str(warning.message) for warning in caught if warning.category is forebay.ForebayWarning]
    assert any(re.search(match, message) for message in messages), messages


def run_python(code: str, *arguments: str, **options: Any) -> str:
    """Runs code in a new process, and returns what it prints."""
    run = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(run, capture_output=True, text=True, timeout=HANG, **options)
    assert done.returncode == 0, f"exit code {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def server_processes(path: Path | str) -> list[int]:
    """The processes that serve a path or URL for loaders."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"--while-locked" not in words or b"--config" not in words:
                    continue
                served = Path(os.fsdecode(words[words.index(b"--config") + 1])).read_text()
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if f'"{path}:1.0"' in served and state != "Z":
                found.append(int(entry.name))
    return found


def write_tars(images: Path, folder: Path, name: str = "t-{}.tar") -> None:
    """Writes an ImageFolder as three tars."""
    folder.mkdir(parents=True, exist_ok=True)
    tars = [tarfile.open(folder / name.format(number), "w") for number in range(3)]
    for label, of_class in enumerate(sorted(images.iterdir())):
        for number, file in enumerate(sorted(of_class.iterdir())):
            for ending, content in [("cls", str(label).encode()), ("jpg", file.read_bytes())]:
                member = tarfile.TarInfo(f"{label}_{number}.{ending}")
                member.size = len(content)
                tars[number % 3].addfile(member, io.BytesIO(content))
    for tar in tars:
        tar.close()


def digest(batch: forebay.Batch) -> tuple[Any, ...]:
    """All of a batch."""
    arrays = (batch.pixels, batch.label_a, batch.label_b, batch.lam, batch.records)
    return (batch.epoch, batch.step, batch.microbatches, *(array.tobytes() for array in arrays))
