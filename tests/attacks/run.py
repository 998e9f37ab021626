"""Measures a well-behaved trainer alone and beside each attack, in turns, and the memory of the server.

    run.sh --forebay BIN --loadtest BIN [--only NAME,...] [--seconds 8] [--rounds 3] [--memory 1GiB] [--json]

Each attack is a row of a table. Its rounds have a server each: a trainer trains alone, then another one beside the
attack. A row fails if the median rate beside the attack is below 0.8 of that alone, if the resident memory of the
server exceeds what it declares (--memory), if /healthz does not answer within a second, or if a server that is told to
end does not end within its grace.

Trainer, server and attacker share the cores of one machine, while the claim is about the server: an attacker that
takes cores from the trainer would do so without a server. So it runs at niceness 19, where it gets about a
sixty-eighth of a core that others want, and what is idle. The eight streams of B7 are read at niceness 0, because slow
readers would be another attack. The table has the cores that each takes.

An attacker with a token is a client like the trainer, and half of the server is its share. Where it has work done
(B7, B8), the trainer requests 0.4 of what it can have alone, by the clock, and must get that.

`forebay serve` of versions without --memory declares nothing: the same size is what it is compared with.

--self-check runs some attacks for a moment, on small data, and judges what does not depend on time: the memory, and
that a server survives.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

import data
import processes
from attacks import ATTACKS, PACE
from processes import MIB, TOKENS, Attacker, Server, train

RATIO = 0.8
SETTLE = 3  # seconds from the start of an attack until it is measured
AFTER = 2  # seconds from the end of an attack until the memory that is left is measured
INVALID_ARGUMENT = 3
GRACE = 2 + 1  # seconds in which a server ends: its --drain-grace, and some


@dataclasses.dataclass
class Setup:
    forebay: str
    loadtest: str
    folder: pathlib.Path
    indexes: pathlib.Path
    records: int
    seconds: float
    rounds: int
    memory: str | None
    cap: int
    nice: int | None
    batch: int
    timed: bool


def size(text):
    for unit, factor in {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}.items():
        if text.endswith(unit):
            return int(text.removesuffix(unit)) * factor
    return int(text)


def measure(setup, attack, limit):
    """A row of the table."""
    alone, beside, left, ends, seed, rate = [], [], [], [], 1, None
    declared, outcomes, killed = limit, {}, 0
    if attack.pace:
        server = Server(setup, attack)
        rate = attack.pace * train(setup, attack, server, seed).rate
        server.end()
    for _ in range(setup.rounds):
        server = Server(setup, attack)
        declared = server.declared() or limit
        alone.append(train(setup, attack, server, seed + 1, rate))
        server.reset_peak()
        attacker = Attacker(setup, attack, server)
        time.sleep(SETTLE)
        beside.append(train(setup, attack, server, seed + 2, rate, attacker))
        seed += 2
        if attack.ends:
            ends.append(server.end())
        for what, count in attacker.end().items():
            outcomes[what] = outcomes.get(what, 0) + count
        if not attack.ends:
            time.sleep(AFTER)
            left.append(processes.memory(server.pid, "VmRSS"))
            killed += server.killed or not server.alive()
            server.end()
    return judge(setup, attack, rate, declared, alone, beside, left, ends, killed, outcomes)


def judge(setup, attack, rate, declared, alone, beside, left, ends, killed, outcomes):
    median = lambda windows, key: statistics.median(getattr(window, key) for window in windows)
    row = {"attack": attack.name, "what": attack.what, "paced": rate, "declared": declared, "outcomes": outcomes,
           "alone_all": [window.rate for window in alone], "beside_all": [window.rate for window in beside],
           "errors": sorted({error for window in beside for error in window.errors})}
    for name, windows in {"alone": alone, "beside": beside}.items():
        for key in ("rate", "server_cpu", "trainer_cpu", "attacker_cpu"):
            row[f"{name}_{key}"] = median(windows, key)
        firsts = [window.first for window in windows]
        row[f"{name}_first"] = None if None in firsts else statistics.median(firsts)
        row[f"{name}_peak"] = max(window.peak for window in windows)
    row["after"] = max(left, default=None)
    row["ratio"] = row["beside_rate"] / row["alone_rate"] if row["alone_rate"] else 0
    row["probes"] = [sum(window.probes[at] for window in beside) for at in range(2)]
    row["end"] = (None if None in ends else max(ends)) if ends else None
    faults = [] if outcomes.get("connections") else ["no attack"]
    if not attack.invalid:
        faults += ["no attack: " + what for what in outcomes if what.startswith(f"status {INVALID_ARGUMENT} ")]
    if setup.timed and row["ratio"] < RATIO:
        faults.append("rate")
    if row["beside_peak"] > declared or killed:
        faults.append("memory" + (f" (server gone {killed} times)" if killed else ""))
    if setup.timed and row["probes"][0]:
        faults.append("probes")
    if setup.timed and ends and (row["end"] is None or row["end"] > GRACE):
        faults.append("end")
    row["faults"] = faults
    return row


HEAD = ("attack", "alone", "beside", "ratio", "first", "server", "trainer", "attacker", "RSS alone", "beside", "after",
        "declared", "probes", "verdict")
WIDTHS = (19, 11, 11, 5, 11, 11, 11, 8, 9, 6, 6, 8, 7, 0)


def line(cells):
    return "  ".join(f"{cell:>{width}}" if at else f"{cell:<{width}}"
                     for at, (cell, width) in enumerate(zip(cells, WIDTHS)))


def printed(row):
    spread = lambda rates: f"{statistics.median(rates):.0f} ±{(max(rates) - min(rates)) / 2:.0f}"
    seconds = lambda first: "never" if first is None else f"{first:.1f}"
    mib = lambda number: "-" if number is None else f"{number / MIB:.0f}"
    pair = lambda key: f"{row[f'alone_{key}']:.2f} {row[f'beside_{key}']:.2f}"
    verdict = "FAIL: " + ", ".join(row["faults"]) if row["faults"] else "ok"
    if row["end"] is not None:
        verdict += f" (ended in {row['end']:.1f} s)"
    return line((row["attack"], spread(row["alone_all"]), spread(row["beside_all"]), f"{row['ratio']:.2f}",
                 f"{seconds(row['alone_first'])} {seconds(row['beside_first'])}", pair("server_cpu"),
                 pair("trainer_cpu"), f"{row['beside_attacker_cpu']:.2f}", mib(row["alone_peak"]),
                 mib(row["beside_peak"]), mib(row["after"]), mib(row["declared"]),
                 f"{row['probes'][1] - row['probes'][0]}/{row['probes'][1]}", verdict))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forebay", required=True, help="the server to measure, of any version")
    parser.add_argument("--loadtest", required=True, help="the trainer, of this version")
    parser.add_argument("--only", help="attacks whose names begin so, separated by commas")
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement (8)")
    parser.add_argument("--rounds", type=int, default=3, help="of each attack (3)")
    parser.add_argument("--memory", default="1GiB", help="of the server (1GiB)")
    parser.add_argument("--cap", default="6GiB", help="memory at which the server is killed (6GiB)")
    parser.add_argument("--nice", type=int, help="niceness of the attackers (19, and 0 of B7)")
    parser.add_argument("--batch", type=int, default=256, help="samples of a trainer's microbatches (256)")
    parser.add_argument("--records", type=int, default=1 << 18, help="of the dataset with the huge batch (262144)")
    parser.add_argument("--data", type=pathlib.Path, help="folder with imagenet-sample (FOREBAY_DATA)")
    parser.add_argument("--folder", type=pathlib.Path, help="folder for datasets, which are then kept")
    parser.add_argument("--self-check", action="store_true", help="whether this works, in half a minute")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    args = parser.parse_args()
    if args.self_check:
        args.only, args.seconds, args.rounds, args.records = "A1-routes,A4-ping,B5-explain,B9", 1, 1, 4096
    return args


def main():
    args = arguments()
    prefixes = tuple(args.only.split(",")) if args.only else ("",)
    chosen = [attack for attack in ATTACKS if attack.name.startswith(prefixes)]
    if not chosen:
        raise SystemExit("attacks: --only names none of " + " ".join(attack.name for attack in ATTACKS))
    given = args.data or (pathlib.Path(os.environ["FOREBAY_DATA"]) if "FOREBAY_DATA" in os.environ else None)
    photographs = given / "imagenet-sample" / "train" if given and not args.self_check else None
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or pathlib.Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokens").write_text("".join(f"{name} {token}\n" for name, token in TOKENS.items()))
        (folder / "trainer-token").write_text(TOKENS["trainer"] + "\n")
        names = {"train"}.union(*(attack.datasets for attack in chosen))
        indexes = data.prepare(folder, args.forebay, names, photographs, args.records)
        memory = args.memory if processes.has_flag(args.forebay, "--memory") else None
        setup = Setup(args.forebay, args.loadtest, folder, indexes, args.records, args.seconds, args.rounds, memory,
                      size(args.cap), args.nice,
                      args.batch, not args.self_check)
        if not args.json:
            print("images/s, seconds to the first microbatch, and cores: alone and beside the attack; MiB of memory\n")
            print(line(HEAD), flush=True)
        failed = False
        for attack in chosen:
            row = measure(setup, attack, size(attack.memory or args.memory))
            failed |= bool(row["faults"])
            print(json.dumps(row) if args.json else printed(row), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
