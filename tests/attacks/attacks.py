"""The attacks. Each goes on until its process is ended.

    attacks.py NAME NICE HOST:PORT ADMIN_HOST:PORT TOKEN RECORDS

is the process of an attacker, which run.py starts. TOKEN is that of a known client, and RECORDS are those of the
dataset `many`. It prints a line when it begins, and at SIGTERM what became of its connections and calls.
"""

import asyncio
import dataclasses
import functools
import itertools
import json
import logging
import os
import resource
import signal
import sys

from http2 import (DATA, END_STREAM, PING, PREFACE, PRIORITY, SETTINGS, UNKNOWN, WINDOW_UPDATE, Closed, Connection,
                   Target, frame, headers, job, message, settings)

FOREBAY = "/forebay.v1.ForebayService/"
HEALTH = "/grpc.health.v1.Health/"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
ROUTES = [FOREBAY + "Describe", FOREBAY + "Explain", FOREBAY + "Stream", FOREBAY + "Fetch", FOREBAY + "Nothing",
          HEALTH + "Check", HEALTH + "Watch", REFLECTION]

# Seconds after which a connection that was closed is opened again, and a call that was refused is made again.
AGAIN = 1

MIXED_BY_TRAINER = 2  # of forebay.proto


async def persist(count, attack):
    """Makes an attack `count` times at once, and again when it ends."""
    async def one():
        while True:
            try:
                await attack()
            except (OSError, Closed):
                pass
            await asyncio.sleep(AGAIN)
    await asyncio.gather(*(one() for _ in range(count)))


async def calls(target, count, call, **options):
    """Has `count` calls in progress on a connection; each that ends is made again."""
    connection = await Connection.open(target, **options)
    async def one(number):
        while True:
            await call(connection, number)
            await asyncio.sleep(AGAIN)
    try:
        await asyncio.gather(*(one(number) for number in range(count)))
    finally:
        await connection.close()


# A. Before anyone is let in

async def unfinished(target, routes):
    """Six connections of 128 requests, each with 4,000,000 of the 4,100,000 bytes that it promises."""
    body = b"\0" + (4_100_000).to_bytes(4, "big") + bytes(4_000_000)
    async def call(connection, number):
        stream = connection.begin(routes[number % len(routes)])
        await connection.send(stream, body)
        await connection.ended(stream)
    await persist(6, lambda: calls(target, 128, call))


async def silent(target, count):
    """Connections that send nothing but what HTTP/2 demands, such as answers to pings."""
    async def one():
        connection = await Connection.open(target)
        await connection.reading
    await persist(count, one)


