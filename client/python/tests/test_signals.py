"""Ctrl-C: every wait of the native part looks at signals, again and again, and at least each 100 ms."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Server, run_python

SOURCES = Path(__file__).parent.parent / "src"

# A signal is sent when the one before it was handled, until five in a row were handled during the same call. At most
# one of them can have been handled as the call ended, and so the others were by the wait itself. Then one ends it.
PINGS = """
import os, signal, sys, threading, warnings
from forebay import ForebayWarning, _forebay
what, endpoint, server = sys.argv[1:]
# A server that is stopped may rightly be warned of.
warnings.simplefilter("default", ForebayWarning)
names = ("endpoints", "dtype", "layout", "mixed_by", "prefetch_bytes", "max_microbatch_bytes", "connections",
         "shared_memory", "resolve_interval", "readmit_after", "connect_timeout", "keepalive_timeout", "idle_timeout",
         "microbatch_timeout", "give_up_after", "initial_backoff", "max_backoff", "hedge_quantile", "hedge_budget",
         "hedge_min_delay", "tls_ca", "tls_cert", "tls_key", "tls_name", "token_file")
settings = {**dict.fromkeys(names), "endpoints": [endpoint], "dtype": "u8", "layout": "nhwc", "mixed_by": "server"}
settings["prefetch_bytes"] = 0
job = {"dataset": "train", "recipe": "a3", "set": ["image_size = 224", "batch = 16", "microbatches = 4"], "seed": 0,
       "dataset_digest": None, "recipe_digest": None}
other = {**job, "seed": 1, "recipe": "a2"}
client = _forebay.Client(settings)
stream = client.stream(job, epoch=0, step=0, done=0, steps=8, rank=0, world=1)
stream.take(False)

handled, last, seen = threading.Event(), None, 0
def handle(signum, frame):
    global last, seen
    # Python's own waits, such as that for a thread to start, are in frames of their own.
    at = frame.f_lasti if frame.f_code.co_name == "<module>" else None
    seen = 0 if at is None else seen + 1 if at == last else 1
    last = at
    if seen == 5:
        raise KeyboardInterrupt
    handled.set()
def ping():
    while True:
        os.kill(os.getpid(), signal.SIGUSR1)
        handled.wait()
        handled.clear()
signal.signal(signal.SIGUSR1, handle)
os.kill(int(server), signal.SIGSTOP)
# All that was received before it was stopped.
while what == "take" and stream.wait(0.5):
    stream.take(False)
threading.Thread(target=ping, daemon=True).start()
try:
    if what == "take":
        stream.take(False)
    if what == "wait":
        while True:
            stream.wait(1e6) and stream.take(False)
    if what == "describe":
        client.describe(other)
    if what == "stream":
        client.stream(other, epoch=0, step=0, done=0, steps=8, rank=0, world=1)
    if what == "explain":
        client.explain(job, 0, 0, 0, lambda: False)
except KeyboardInterrupt:
    print(seen)
"""


@pytest.mark.parametrize("what", ["take", "wait", "describe", "stream", "explain"])
def test_a_wait_handles_signals_again_and_again(servers: Callable[..., Server], what: str) -> None:
    server = servers()
    try:
        assert run_python(PINGS, what, server.endpoint, str(server.process.pid)) == "5\n"
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


def test_nothing_waits_but_the_one_wait_of_which_the_others_are_made() -> None:
    # It calls what waits for 100 ms at most, and then looks at signals.
    wait = (SOURCES / "wait.rs").read_text()
    assert re.findall(r"TICK: Duration = (.*);", wait) == ["Duration::from_millis(100)"]
    loop = re.search(r"let ended = py\.detach\(\|\| attempt\(TICK\)\);\n\s*py\.check_signals\(\)\?;", wait)
    assert loop is not None and wait.count("TICK)") == wait.count("check_signals") == 1
    # Nothing else waits: what could, does so for the part of a wait that it is told.
    could = r"\b(block_on|\w*recv\w*|sleep|park\w*|wait_(?:timeout|while)\w*|timeout|poll|join(?=\(\)))\(([^()]*)"
    for source in sorted(SOURCES.glob("*.rs")):
        for name, given in re.findall(could, source.read_text()):
            if name == "block_on":
                assert source.name == "wait.rs" and given == "async { timeout", given
            else:
                assert re.search(r"\bpart\b", given), f"{source.name}: {name}({given}"
