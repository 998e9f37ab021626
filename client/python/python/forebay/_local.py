"""The server of a path: one for each host, user and path, which all loaders of that path share.

The loaders find it in a folder that only their user can read:

    start     locked by the one that starts the server, while the others wait
    users     locked by every loader, shared; the server ends when it can lock it for itself (`--while-locked`)
    server    locked by the server as long as it lives
    socket-*  where it listens, so that microbatches are read in its memory; a TCP port if the folder can have no socket
    address   how to reach it
    token     what a call must have, because every user of the host can reach a port
    log       what it logs

The operating system releases the locks of killed processes, so that nothing has to be cleaned up.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import selectors
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from typing import IO, Any

from . import _forebay
from ._errors import DatasetError, ServerError
from ._log import warn

_logger = logging.getLogger("forebay")

# Time between two tries to get a lock. Signals are handled in between.
_POLL = 0.02
# Time after which a wait for another process is logged.
_SILENCE = 1.0
# Paths of sockets that every part of forebay takes: as long as `--listen` allows, and with nothing that it or an
# endpoint could take for something else.
_SOCKET_PATH = re.compile(r"[A-Za-z0-9_./@+=-]{1,100}")
# A path that may name several tars.
_PATTERN = re.compile(r"[*?\[{]")


@dataclass(frozen=True)
class Address:
    """How to reach a server."""

    endpoint: str
    token_file: str


class LocalServer:
    """A share in the server of a path. `close` gives it back."""

    def __init__(
        self,
        path: str,
        *,
        index_dir: str | None = None,
        threads: int | None = None,
        memory: str | int | None = None,
        progress: bool = True,
    ) -> None:
        self.path = os.path.abspath(path)
        # At once, also if a server of it still runs, which would wait for its files.
        if not _PATTERN.search(self.path):
            try:
                os.stat(self.path)
            except (FileNotFoundError, NotADirectoryError):
                raise DatasetError(
                    f"no dataset at {self.path}: no such file or directory; check the path"
                ) from None
            except OSError:
                # The attempt to index it says more.
                pass
        self.dataset = re.sub(r"[^A-Za-z0-9_.-]+", "-", os.path.basename(self.path))[:64] or "data"
        self._index_dir = None if index_dir is None else os.path.abspath(index_dir)
        self._settings = {"threads": threads, "memory": None if memory is None else str(memory)}
        self._progress = progress
        place = [_forebay.__version__, os.path.realpath(self.path), self._index_dir]
        name = hashlib.sha256(json.dumps(place).encode()).hexdigest()[:16]
        self._folder = os.path.join(_private_folder(), name)
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        self._users: int | None = None

    def join(self) -> Address:
        """Joins the running server, or starts one. May be called again after it was killed."""
        start = self._open("start")
        try:
            _lock(start, fcntl.LOCK_EX, f"another process starts the server of {self.path}")
            if self._users is None:
                self._users = self._open("users")
                # A server that is about to end holds it until it has ended.
                _lock(self._users, fcntl.LOCK_SH, f"the last server of {self.path} ends")
            if not self.is_running():
                self._index()
                self._start()
            return self._address()
        finally:
            os.close(start)

    def is_running(self) -> bool:
        """Whether the server runs."""
        server = self._open("server")
        try:
            fcntl.flock(server, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(server)
        return False

    def serves(self, endpoint: str) -> bool:
        """Whether the server runs and is reached by this endpoint, and not by that of a later one."""
        return self.is_running() and self._read_address()["endpoint"] == endpoint

    def close(self) -> None:
        """Gives the share back. The server ends with the last one."""
        users, self._users = self._users, None
        if users is not None:
            os.close(users)

    def __del__(self) -> None:
        if getattr(self, "_users", None) is not None:
            self.close()

    def _file(self, name: str) -> str:
        return os.path.join(self._folder, name)

    def _open(self, name: str) -> int:
        return os.open(self._file(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _write(self, name: str, text: str) -> None:
        # A reader sees all of it or none.
        with open(self._file(f"{name}.new"), "w", opener=_private) as file:
            file.write(text)
        os.replace(self._file(f"{name}.new"), self._file(name))

    def _read_address(self) -> dict[str, Any]:
        with open(self._file("address")) as file:
            found: dict[str, Any] = json.load(file)
        return found

    def _address(self) -> Address:
        found = self._read_address()
        for name, wanted in self._settings.items():
            if wanted is not None and found[name] != wanted:
                warn(
                    f"the server of {self.path} was started with {name}={found[name]!r}, and "
                    f"{name}={wanted!r} of this loader has no effect: close the other loaders first"
                )
        return Address(found["endpoint"], self._file("token"))

    def _index(self) -> None:
        if not _forebay.needs_index(self.path, self._index_dir):
            return
        threads = self._settings["threads"]
        _logger.info("indexing %s, once", self.path)
        indexing = _forebay.Indexing(self.path, self._index_dir, int(threads or os.cpu_count() or 1))
        bar = _bar(self._progress)
        try:
            while not indexing.wait():
                if bar is not None:
                    done, bar.total = indexing.progress
                    bar.update(done - bar.n)
        except BaseException:
            indexing.cancel()
            raise
        finally:
            if bar is not None:
                bar.close()
        summary = indexing.summary()
        _logger.info("indexed %d records, %d bad", summary["records"], summary["bad"])

    def _start(self) -> None:
        self._write("token", f"local {secrets.token_hex(32)}\n")
        listen = self._listen()
        command = [sys.executable, "-P", "-m", "forebay", *self._arguments(listen)]
        server = self._open("server")
        try:
            _lock(server, fcntl.LOCK_EX, f"the last server of {self.path} ends")
            with open(self._file("log"), "w", opener=_private) as log:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=_environment(),
                    # It inherits the lock, which lasts as long as it does.
                    pass_fds=[server],
                    # Ctrl-C in the terminal of one loader must not end the server of all.
                    start_new_session=True,
                    text=True,
                )
        finally:
            os.close(server)
        # Takes its exit code, whenever it ends.
        threading.Thread(target=process.wait, name="forebay-server", daemon=True).start()
        try:
            endpoint = self._endpoint(process)
        except BaseException:
            process.kill()
            raise
        self._write("address", json.dumps({"endpoint": endpoint, **self._settings}))
        _logger.info("started the server of %s: %s, process %d", self.path, endpoint, process.pid)

    def _listen(self) -> str:
        """Where the next server listens. The name is a new one, so that nobody takes it for the last server."""
        for name in os.listdir(self._folder):
            # A server that was killed left them.
            if name.startswith("socket-"):
                os.unlink(self._file(name))
        path = self._file(f"socket-{secrets.token_hex(4)}")
        if _SOCKET_PATH.fullmatch(path):
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.bind(path)
                os.unlink(path)
                return f"unix:{path}"
            except OSError as error:
                _logger.info("no socket in %s: %s", self._folder, error)
        return "127.0.0.1:0"

    def _arguments(self, listen: str) -> list[str]:
        """How the server is started; `_endpoint` is its counterpart."""
        arguments = ["serve", "--listen", listen, "--token-file", self._file("token")]
        arguments += ["--dataset", f"{self.dataset}={self.path}", "--device", "cpu"]
        arguments += ["--while-locked", self._file("users")]
        if self._index_dir is not None:
            arguments += ["--index-dir", self._index_dir]
        for name, value in self._settings.items():
            if value is not None:
                arguments += [f"--{name}", str(value)]
        return arguments

    def _endpoint(self, process: subprocess.Popen[str]) -> str:
        """Waits until the server listens, and returns its endpoint."""
        assert process.stdout is not None
        with process.stdout as output:
            line = _first_line(output)
        prefix = "listening on "
        if not line.startswith(prefix):
            process.kill()
            with open(self._file("log")) as log:
                raise ServerError(
                    f"the server of {self.path} could not be started: {log.read()[-2000:].strip()}"
                )
        address = line.removeprefix(prefix).strip()
        return address if address.startswith("unix:") else f"http://{address}"


def _first_line(output: IO[str]) -> str:
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while not selector.select(0.1):
            pass
    return output.readline()


def _lock(file: int, operation: int, waits_for: str) -> None:
    start: float | None = time.monotonic()
    while True:
        try:
            fcntl.flock(file, operation | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if start is not None and time.monotonic() - start > _SILENCE:
                _logger.info("waiting: %s", waits_for)
                start = None
            time.sleep(_POLL)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _private_folder() -> str:
    """A folder of this user, into which nobody else can put anything."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if not os.path.isdir(base) or not os.access(base, os.W_OK):
        base = tempfile.gettempdir()
    folder = os.path.join(base, f"forebay-{os.getuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    found = os.lstat(folder)
    is_own = found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) & 0o077 == 0
    if not stat.S_ISDIR(found.st_mode) or not is_own:
        raise ServerError(
            f"{folder} is not a folder that only this user can read: remove it, or set "
            "XDG_RUNTIME_DIR to another folder"
        )
    return folder


def _environment() -> dict[str, str]:
    """The environment of a server: that of this process, without settings for other servers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")}
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    paths = [package, *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}


def _bar(is_shown: bool) -> Any:
    """A progress bar of tqdm, if that is installed."""
    if not is_shown:
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(desc="indexing", unit=" images", leave=False)
