"""A path: indexed if needed, served by one process for all loaders, whatever is killed or forked."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import forebay
from conftest import HANG, SHARED, SMALL, Server, digest, eventually, run_python, server_processes, warned


def loader(path: Path, **options: Any) -> forebay.Loader:
    options = {"recipe": "a3", "set": SMALL, "threads": 1, **options}
    return forebay.Loader(path, **options)


@pytest.fixture
def path(data: Path, tmp_path: Path) -> Path:
    """A copy of the training images without an index, so that no other test uses its server."""
    shutil.copytree(data / "train", tmp_path / "train")
    return tmp_path / "train"


def test_a_path_is_indexed_and_served_until_its_last_loader_is_closed(path: Path, server: Server) -> None:
    one = loader(path)
    assert path.with_name("train.forebay").exists()
    (process,) = server_processes(path)
    two = loader(path)
    with forebay.Loader(server.endpoint, dataset="train", recipe="a3", set=SMALL) as remote:
        expected = [digest(batch) for batch in remote]
    assert [digest(batch) for batch in one] == expected
    assert one.stats()["servers"][0]["name"].startswith("unix:")
    assert [digest(batch) for batch in two] == expected
    assert server_processes(path) == [process]
    one.close()
    assert next(iter(two)).epoch == 1
    two.close()
    eventually("the server ends", lambda: server_processes(path) == [])
    # Another one is started.
    with loader(path) as three:
        assert digest(next(iter(three))) == expected[0]


def test_microbatches_of_a_path_are_read_in_the_memory_of_its_server(path: Path) -> None:
    with loader(path, set=SHARED, merge=False) as small:
        batch = next(iter(small))
        assert batch.is_shared and batch.pixels.readonly
        assert len(list(small)) == 16
        stats = small.stats()
        assert stats["shared_microbatches"] == stats["microbatches"] == 17


@pytest.mark.parametrize("base", ["x" * 90, "a folder, with a comma"])
def test_a_folder_that_can_have_no_socket_has_a_server_on_a_port(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    (tmp_path / base).mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / base))
    with loader(path, set=SHARED) as small:
        assert len(list(small)) == 4
        assert small.stats()["servers"][0]["name"].startswith("http://127.0.0.1:")
        assert small.stats()["shared_microbatches"] == 0


def test_sockets_of_killed_servers_are_removed(
    path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path_factory.mktemp("r")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    with loader(path) as small:
        (process,) = server_processes(path)
        os.kill(process, signal.SIGKILL)
        # Longer than what is on the way.
        with warned("was killed; another one is started"):
            assert len(list(small)) + len(list(small)) == 16
        (folder,) = (base / f"forebay-{os.getuid()}").iterdir()
        (socket, memory) = sorted(file.name for file in folder.iterdir() if file.name.startswith("socket-"))
        assert memory == f"{socket}.memory"
        assert small.stats()["servers"][0]["name"] == f"unix:{folder / socket}"
    eventually("the server removes them", lambda: not any(folder.glob("socket-*")))


def test_a_path_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    for name, says in [("absent", "no such file"), ("a*.tar", "no such file"), (".", "no class folder|not a dataset")]:
        with pytest.raises(forebay.DatasetError, match=says):
            forebay.Loader(tmp_path / name)


def test_a_path_that_is_gone_is_refused_at_once_while_its_server_runs(path: Path) -> None:
    with loader(path):
        shutil.move(path, path.with_name("other"))
        with pytest.raises(forebay.DatasetError, match=f"no dataset at {path}: no such file or directory"):
            loader(path)


def test_settings_that_only_servers_have_are_refused_for_a_path(path: Path) -> None:
    given: dict[str, Any] = {
        "dataset": "train", "resolve_interval": 1, "readmit_after": 1, "hedge_quantile": 0.5, "hedge_budget": 0.5,
        "hedge_min_delay": 1, "tls_ca": "ca.pem", "tls_cert": "cert.pem", "tls_key": "key.pem", "tls_name": "a",
        "token_file": "token",
    }
    for name, value in given.items():
        with pytest.raises(forebay.OptionsError, match=f"^invalid {name} {value!r}: the source is a path, '{path}', "):
            loader(path, **{name: value})
    assert server_processes(path) == []
    # All others have an effect.
    others: dict[str, Any] = {
        "connections": 2, "max_microbatch_bytes": 1 << 28, "connect_timeout": 60, "keepalive_timeout": 60,
        "idle_timeout": 60, "microbatch_timeout": 60, "give_up_after": 60, "initial_backoff": 0.1, "max_backoff": 1,
    }
    with loader(path, **others) as small:
        assert len(list(small)) == 8


def test_the_home_of_the_user_is_expanded_in_paths(
    path: Path, servers: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with forebay.Loader("~/train", recipe="a3", set=SMALL, threads=1, index_dir="~/index") as small:
        expected = digest(next(iter(small)))
    assert any((tmp_path / "index").iterdir())
    (tmp_path / "token").write_text(f"trainer {'0123456789' * 3}\n")
    server = servers("--token-file", str(tmp_path / "token"), listen=f"unix:{tmp_path / 's'}")
    (tmp_path / "own.toml").write_text('base = "a3"\n')
    options: dict[str, Any] = {"dataset": "train", "token_file": "~/token", "recipe": "~/own.toml", "set": SMALL}
    for source in ("unix:~/s", "unix://~/s", ["unix:~/s"]):
        with forebay.Loader(source, **options) as remote:
            assert digest(next(iter(remote))) == expected
            assert remote.stats()["servers"][0]["name"].endswith(f"{tmp_path}/s")
    assert server.process.poll() is None
    with pytest.raises(forebay.OptionsError, match=f"{tmp_path}/ca.pem"):
        forebay.Loader("https://127.0.0.1:1", tls_ca="~/ca.pem")


def test_an_index_that_changed_data_made_useless_is_an_error(path: Path) -> None:
    with loader(path):
        pass
    eventually("the server ends", lambda: server_processes(path) == [])
    index = path.with_name("train.forebay")
    index.write_bytes(index.read_bytes()[:100])
    # One that cannot be read is made again.
    with loader(path) as small:
        assert len(small) == 8


def test_the_index_can_be_elsewhere(path: Path, tmp_path: Path) -> None:
    with loader(path, index_dir=tmp_path / "index") as small:
        assert len(list(small)) == 8
    assert not path.with_name("train.forebay").exists()
    assert any((tmp_path / "index").iterdir())


def test_settings_that_a_running_server_does_not_have_are_warned_of(path: Path) -> None:
    with loader(path, threads=1), warned("threads=2 of this loader has no effect"):
        loader(path, threads=2).close()


def test_a_server_that_cannot_start_says_why(path: Path) -> None:
    with pytest.raises(forebay.ServerError, match="memory"):
        loader(path, memory="1MiB")


def test_a_killed_server_is_replaced(path: Path) -> None:
    # Larger than what is on the way, so that the server is needed after it is killed.
    options: dict[str, Any] = {"set": {"image_size": 224, "batch": 16, "microbatches": 4}, "prefetch_bytes": 0}
    with loader(path, **options) as undisturbed:
        expected = [digest(batch) for _ in range(2) for batch in undisturbed]
    with loader(path, **options) as small, loader(path, **options, merge=False) as apart:
        found, parts = [], iter(apart)
        next(parts)
        killed: set[int] = set()
        with warned("was killed; another one is started"):
            while len(found) < 16:
                for batch in small:
                    found.append(digest(batch))
                    for process in {*server_processes(path)} - killed:
                        if len(killed) < 2:
                            os.kill(process, signal.SIGKILL)
                            killed.add(process)
            rest = list(parts)
        assert found == expected and len(killed) == 2
        assert [part.microbatches[0] for part in rest] == [i % 4 for i in range(1, 32)]
        assert len(server_processes(path)) == 1


def test_batches_of_a_path_are_explained_while_their_loader_is_open(path: Path) -> None:
    with loader(path) as small:
        batches = iter(small)
        batch = next(batches)
        plans = batch.explain()
        (server,) = server_processes(path)
        os.kill(server, signal.SIGKILL)
        eventually("the server is gone", lambda: server not in server_processes(path))
        with warned("was killed; another one is started"):
            assert batch.explain() == plans
            # The pass goes on at the server that was started to explain.
            assert len(list(batches)) == len(small) - 1
        assert len(small.peek()) == len(batch)
    with pytest.raises(forebay.Error, match="explain batches before"):
        batch.explain()


TRAINER = """
import sys, time, forebay
loader = forebay.Loader(sys.argv[1], recipe="a3", set=["image_size = 64", "batch = 16", "microbatches = 4"], threads=1)
batches = iter(loader)
next(batches)
print("started", flush=True)
time.sleep(600)
"""


def trainer(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", TRAINER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    return process


def test_killed_trainers_leave_no_server(path: Path) -> None:
    one, two = trainer(path), trainer(path)
    (server,) = server_processes(path)
    one.kill()
    one.wait()
    with loader(path) as small:
        assert len(list(small)) == 8
    assert server_processes(path) == [server]
    two.kill()
    two.wait()
    eventually("the server ends", lambda: server_processes(path) == [])
    for process in (one, two):
        assert process.stdout is not None
        process.stdout.close()


def test_ctrl_c_ends_a_wait_and_the_pass_goes_on(path: Path) -> None:
    code = """