async def crowd(target, count):
    """Connections of which every second one makes a call with a token, and none another call."""
    async def known():
        connection = await Connection.open(target)
        await connection.call(FOREBAY + "Describe", message({1: job("train", "a2")}), target.token)
        await connection.reading
    await asyncio.gather(persist(count // 2, known), silent(target, count // 2))


async def probes(target, count):
    """Connections to the admin port that stay open after a request."""
    async def one():
        reader, writer = await asyncio.open_connection(*target.admin)
        target.counts["connections"] += 1
        try:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: forebay\r\n\r\n")
            while await reader.read(4096):
                pass
            target.counts["closed by the server"] += 1
        finally:
            writer.close()
    await persist(count, one)


FLOODS = {
    "ping": frame(PING, 0, 0, bytes(8)),
    "settings": frame(SETTINGS, 0, 0),
    "window-update": frame(WINDOW_UPDATE, 0, 0, (1).to_bytes(4, "big")),
    "priority": frame(PRIORITY, 0, 1, (1).to_bytes(5, "big")),
    "unknown": frame(UNKNOWN, 0, 0, b"x"),
}


async def flood(target, kind):
    """Four connections that send frames of a kind without end."""
    many = FLOODS[kind] * (65536 // len(FLOODS[kind]))
    begin = PREFACE + settings({}) + headers(1, FOREBAY + "Nothing") + frame(DATA, END_STREAM, 1)

    async def drain(reader):
        while await reader.read(1 << 16):
            pass

    async def one():
        reader, writer = await asyncio.open_connection(*target.address)
        target.counts["connections"] += 1
        draining = asyncio.create_task(drain(reader))
        try:
            writer.write(begin)
            while not draining.done():
                writer.write(many)
                await writer.drain()
                target.counts["bytes sent"] += len(many)
                await asyncio.sleep(0)
        finally:
            target.counts["closed by the server"] += 1
            draining.cancel()
            writer.close()
            await asyncio.gather(draining, return_exceptions=True)
    await persist(4, one)


# B. Work and memory outside the budgets: by a client that has a token

async def ask(target, method, request, count, window=0):
    """A connection with `count` calls in progress, whose answers are taken only if there is a window. `request` makes
    a request for a seed, which is another one for each, so that none is answered from a cache."""
    seeds = itertools.count()
    async def call(connection, _number):
        await connection.call(FOREBAY + method, request(next(seeds)), target.token)
    await persist(1, lambda: calls(target, count, call, window=window))


def whole(target, seed, recipe, *changes):
    """A job whose microbatch is the whole dataset `many`."""
    return job("many", recipe, [f"batch = {target.records}", "microbatches = 1", *changes], seed)


async def explain(target, recipe, *changes, window=0):
    """64 plans of all records, none of which is taken without a window."""
    await ask(target, "Explain", lambda seed: message({1: whole(target, seed, recipe, *changes)}), 64, window)


async def describe(target, window=0):
    """64 lists of a million classes, none of which is taken without a window."""
    await ask(target, "Describe", lambda seed: message({1: job("many", "eval", seed=seed)}), 64, window)


async def unsendable(target):
    """Four microbatches of so many samples that no header can describe them."""
    def request(seed):
        return message({1: whole(target, seed, "eval", "image_size = 8", "crop.resize = 8"), 7: MIXED_BY_TRAINER})
    await ask(target, "Fetch", request, 4, window=1 << 24)


async def streams(target):
    """Eight streams of recipe a2 in u8, 256 samples of 224 pixels a microbatch, read as fast as they come."""
    async def one(seed):
        connection = await Connection.open(target)
        changes = ["batch = 256", "microbatches = 1"]
        request = message({1: job("train", "a2", changes, seed), 4: 1 << 20})
        try:
            await connection.call(FOREBAY + "Stream", request, target.token)
        finally:
            await connection.close()
    await asyncio.gather(*(persist(1, functools.partial(one, 1000 + number)) for number in range(8)))


async def large_samples(target):
    """Six microbatches of four samples of 4096 pixels."""
    changes = ["batch = 4", "microbatches = 1", "image_size = 4096"]
    await ask(target, "Fetch", lambda seed: message({1: job("train", "a2", changes, seed)}), 6, window=1 << 24)


async def large_picture(target):
    """A microbatch of the one picture of 178 megapixels."""
    changes = ["batch = 1", "microbatches = 1"]
    await ask(target, "Fetch", lambda seed: message({1: job("large", "eval", changes, seed)}), 1, window=1 << 24)


async def pipe(target):
    """Eight microbatches of a dataset of which the file of one record has become a pipe."""
    changes = ["batch = 16", "microbatches = 1"]
    await ask(target, "Fetch", lambda seed: message({1: job("pipe", "eval", changes, seed)}), 8, window=1 << 24)


@dataclasses.dataclass
class Attack:
    name: str
    what: str
    run: object
    # Other datasets than that of the trainer.
    datasets: tuple = ()
    # The trainer: its flags, its microbatches where their size matters, and the part of what it could have alone that
    # it requests by the clock; None for all.
    trainer: tuple = ()
    batch: int | None = None
    pace: float | None = None
    # Limit of the server's open files, and its memory where the attack needs more than the default.
    files: int | None = None
    memory: str | None = None
    # The attacker's niceness.
    nice: int = 19
    # Whether the server is told to end during the attack.
    ends: bool = False
    # Whether the attack is calls that no server serves: others that are INVALID_ARGUMENT attack nothing.
    invalid: bool = False


ELEM = ("repeats = 1", "image_size = 8", "randaugment.ops = 16", "randaugment.probability = 1.0", 'mix.mode = "elem"')
# Two clients have equal shares of the server. A trainer that needs less than its half must get it.
PACE = 0.4

ATTACKS = [
    Attack("A1-reflection", "requests to reflection that never end", functools.partial(unfinished, routes=[REFLECTION]),
           invalid=True),
    Attack("A1-routes", "the same to every route", functools.partial(unfinished, routes=ROUTES), invalid=True),
    Attack("A2-sockets", "1,100 connections without a token that answer pings", functools.partial(silent, count=1100)),
    Attack("A2-admin", "40 connections that stay open on the admin port", functools.partial(probes, count=40)),
    Attack("A3-files", "1,100 connections, half of them with a token, at 1,024 open files",
           functools.partial(crowd, count=1100), files=1024),
    *(Attack(f"A4-{kind}", f"{kind} frames without end on four connections", functools.partial(flood, kind=kind))
      for kind in FLOODS),
    Attack("B5-explain", "64 plans of a huge batch into no window", lambda target: explain(target, "eval"), ("many",)),
    Attack("B5-elem", "the same with 16 operations, mixed by element", lambda target: explain(target, "a2", *ELEM),
           ("many",)),
    Attack("B5-elem-taken", "the same, taken", lambda target: explain(target, "a2", *ELEM, window=1 << 24), ("many",)),
    Attack("B5-describe", "64 lists of a million classes into no window", describe, ("many",)),
    Attack("B5-describe-taken", "the same, taken", lambda target: describe(target, window=1 << 24), ("many",)),
    Attack("B6-unsendable", "microbatches that no header can describe", unsendable, ("many",), invalid=True),
    Attack("B7-sizes", "eight streams of u8 beside one of f32", streams, pace=PACE, nice=0,
           trainer=("--dtype=f32", "--layout=nchw"), batch=256),
    Attack("B8-samples", "six Fetches of samples of 4096 pixels", large_samples, pace=PACE,
           memory="2GiB"),
    Attack("B8-picture", "Fetches of a picture of 178 megapixels", large_picture, ("large",), pace=PACE),
    Attack("B9-pipe", "a pipe in place of a record", pipe, ("pipe",), ends=True),
]


async def attack(run, target):
    """Attacks until SIGTERM."""
    task = asyncio.create_task(run(target))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    print("begun", flush=True)
    await asyncio.gather(task, return_exceptions=True)
    if not task.cancelled():
        raise SystemExit(f"the attack ended: {task.exception()!r}")


def main():
    name, nice, address, admin, token, records = sys.argv[1:]
    # asyncio warns of each write to a connection that the server has closed.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    os.nice(int(nice))
    # For the connections.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    address, admin = ((host, int(port)) for host, port in (at.rsplit(":", 1) for at in (address, admin)))
    target = Target(address, admin, token, int(records))
    run = next(attack.run for attack in ATTACKS if attack.name == name)
    asyncio.run(attack(run, target))
    print(json.dumps(target.counts))


if __name__ == "__main__":
    main()
