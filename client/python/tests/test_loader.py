"""The loader: order, epochs, state, errors, and what it knows."""

from __future__ import annotations

import copy
import functools
import gc
import html
import inspect
import itertools
import json
import logging
import multiprocessing
import os
import pickle
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import forebay
from forebay import _batch, _forebay
from conftest import SMALL, Server, command, digest, eventually, has_no_connection, run_python, warned


def loader(server: Server, **options: Any) -> forebay.Loader:
    options = {"dataset": "train", "recipe": "a3", "set": SMALL, **options}
    return forebay.Loader(server.endpoint, **options)


def test_a_pass_is_an_epoch_and_the_next_pass_is_the_next_epoch(server: Server) -> None:
    with loader(server, epoch=3) as small:
        assert len(small) == 8
        for epoch in (3, 4):
            names = [(batch.epoch, batch.step) for batch in small]
            assert names == [(epoch, step) for step in range(8)]
        records = [record for batch in small for record in batch.records.tolist()]
        assert sorted(records) == list(range(128))
        assert small.stats()["images"] == 3 * 128
        assert small.stats()["servers"][0]["microbatches"] == 3 * 8 * 4


def test_merged_batches_are_microbatches_in_order(server: Server) -> None:
    with loader(server) as merged, loader(server, merge=False) as apart:
        assert (len(merged), len(apart)) == (8, 32)
        assert (merged.images_per_batch, apart.images_per_batch) == (16, 4)
        parts = iter(apart)
        for batch in merged:
            own = [next(parts) for _ in range(4)]
            assert batch.microbatches == (0, 1, 2, 3)
            assert [part.microbatches for part in own] == [(0,), (1,), (2,), (3,)]
            joined = np.concatenate([np.asarray(part.pixels) for part in own])
            assert (np.asarray(batch.pixels) == joined).all()
            for name in ("label_a", "label_b", "lam", "records"):
                joined_list = [value for part in own for value in getattr(part, name).tolist()]
                assert getattr(batch, name).tolist() == joined_list
        assert next(parts, None) is None


def test_ranks_share_the_microbatches_of_a_step(server: Server) -> None:
    with loader(server, merge=False) as single:
        expected = [digest(batch) for batch in single]
    found = []
    for rank in range(2):
        with loader(server, merge=False, rank=rank, world=2) as shared:
            assert len(shared) == 16
            found += [digest(batch) for batch in shared]
    assert sorted(found) == sorted(expected)


def test_an_evaluation_has_every_record_once_and_a_short_last_batch(server: Server) -> None:
    # 20 records in steps of 16: the last step has one for each of its 4 microbatches.
    options: dict[str, Any] = {"recipe": "eval", "dataset": "val"}
    with loader(server, **options) as small:
        assert len(small) == 2
        assert [len(batch) for batch in small] == [16, 4]
    records = []
    changes = {**SMALL, "batch": 12}
    for rank in range(2):
        # The last step has 8.
        with loader(server, **options, set=changes, merge=False, rank=rank, world=2) as shared:
            batches = list(shared)
            assert len(batches) == len(shared)
            records += [record for batch in batches for record in batch.records.tolist()]
    assert sorted(records) == list(range(20))
    # Of a last step with two samples, the second pair of microbatches has none.
    changes = {**SMALL, "batch": 6, "microbatches": 3}
    counts = []
    for rank in range(3):
        with loader(server, **options, set=changes, rank=rank, world=3) as shared:
            counts.append((len(shared), len(list(shared))))
    assert counts == [(4, 4), (4, 4), (3, 3)]