import _thread, os, signal, sys, threading, warnings, forebay
path = sys.argv[1]
# A server that is stopped may rightly be warned of.
warnings.simplefilter("default", forebay.ForebayWarning)
# A shell that runs the tests in the background has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
# An epoch of 19 MB, more than what is on the way: the loop waits for the server.
changes = ["image_size = 224", "batch = 16", "microbatches = 4"]
loader = forebay.Loader(path, recipe="a3", set=changes, threads=1, prefetch_bytes=0, shared_memory="off")
batches = iter(loader)
next(batches)
# The server sends nothing while it is stopped.
server = int(sys.stdin.readline())
os.kill(server, signal.SIGSTOP)
threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
steps = []
try:
    for batch in batches:
        steps.append(batch.step)
except KeyboardInterrupt:
    print("interrupted")
os.kill(server, signal.SIGCONT)
steps += [batch.step for batch in batches]
assert steps == list(range(1, 8)), steps
print("done")
"""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    eventually("the server runs", lambda: len(server_processes(path)) == 1)
    output, _ = process.communicate(f"{server_processes(path)[0]}\n", timeout=HANG)
    assert (process.returncode, output) == (0, "interrupted\ndone\n")


def test_nothing_hangs_when_python_exits(path: Path) -> None:
    code = """
