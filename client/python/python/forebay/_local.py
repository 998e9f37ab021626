"""The server of a source: one for each host, user and dataset, which all loaders of that dataset share.

The loaders find it in a folder that only their user can read:

    start     locked by the one that starts the server, while the others wait
    users     locked by every loader, shared; the server ends when it can lock it for itself (`--while-locked`)
    server    locked by the server as long as it lives
    socket-*  where it listens, so that microbatches are read in its memory; a TCP port if the folder can have no socket
    address   how to reach it
    token     what a call must have, because every user of the host can reach a port
    config    what it serves, as its --config
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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

from . import _arguments, _forebay, _toml
from ._errors import DatasetError, ServerError
from ._log import warn
from ._source import Part, split_of

_logger = logging.getLogger("forebay")

# Time between two tries to get a lock. Signals are handled in between.
_POLL = 0.02
# Waits of at most 100 ms for an indexing that was cancelled.
_CANCEL_WAITS = 20
# Time after which a wait for another process is logged.
_SILENCE = 1.0
# Paths of sockets that every part of forebay takes: as long as `--listen` allows, and with nothing that it or an
# endpoint could take for something else.
_SOCKET_PATH = re.compile(r"[A-Za-z0-9_./@+=-]{1,100}")
# A path that may name several tars.
_PATTERN = re.compile(r"[*?\[{]")
# What decides, besides its URL, which bucket is meant and as whom it is read. Keys and tokens do not: they may be renewed.
_BUCKET_VARIABLES = (
    "AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AZURE_ENDPOINT", "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ENDPOINT", "AZURE_STORAGE_USE_EMULATOR", "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_BASE_URL",
)  # fmt: skip


@dataclass(frozen=True)
class Address:
    """How to reach a server."""

    endpoint: str
    token_file: str


class LocalServer:
    """A share in the server of a dataset, which may be mixed of several parts. `close` gives it back."""

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        index_dir: str | None = None,
        threads: int | None = None,
        memory: str | int | None = None,
        disk_cache: str | None = None,
        disk_cache_bytes: str | int | None = None,
        progress: bool = True,
    ) -> None:
        self._parts = parts
        for part in parts:
            _check(part)
        self.shown = ", ".join(part.path for part in parts)
        names = [os.path.basename(part.path.rstrip("/")) for part in parts]
        self.dataset = re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(names))[:64] or "data"
        self._index_dir = None if index_dir is None else os.path.abspath(index_dir)
        self._disk_cache = None if disk_cache is None else os.path.abspath(disk_cache)
        self._disk_cache_bytes = None if disk_cache_bytes is None else str(disk_cache_bytes)
        self._settings = {
            "threads": threads,
            "memory": None if memory is None else str(memory),
            "disk_cache": self._disk_cache,
            "disk_cache_bytes": self._disk_cache_bytes,
        }
        self._progress = progress
        variables = _BUCKET_VARIABLES if any(part.is_url for part in parts) else ()
        where = {name: os.environ[name] for name in variables if name in os.environ}
        place = [_forebay.__version__, [_place(part) for part in parts], self._index_dir, where]
        name = hashlib.sha256(json.dumps(place).encode()).hexdigest()[:16]
        self._folder = os.path.join(_private_folder(), name)
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        self._users: int | None = None

    def join(self) -> Address:
        """Joins the running server, or starts one. May be called again after it was killed."""
        try:
            return self._join()
        except (DatasetError, ServerError) as error:
            raise type(error)(_arguments.instead_of_flags(str(error))) from None

    def _join(self) -> Address:
        start = self._open("start")
        try:
            _lock(start, fcntl.LOCK_EX, f"another process starts the server of {self.shown}")
            if self._users is None:
                self._users = self._open("users")
                # A server that is about to end holds it until it has ended.
                _lock(self._users, fcntl.LOCK_SH, f"the last server of {self.shown} ends")
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
        with open(self._file(f"{name}.new"), "w", encoding="utf-8", opener=_private) as file:
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
                    f"the server of {self.shown} was started with {name}={found[name]!r}, and "
                    f"{name}={wanted!r} of this loader has no effect: close the other loaders first"
                )
        return Address(found["endpoint"], self._file("token"))

    def _index(self) -> None:
        """Indexes what has no index."""
        datasets = _forebay.Datasets(self._index_dir, self._disk_cache, self._disk_cache_bytes)
        for part in self._parts:
            if datasets.needs_index(part.path):
                self._index_part(datasets, part.path)

    def _index_part(self, datasets: _forebay.Datasets, path: str) -> None:
        _logger.info("indexing %s, once", path)
        indexing = datasets.index(path, int(self._settings["threads"] or os.cpu_count() or 1))
        bar = _bar(self._progress)
        try:
            while not indexing.wait():
                if bar is not None:
                    done, bar.total = indexing.progress
                    bar.update(done - bar.n)
        except BaseException:
            indexing.cancel()
            # It removes its files meanwhile.
            for _ in range(_CANCEL_WAITS):
                if indexing.wait():
                    break
            raise
        finally:
            if bar is not None:
                bar.close()
        summary = indexing.summary()
        _logger.info("indexed %d records, %d bad", summary["records"], summary["bad"])

    def _start(self) -> None:
        self._write("token", f"local {secrets.token_hex(32)}\n")
        # In a list commas have no meaning, and with a weight no path is taken for one.
        paths = ", ".join(_toml.string(f"{part.path}:{part.weight!r}") for part in self._parts)
        self._write("config", f"[datasets]\n{_toml.string(self.dataset)} = [{paths}]\n")
        listen = self._listen()
        command = [sys.executable, "-P", "-m", "forebay", *self._arguments(listen)]
        server = self._open("server")
        try:
            _lock(server, fcntl.LOCK_EX, f"the last server of {self.shown} ends")
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
        _logger.info("started the server of %s: %s, process %d", self.shown, endpoint, process.pid)

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
        arguments += ["--config", self._file("config"), "--device", "cpu"]
        arguments += ["--while-locked", self._file("users")]
        if self._index_dir is not None:
            arguments += ["--index-dir", self._index_dir]
        for name, value in self._settings.items():
            if value is not None:
                arguments += [f"--{name.replace('_', '-')}", str(value)]
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
                    f"the server of {self.shown} could not be started: {log.read()[-2000:].strip()}"
                )
        address = line.removeprefix(prefix).strip()
        return address if address.startswith("unix:") else f"http://{address}"


def _check(part: Part) -> None:
    """Refuses a path that does not exist: at once, also if a server of it still runs, which would wait for its files."""
    path, _ = split_of(part.path)
    if part.is_url or _PATTERN.search(path):
        return
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(f"no dataset at {path}: no such file or directory; check the path") from None
    except OSError:
        # The attempt to index it says more.
        pass


def _place(part: Part) -> list[str | float | None]:
    """What tells a dataset from others of the host."""
    if part.is_url:
        return [part.path, None, part.weight]
    path, split = split_of(part.path)
    return [os.path.realpath(path), split, part.weight]


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