@pytest.fixture(params=["server", "local_server"], ids=["frames", "shared"])
def any_server(request: pytest.FixtureRequest) -> Server:
    """A server on a port, and one in whose memory floats are read."""
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("world", [1, 2])
def test_a_loader_resumes_after_any_batch(any_server: Server, merge: bool, world: int) -> None:
    server = any_server
    options: dict[str, Any] = {"merge": merge, "rank": world - 1, "world": world, "epoch": 1, "dtype": "f32"}
    with loader(server, **options) as small:
        expected = [digest(batch) for _ in range(2) for batch in small]
        assert (small.stats()["shared_microbatches"] > 0) == server.endpoint.startswith("unix:")
    each = len(expected) // 2
    for stop in range(0, 2 * each, 1 if merge else 3):
        with loader(server, **options) as first:
            found = []
            while len(found) < stop:
                for batch in first:
                    found.append(digest(batch))
                    if len(found) == stop:
                        break
            # What is kept is text.
            state = json.dumps(first.state_dict())
        with loader(server, **{**options, "epoch": 0}) as second:
            second.load_state_dict(json.loads(state))
            if stop % each:
                # What follows takes set_epoch of the same epoch, as trainers call it.
                second.set_epoch(1 + stop // each)
            while len(found) < 2 * each:
                found += [digest(batch) for batch in second]
        assert found == expected, f"stopped after {stop}"


def test_a_state_within_a_step_goes_on_in_a_loader_that_merges(any_server: Server) -> None:
    server = any_server
    with loader(server, dtype="f32") as small:
        expected = b"".join(batch.pixels.tobytes() for batch in small)
    with loader(server, merge=False, dtype="f32") as apart:
        batches = iter(apart)
        found = b"".join(next(batches).pixels.tobytes() for _ in range(6))
        state = apart.state_dict()
        assert (state["step"], state["microbatches"]) == (1, 2)
    with loader(server, dtype="f32") as merged:
        merged.load_state_dict(state)
        rest = list(merged)
        assert [len(batch) for batch in rest] == [8] + [16] * 6
        assert found + b"".join(batch.pixels.tobytes() for batch in rest) == expected
    with loader(server, rank=0, world=2) as other, pytest.raises(forebay.StateError, match="world of 1"):
        other.load_state_dict(state)


def test_what_was_received_before_ctrl_c_is_not_lost(any_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    add, calls, interrupts = _batch.Parts.add, itertools.count(), 0

    def interrupted(parts: _batch.Parts, microbatch: Any) -> None:
        add(parts, microbatch)
        if next(calls) % 7 == 3:
            raise KeyboardInterrupt

    with loader(any_server, dtype="f32") as small:
        expected = [digest(batch) for batch in small]
        small.set_epoch(0)
        monkeypatch.setattr(_batch.Parts, "add", interrupted)
        batches, found = iter(small), []
        while len(found) < len(expected):
            try:
                found.append(digest(next(batches)))
            except KeyboardInterrupt:
                interrupts += 1
        assert found == expected and interrupts > 3
        assert next(batches, None) is None


def test_a_new_process_continues_from_a_state(server: Server, tmp_path: Path) -> None:
    code = """
import hashlib, json, sys, forebay
endpoint, file, count = sys.argv[1:]
loader = forebay.Loader(endpoint, dataset="train", recipe="a3", set=["image_size = 64", "batch = 16", "microbatches = 4"])
if file != "-":
    loader.load_state_dict(json.load(open(file)))
for _, batch in zip(range(int(count)), loader):
    print(hashlib.sha256(batch.pixels.tobytes()).hexdigest())
    state = loader.state_dict()
json.dump(state, open("state", "w"))
"""
    whole = run_python(code, server.endpoint, "-", "8", cwd=tmp_path)
    first = run_python(code, server.endpoint, "-", "3", cwd=tmp_path)
    rest = run_python(code, server.endpoint, "state", "9", cwd=tmp_path)
    assert first + rest == whole and len(whole.splitlines()) == 8


def test_a_pass_that_was_left_is_followed_by_the_next_epoch(server: Server) -> None:
    with loader(server) as small:
        first = next(iter(small))
        assert (first.epoch, next(iter(small)).epoch) == (0, 1)
        small.set_epoch(0)
        assert digest(next(iter(small))) == digest(first)
        # Lightning makes the iterator first.
        batches = iter(small)
        small.set_epoch(7)
        assert next(batches).epoch == 7


def test_passes_are_independent_and_the_state_is_that_of_the_last(server: Server) -> None:
    with loader(server) as small:
        one = iter(small)
        first = next(one)
        small.set_epoch(0)
        two = iter(small)
        assert digest(next(two)) == digest(first)
        assert [batch.step for batch in one] == list(range(1, 8))
        assert small.state_dict()["step"] == 1


def test_states_of_other_data_are_refused(server: Server) -> None:
    with loader(server) as small:
        state = small.state_dict()
        cases: list[tuple[dict[str, Any], str]] = [
            ({"dataset_digest": "0" * 64}, "another dataset"),
            ({"recipe_digest": "0" * 64}, "another recipe"),
            ({"version": 2}, "version 2"),
            ({"step": 8}, "step 8 of an epoch of 8 steps"),
            ({"microbatches": 5}, "5 microbatches"),
            ({"seed": None}, "invalid state"),
        ]
        for change, says in cases:
            with pytest.raises(forebay.StateError, match=says):
                small.load_state_dict({**state, **change})
        with pytest.raises(forebay.StateError, match="expected what state_dict returned"):
            small.load_state_dict({})
        small.load_state_dict({**state, "seed": 5})
        assert small.state_dict()["seed"] == 5


def test_errors_are_exceptions_with_the_sentences_of_the_client(server: Server) -> None:
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"dataset": "absent"}, forebay.RefusedError, 'absent.*use a dataset that the server has'),
        ({"recipe": "a9"}, forebay.OptionsError, "a9"),
        ({"recipe": "absent.toml"}, forebay.OptionsError, "cannot read the recipe"),
        ({"set": {"batch": 0}}, forebay.OptionsError, "batch"),
        ({"batch_size": 32}, forebay.OptionsError, r'^unknown argument batch_size: .*set=\{"batch": 256'),
        ({"prefetch": 2}, forebay.OptionsError, "^unknown argument prefetch: .*prefetch_bytes"),
        ({"num_worker": 2}, forebay.OptionsError, "^unknown argument num_worker: see help"),
        ({"give_up_afte": 2}, forebay.OptionsError, "^unknown argument give_up_afte: did you mean give_up_after"),
        ({"set": {"flip": object()}}, forebay.OptionsError, "of flip: expected a number"),
        ({"dtype": "u4"}, forebay.OptionsError, '"u4": expected "u8"'),
        ({"layout": "hwc"}, forebay.OptionsError, '"hwc"'),
        ({"rank": 1}, forebay.OptionsError, "rank and world belong together"),
        ({"rank": 3, "world": 3}, forebay.OptionsError, "invalid rank 3"),
        ({"rank": 0, "world": 3}, forebay.OptionsError, "does not divide the 4 microbatches"),
        ({"seed": -1}, forebay.OptionsError, "invalid seed -1"),
        ({"idle_timeout": -1.0}, forebay.OptionsError, "invalid idle_timeout -1"),
        ({"idle_timeout": 0.0}, forebay.OptionsError, "invalid idle timeout 0"),
        ({"hedge_quantile": 2.0}, forebay.OptionsError, "invalid hedge quantile 2"),
        ({"shared_memory": "on"}, forebay.OptionsError, 'shared_memory: "on": expected "verify"'),
        ({"threads": 2}, forebay.OptionsError, "invalid threads 2: only a path"),
        ({"split": "val"}, forebay.OptionsError, "invalid split 'val': the datasets of a server are named by dataset"),
        ({"disk_cache": "/c"}, forebay.OptionsError, "invalid disk_cache '/c': only a path"),
    ]
    for options, error, says in cases:
        # A warning would be an error of its own.
        with pytest.raises(error, match=says):
            loader(server, **options)
    with pytest.raises(forebay.OptionsError, match="expected a path, a URL"):
        forebay.Loader([])
    with pytest.raises(forebay.OptionsError, match="invalid endpoint"):
        forebay.Loader("http://x", dataset="train")