import sys, forebay
loader = forebay.Loader(sys.argv[1], recipe="a3", set=["image_size = 64", "batch = 16", "microbatches = 4"], threads=1)
batches = iter(loader)
kept = next(batches)
print("end")
"""
    assert run_python(code, str(path)) == "end\n"
    eventually("the server ends", lambda: server_processes(path) == [])


def _use(small: forebay.Loader, batches: Any, batch: forebay.Batch, path: str, results: Any) -> None:
    said = []
    for attempt in (
        lambda: next(iter(small)),
        lambda: next(batches),
        lambda: small.stats(),
        lambda: forebay.Loader(path, recipe="a3", set=SMALL),
    ):
        try:
            attempt()
        except forebay.ForkError as error:
            said.append(str(error))
    # What was received is there.
    results.put((said, batch.pixels.tobytes()))


def test_a_forked_process_is_told_what_to_do(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with loader(path) as small:
        batches = iter(small)
        batch = next(batches)
        results = context.Queue()
        child = context.Process(target=_use, args=(small, batches, batch, str(path), results))
        child.start()
        said, pixels = results.get(timeout=HANG)
        child.join(HANG)
        assert child.exitcode == 0
        assert len(said) == 4 and all("spawn" in text for text in said), said
        assert pixels == batch.pixels.tobytes()
        # The parent goes on.
        assert [batch.step for batch in batches] == list(range(1, 8))


def test_a_process_that_was_forked_before_its_first_loader_can_load(path: Path) -> None:
    code = """
import os, sys, forebay
child = os.fork()
loader = forebay.Loader(sys.argv[1], recipe="a3", set=["image_size = 64", "batch = 16", "microbatches = 4"], threads=1)
assert len(list(loader)) == 8
if child:
    assert os.waitpid(child, 0)[1] == 0
    print("both")
"""
    assert run_python(code, str(path)) == "both\n"


RANK = """
import hashlib, sys, forebay
path, rank = sys.argv[1:]
with forebay.Loader(path, recipe="a3", set=["image_size = 64", "batch = 16", "microbatches = 8"], dtype="f32",
                    rank=int(rank), world=8, threads=1) as loader:
    for batch in loader:
        print(batch.step, *batch.microbatches, hashlib.sha256(batch.pixels.tobytes()).hexdigest())
    # Those of one rank at a time are just large enough.
    assert loader.stats()["shared_microbatches"] > 0
"""


def test_eight_ranks_of_one_host_share_a_server_and_a_step(path: Path) -> None:
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, str(path), str(rank)], stdout=subprocess.PIPE, text=True)
        for rank in range(8)
    ]
    with loader(path, set={**SMALL, "microbatches": 8}, dtype="f32", merge=False) as single:
        (server,) = server_processes(path)
        import hashlib

        expected = sorted(
            f"{batch.step} {batch.microbatches[0]} {hashlib.sha256(batch.pixels.tobytes()).hexdigest()}"
            for batch in single
        )
        outputs = [rank.communicate(timeout=HANG)[0] for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0] * 8
        assert server_processes(path) == [server]
    assert sorted(line for output in outputs for line in output.splitlines()) == expected


def test_a_folder_that_others_can_write_to_is_refused(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / f"forebay-{os.getuid()}").mkdir(mode=0o777)
    os.chmod(tmp_path / f"forebay-{os.getuid()}", 0o777)
    with pytest.raises(forebay.ServerError, match="only this user can read"):
        loader(path)


def test_other_users_of_the_host_have_no_token(path: Path) -> None:
    with loader(path) as small:
        endpoint = small.stats()["servers"][0]["name"]
        with pytest.raises(forebay.RefusedError, match="valid token"):
            forebay.Loader(endpoint, recipe="a3", set=SMALL)
