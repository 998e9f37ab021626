"""Compares forebay with its peers on the same files, with one thread each, in interleaved rounds.

Called by compare.sh. For each workload all peers start and warm up with one pass over the images. Then they take
turns, one at a time, in an order that rotates from round to round. CPU time is that of a process and its children;
the table has medians over the rounds.
"""

import argparse
import datetime
import itertools
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

from process import Forebay, Peer, PeerError
from table import DIFFERENCES, OURS, REPEATS, TIMM, TORCHVISION, TURBO, WORKLOADS, promises, table

HERE = pathlib.Path(__file__).resolve().parent
BATCH = 256

NO_RANDAUGMENT = "it has no RandAugment"
KERAS = NO_RANDAUGMENT + "; that of keras works on batches and is another algorithm"
BLOCKS = "building blocks of one step, not a loader"
SLOWER = "the slower of the two decoders of torchvision, by the first column"
NO_MIX = "it has neither MixUp nor CutMix"

# Name, command, and the workloads that the peer does not support, with the reason.
PEERS = [
    (TURBO, ["turbo"], {"randaugment": BLOCKS, "mix": BLOCKS}),
    ("FFCV, JPEG mode", ["ffcv_jpg"], {"randaugment": NO_RANDAUGMENT, "mix": NO_RANDAUGMENT}),
    ("DALI on the CPU", ["dali_cpu"], {"mix": NO_MIX}),
    ("tf.data", ["tfdata"], {"randaugment": KERAS, "mix": KERAS}),
    ("tf.data service", ["tfdata", "service"], {"randaugment": KERAS, "mix": KERAS}),
    (TORCHVISION[0], ["torchvision_v2"], {}),
    (TORCHVISION[1], ["torchvision_v2", "pil"], {"randaugment": SLOWER, "mix": SLOWER}),
    (TIMM, ["timm_pil"], {}),
]

NO_REPEATS = "repeats = 1"
SETS = {
    "crop": ["randaugment.ops = 0", "mix.probability = 0.0"],
    "randaugment": ["mix.probability = 0.0"],
    "mix": [],
}


def lay_out(folder, images, place):
    """Copies `images` evenly chosen files into an ImageFolder, and repeats files if there are fewer."""
    files = sorted(path for path in folder.glob("*/*") if path.is_file())
    if not files:
        raise SystemExit(f"{folder} has no files in class folders")
    stride = max(1, len(files) // images)
    chosen = itertools.islice(itertools.cycle(files[::stride]), images)
    to = place / "train"
    for number, file in enumerate(chosen):
        (to / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, to / file.parent.name / f"{number:06}.JPEG")
    return to


def candidates(args, folder, workload, reasons):
    """The peers that support a workload, and forebay."""
    for name, sets in ((OURS, [NO_REPEATS]), (REPEATS, [])):
        yield name, Forebay(args.forebay, folder, SETS[workload] + sets, args.images)
    for name, (script, *options), lacks in PEERS:
        if workload in lacks:
            reasons[workload, name] = lacks[workload]
            continue
        program = (
            [args.turbo] if script == "turbo" else [sys.executable, HERE / f"peers/{script}.py"]
        )
        yield name, Peer(program, [str(folder), workload, *options])


def measure(args, folder, workload, rounds, reasons, versions):
    """Adds to `rounds`, and to `reasons` for peers that failed."""
    started = list(candidates(args, folder, workload, reasons))
    running = dict(started)

    def attempt(name, act):
        try:
            return act()
        except PeerError as reason:
            reasons[workload, name] = str(reason)
            rounds.pop((workload, name), None)
            del running[name]

    try:
        for name, peer in started:
            versions[name] = attempt(name, peer.ready)
        for turn in range(args.rounds):
            names = list(running)
            first = turn * len(names) // args.rounds
            for name in names[first:] + names[:first]:
                if result := attempt(name, running[name].measure):
                    rounds.setdefault((workload, name), []).append(result)
            print(f"{workload}: round {turn + 1} of {args.rounds}", file=sys.stderr)
    finally:
        for _, peer in started:
            peer.stop()


def cpu_model():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{os.cpu_count()} x {line.split(':')[1].strip()}"
    return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path, help="an ImageFolder")
    parser.add_argument("--images", type=int, default=2 * BATCH, help=f"images per pass, a multiple of {BATCH}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path, help="file for the results of all rounds")
    parser.add_argument("--forebay", required=True, help="the forebay binary")
    parser.add_argument("--turbo", required=True, help="the binary of turbo/")
    args = parser.parse_args()
    if args.images < BATCH or args.images % BATCH:
        raise SystemExit(f"invalid value {args.images} for --images: expected a multiple of {BATCH}")
    rounds, reasons, versions = {}, {}, {}
    with tempfile.TemporaryDirectory() as place:
        folder = lay_out(args.folder, args.images, pathlib.Path(place))
        index = [args.forebay, "index", str(folder), "--index-dir", place]
        subprocess.run(index, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for workload in WORKLOADS:
            measure(args, folder, workload, rounds, reasons, versions)
    facts = {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_model(),
        "images": args.images,
        "rounds": args.rounds,
        "versions": {name: version for name, version in versions.items() if version},
    }
    if args.json:
        raw = [{"workload": w, "name": n, "rounds": turns} for (w, n), turns in rounds.items()]
        args.json.write_text(json.dumps({**facts, "measured": raw}, indent=1) + "\n")
    print(
        f"{facts['date']}, {facts['cpu']}, medians of {args.rounds} x {args.images} images, "
        "one thread each.\n"
    )
    print(table(rounds, [OURS, REPEATS, *(name for name, *_ in PEERS)], reasons))
    print("\n" + "\n".join(promises(rounds)))
    print("\n" + DIFFERENCES)
    print("\n" + "\n".join(f"{name}: {version}" for name, version in facts["versions"].items()))


if __name__ == "__main__":
    main()