def test_arguments_of_a_wrong_type_are_named_with_what_is_expected(server: Server) -> None:
    an_integer, a_flag, seconds = "expected an integer from", "expected True or False", "expected a number of seconds"
    cases: list[tuple[str, Any, str]] = [
        ("recipe", 5, "expected the name of a recipe"),
        ("set", 5, "expected a mapping"),
        ("set", [5], "expected a mapping"),
        ("set", {5: 5}, "expected a mapping"),
        ("dataset", b"train", "expected a string"),
        ("seed", "1", an_integer),
        ("seed", 1.5, an_integer),
        ("seed", True, an_integer),
        ("epoch", None, an_integer),
        ("rank", "0", an_integer),
        ("world", [1], an_integer),
        ("dtype", np.uint8, 'expected "u8", "f16"'),
        ("dtype", None, 'expected "u8", "f16"'),
        ("layout", 1, 'expected "nhwc"'),
        ("mixed_by", None, 'expected "server"'),
        ("merge", "yes", a_flag),
        ("writable", None, a_flag),
        ("progress", 2, a_flag),
        ("split", 3, "expected the name of a split"),
        ("split", "", "expected the name of a split"),
        ("split", "a/b", "expected the name of a split"),
        ("index_dir", 3, "expected a path"),
        ("index_dir", "a\0b", "expected a path"),
        ("threads", "2", an_integer),
        ("threads", 0, f"{an_integer} 1"),
        ("memory", 1.5, 'expected a number of bytes, or a string with a unit, such as "4GiB"'),
        ("disk_cache", 3, "expected a path"),
        ("disk_cache_bytes", 1.5, "expected a number of bytes"),
        ("prefetch_bytes", -1, an_integer),
        ("prefetch_bytes", "128MiB", an_integer),
        ("max_microbatch_bytes", 2**64, an_integer),
        ("connections", 1.0, an_integer),
        ("shared_memory", True, 'expected "verify"'),
        ("resolve_interval", "30s", seconds),
        ("readmit_after", [], seconds),
        ("connect_timeout", "5", seconds),
        ("keepalive_timeout", b"5", seconds),
        ("idle_timeout", True, seconds),
        ("microbatch_timeout", "5", seconds),
        ("give_up_after", "5m", seconds),
        ("initial_backoff", {}, seconds),
        ("max_backoff", "5", seconds),
        ("hedge_quantile", "0.9", "expected a number"),
        ("hedge_budget", [0.9], "expected a number"),
        ("hedge_min_delay", "1", seconds),
        ("tls_ca", 1, "expected a path"),
        ("tls_cert", b"a", "expected a path"),
        ("tls_key", "", "expected a path"),
        ("tls_name", 1, "expected a string"),
        ("token_file", open, "expected a path"),
    ]
    for name, value, says in cases:
        with pytest.raises(forebay.OptionsError, match=f"^invalid {name} .*: {re.escape(says)}") as raised:
            loader(server, **{"rank": 0, "world": 1, **{name: value}})
        assert repr(value)[:200] in str(raised.value)
    arguments = inspect.signature(forebay.Loader).parameters
    assert {name for name, _, _ in cases} == {*arguments} - {"source", "unknown"}
    for source in (5, None, b"a:1", [5], [b"a:1"], {"a:1"}, Path):
        with pytest.raises(forebay.OptionsError, match="^invalid source .*: expected a path, a URL"):
            forebay.Loader(source)  # type: ignore[arg-type]
    with loader(server) as small:
        with pytest.raises(forebay.OptionsError, match=f"^invalid epoch '1': {an_integer}"):
            small.set_epoch("1")  # type: ignore[arg-type]
        batch = next(iter(small))
        for call, says in [
            (lambda: batch.targets("4"), "invalid num_classes '4'"),
            (lambda: batch.targets(4, "0"), "invalid smoothing '0'"),
            (lambda: batch.image("0"), "invalid image '0'"),
            (lambda: small.preview(columns=0), "invalid columns 0"),
            (lambda: small.preview("all"), "invalid limit 'all'"),
        ]:
            with pytest.raises(forebay.OptionsError, match=f"^{says}: expected"):
                call()
    # Those of numpy are as good.
    numbers: dict[str, Any] = {"seed": np.int64(3), "give_up_after": np.float32(9), "merge": np.True_, "progress": 0}
    with loader(server, **numbers, set={**SMALL, "batch": np.int32(16), "flip": np.float32(0.5)}) as small:
        assert len(small) == 8 and small.state_dict()["seed"] == 3
        json.dumps(small.state_dict())


def test_each_setting_of_the_client_is_an_argument() -> None:
    code = """
import sys
from forebay import _command
getattr(_command, sys.argv.pop(1))()
"""
    of_each = []
    for program in (["trainer", "train"], ["loadtest"]):
        _, _, page = run_python(code, *program, "--help").partition("\nServers:\n")
        # Up to the next heading.
        section = re.split(r"^\S", page, maxsplit=1, flags=re.MULTILINE)[0]
        of_each.append(set(re.findall(r"^ +--([a-z-]+)", section, re.MULTILINE)))
    # Those of the client are in both.
    flags = of_each[0] & of_each[1]
    assert {"endpoint", "shared-memory", "hedge-min-delay", "token-file"} <= flags
    renamed = {"endpoint": "source", "prefetch": "prefetch_bytes", "max-microbatch": "max_microbatch_bytes"}
    arguments = inspect.signature(forebay.Loader).parameters
    for flag in flags:
        assert renamed.get(flag, flag.replace("-", "_")) in arguments, flag


def test_a_stream_that_is_closed_says_nothing_about_its_end(servers: Callable[..., Server]) -> None:
    for _ in range(20):
        server = servers()
        small = loader(server, prefetch_bytes=0)
        other = loader(server, prefetch_bytes=0)
        batches, left = iter(small), iter(other)
        next(batches)
        next(left)
        small.close()
        # Without `close`.
        del left, other
        gc.collect()
        # What is logged before that may be a warning.
        _forebay.take_log()
        server.kill()
        # Then everything that was connected to it has seen its end.
        eventually("all connections are closed", functools.partial(has_no_connection, server))
        assert [message for level, _, message in _forebay.take_log() if level >= logging.WARNING] == []


def test_a_server_that_is_not_there_is_warned_of_and_given_up(servers: Callable[..., Server]) -> None:
    server = servers()
    server.kill()
    with warned("retrying") as caught:
        with pytest.raises(forebay.GaveUpError, match="check that the server runs"):
            loader(server, give_up_after=0.3)
    # At the line that called, so that the filters of `warnings` work.
    assert caught[0].filename == __file__


def test_a_socket_without_a_server_is_named(tmp_path: Path) -> None:
    with warned("retrying.*no server listens on the socket"), pytest.raises(forebay.GaveUpError) as raised:
        forebay.Loader(f"unix:{tmp_path / 'absent'}", give_up_after=0.1)
    says = f"no server listens on the socket {tmp_path / 'absent'}: start the server with this path as its --listen"
    assert says in str(raised.value) and "TLS" not in str(raised.value)
    assert str(raised.value).startswith("description of the dataset: gave up")


def test_a_socket_that_this_user_may_not_connect_to_is_refused_at_once(
    servers: Callable[..., Server], tmp_path: Path
) -> None:
    server = servers(listen=f"unix:{tmp_path / 's'}")
    os.chmod(tmp_path / "s", 0)
    code = """
import os, sys, forebay
# The system lets root connect to everything.
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    forebay.Loader(sys.argv[1], dataset="train")
except forebay.RefusedError as error:
    print(error)
"""
    said = run_python(code, server.endpoint)
    socket = tmp_path / "s"
    assert f"permission denied: the socket {socket}: check --socket-mode of the server" in said, said


def test_a_dataset_that_is_not_named_is_refused_with_the_names_of_all(servers: Callable[..., Server]) -> None:
    one, two = servers(), servers()
    says = "the request names no dataset, and there are several: this server has train, val: .*dataset= in Python"
    with pytest.raises(forebay.RefusedError, match=says):
        forebay.Loader(one.endpoint, recipe="a3", set=SMALL)
    # The first of them is said to be left out.
    with warned("server excluded"), pytest.raises(forebay.NoServerError, match=says):
        forebay.Loader([one.endpoint, two.endpoint], recipe="a3", set=SMALL)


def test_an_error_ends_a_pass_and_the_next_one_tries_the_same_batch(servers: Callable[..., Server]) -> None:
    server = servers()
    options: dict[str, Any] = {"give_up_after": 0.3, "prefetch_bytes": 0}
    with loader(server, **options) as small:
        batches = iter(small)
        next(batches)
        server.kill()
        with warned("retrying"), pytest.raises(forebay.GaveUpError):
            for _ in batches:
                pass
        assert next(batches, None) is None
        at = small.state_dict()
        again = servers(listen=server.endpoint.removeprefix("http://"))
        assert again.endpoint == server.endpoint
        batch = next(iter(small))
        assert (batch.epoch, batch.step) == (at["epoch"], at["step"])


def test_what_the_client_logs_at_lower_levels_goes_to_logging(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "forebay")
    with loader(server) as small:
        next(iter(small))
    assert any("new server" in record.getMessage() for record in caplog.records)
    for record in caplog.records:
        assert record.name.startswith("forebay") and record.levelno < logging.WARNING


def test_a_loader_describes_its_job(server: Server) -> None:
    with loader(server) as small:
        description = small.describe()
        assert (description["records"], description["steps_per_epoch"], description["batch"]) == (128, 8, 16)
        assert len(small.classes) == 4 and small.classes == sorted(small.classes)
        assert small.mean == pytest.approx((0.485, 0.456, 0.406))
        assert small.std == pytest.approx((0.229, 0.224, 0.225))
        assert repr(small) == "<forebay.Loader of 128 records in 4 classes: 8 steps of 16 images, rank 0 of 1>"


def test_a_batch_explains_itself_and_equals_the_command(server: Server, data: Path) -> None:
    with loader(server, seed=5) as small:
        batch = next(iter(small))
        plans = batch.explain()
    assert [plan["record"] for plan in plans] == batch.records.tolist()
    assert [plan["label"] for plan in plans] == batch.label_a.tolist()
    assert [plan["microbatch"] for plan in plans] == [i // 4 for i in range(16)]
    changes = [f"--set={name}={value}" for name, value in SMALL.items()]
    explain = command("explain", "--dataset", str(data / "train"), "--recipe", "a3", "--seed", "5", *changes)
    first = json.loads(subprocess.run(explain, check=True, capture_output=True).stdout)
    for plan, expected in zip(plans, first["samples"], strict=False):
        assert {name: plan[name] for name in expected} == expected
        assert plan["mix_mode"] == first["mix"]["mode"]


def test_batches_can_be_looked_at(server: Server) -> None:
    image = pytest.importorskip("PIL.Image")
    with loader(server) as small, loader(server, layout="nchw") as planar, loader(server, dtype="f32") as floats:
        batch = next(iter(small))
        sheet = small.preview(limit=5, columns=4)
        assert sheet.size == (4 * 68, 2 * 68)
        picture = batch.image(3)
        assert isinstance(picture, image.Image)
        assert (np.asarray(picture) == np.asarray(batch.pixels)[3]).all()
        assert (np.asarray(next(iter(planar)).image(3)) == np.asarray(picture)).all()
        with pytest.raises(IndexError, match="invalid image 16"):
            batch.image(16)
        page = batch._repr_html_()
        assert page.count("data:image/png;base64,") == 12 and batch.explain()[0]["file"] in page
        # Floats are shown by a batch of their own, and the position stays.
        shown = floats._repr_html_()
        assert "data:image/png" in shown and html.escape(repr(floats)[1:-1]) in shown
        with pytest.raises(forebay.OptionsError, match='dtype="u8"'):
            next(iter(floats)).image(0)
        assert small.state_dict()["step"] == 1


def test_the_plan_of_the_mix_is_left_to_the_trainer(server: Server) -> None:
    with loader(server, mixed_by="trainer", recipe="a2", set={**SMALL, "repeats": 1}) as small:
        kinds = {mix[0] for batch in small for mix in batch.mix}
    assert kinds <= {"keep", "mixup", "cutmix"} and len(kinds) >= 2


def test_loaders_are_copied_with_their_position(server: Server) -> None:
    with loader(server) as small:
        batches = iter(small)
        for _ in range(3):
            next(batches)
        small.load_state_dict(small.state_dict())
        with pickle.loads(pickle.dumps(small)) as other, copy.deepcopy(small) as third:
            expected = [digest(batch) for batch in other]
            assert expected == [digest(batch) for batch in third]
            assert [name[1] for name in expected] == [3, 4, 5, 6, 7]


def _first_of(small: forebay.Loader, results: Any) -> None:
    results.put(next(iter(small)).pixels.tobytes())


def test_a_spawned_process_gets_a_loader(server: Server) -> None:
    context = multiprocessing.get_context("spawn")
    with loader(server) as small:
        results = context.Queue()
        child = context.Process(target=_first_of, args=(small, results))
        child.start()
        assert results.get(timeout=120) == next(iter(small)).pixels.tobytes()
        child.join()


def test_a_loader_that_is_closed_in_a_pass_ends_it_by_an_error(server: Server) -> None:
    small = loader(server)
    finished, batches = iter(small), iter(small)
    list(finished)
    next(batches)
    small.close()
    with pytest.raises(forebay.Error, match="the loader is closed"):
        next(batches)
    assert next(finished, None) is None


def test_a_batch_is_not_pickled(server: Server) -> None:
    with loader(server) as small, pytest.raises(TypeError, match="copies of its arrays"):
        pickle.dumps(next(iter(small)))


def test_a_source_that_is_empty_or_a_list_of_paths_is_refused() -> None:
    with pytest.raises(forebay.OptionsError, match='invalid source "": expected a path'):
        forebay.Loader("")
    with pytest.raises(forebay.OptionsError, match="'data/val' is a path: pass one path alone"):
        forebay.Loader(["http://127.0.0.1:1", "data/val"])


def test_a_loader_has_no_items_by_number(server: Server) -> None:
    with loader(server) as small:
        for wrong in (lambda: small[0], lambda: list(reversed(small))):  # type: ignore[call-overload]
            with pytest.raises(TypeError, match="<forebay.Loader of .*iterate over it.*forebay.torch.Loader"):
                wrong()
        assert len(list(small)) == 8


def test_a_closed_loader_says_so(server: Server) -> None:
    small = loader(server)
    batches = iter(small)
    next(batches)
    small.close()
    small.close()
    with pytest.raises(forebay.Error, match="closed"):
        iter(small)
    # A notebook still shows what it was.
    assert "128 records" in small._repr_html_() and "the loader is closed" in small._repr_html_()
