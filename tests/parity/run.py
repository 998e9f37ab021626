"""Parity of forebay with timm and Pillow, end to end: index, explain, dump, replay.

    run.sh [--forebay PATH] [--given-pixels] [--keep DIR]

Then serves the ImageFolder and reads it with a stock grpcio client, `grpcio_client.py`.

The data is `FOREBAY_DATA` (its `imagenet-sample` and `formats/wds-train-*.tar`) if it is set, otherwise a small set
by `forebay sample-data`. Each of the recipes a1, a2, a3 and eval, and a2 in modes pair and elem and with other policies
of augmentation, runs on an ImageFolder and on WebDataset tars; on the ImageFolder also other crops, filters and color
operations, which timm's `create_transform` replays as a whole. With `--given-pixels` the replay uses the pixels of
forebay's decoder, so that
only the stages after it are compared. The exit code is 1 if anything differs.
"""

import argparse
import contextlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

import replay

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SIZES = ["--batch", "8", "--microbatches", "2"]
OFF = ["mix.probability=0.0", "randaugment.ops=0"]
COLOR = ["color.jitter=[0.4, 0.4, 0.4, 0.2]", "color.grayscale=0.3", "color.blur=0.4"]
POLICIES = ["rand-m9-n3-mstd0.5-p0.9", "rand-m12-mstd101-mmax30-inc1", "rand-m7-n5-tweights", "rand-n4-t3aw", "original",
            "originalr-mstd1", "v0-mstd1", "v0r", "3a", "augmix-m5-w4-d2", "augmix-m9-b1",
            "torchvision-ta-wide", "torchvision-rand-n4-m20-bicubic", "torchvision-auto-imagenet-bilinear",
            "torchvision-auto-cifar10", "torchvision-auto-svhn"]
# (recipe, further settings, names of microbatches as (epoch, step, index))
RUNS = [
    ("a1", [], [(0, 0, 0), (3, 1, 1)]),
    ("a2", [], [(0, 0, 0), (0, 1, 1), (7, 0, 1)]),
    ("a3", [], [(0, 0, 1), (1, 1, 0)]),
    ("a2", ["--set", 'mix.mode="pair"'], [(0, 0, 0), (1, 0, 1)]),
    ("a2", ["--set", 'mix.mode="elem"'], [(0, 0, 0), (1, 0, 1)]),
    ("eval", [], [(0, 0, 0), (0, 1, 1)]),
] + [("a2", ["--set", f'auto_augment="{policy}"'], [(0, 0, 0), (1, 1, 1)]) for policy in POLICIES]


# Changes to a recipe, and the options of timm's create_transform, which runs as a whole with the draws of the plan.
TRANSFORMS = [
    ("a2", ['crop={kind="rkrc",scale=[0.5,1.5],ratio=[0.7,1.4]}', "image_size=112", "vflip=0.5"], {"train_crop_mode": "rkrc"}),
    ("a2", ['crop={kind="rkrr",scale=[0.5,1.5],ratio=[0.7,1.4]}', "image_size=96", *OFF, *COLOR], {"train_crop_mode": "rkrr"}),
    ("a2", ['crop={kind="simple-random",resize=112,padding=4}', "image_size=112", "vflip=0.3"], {"simple": (112, 4)}),
    ("a2", ['interpolation="nearest"', "vflip=1.0", *COLOR], {}),
    ("a3", ['interpolation="random"', *COLOR, "color.probability=0.5"], {}),
    *[("a3", [f'interpolation="{name}"', *OFF], {}) for name in ("box", "hamming", "lanczos")],
    ("eval", ['crop={kind="squash",resize=235}'], {"crop_mode": "squash", "resize": 235}),
    ("eval", ['crop={kind="border",resize=224,trim=5}', 'interpolation="lanczos"'],
     {"crop_mode": "border", "resize": 224, "crop_border_pixels": 5}),
    ("eval", ['crop={kind="center",resize=224,trim=7}', 'interpolation="nearest"'],
     {"crop_mode": "center", "resize": 224, "crop_border_pixels": 7}),
]


def forebay(binary, *args):
    done = subprocess.run([binary, *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"forebay {' '.join(map(str, args))}: exit {done.returncode}\n{done.stderr}")
    return done.stdout


def datasets(binary, work):
    """Returns (name, path) of an ImageFolder and of WebDataset tars, both writable."""
    data = os.environ.get("FOREBAY_DATA")
    folder, tars = work / "folder", work / "tars"
    tars.mkdir()
    if data:
        shutil.copytree(pathlib.Path(data) / "imagenet-sample", folder, copy_function=shutil.copyfile)
        for tar in sorted((pathlib.Path(data) / "formats").glob("wds-train-*.tar")):
            shutil.copyfile(tar, tars / tar.name)
        for path in (folder, *folder.rglob("*/")):
            path.chmod(0o755)
    else:
        forebay(binary, "sample-data", folder, "--classes", 4, "--per-class", 12, "--val-per-class", 0)
        pack(folder / "train", tars)
    return [("ImageFolder", folder / "train"), ("WebDataset", tars)]


def pack(folder, tars):
    """Writes the images of an ImageFolder as two shards of `.jpg` and `.cls` members."""
    classes = sorted(p.name for p in folder.iterdir())
    files = sorted(folder.rglob("*.JPEG"), key=lambda f: f.name[::-1])
    for shard in range(2):
        with tarfile.open(tars / f"train-{shard:06}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, file in enumerate(files[shard::2]):
                label = str(classes.index(file.parent.name)).encode()
                for suffix, content in (("jpg", file.read_bytes()), ("cls", label)):
                    member = tarfile.TarInfo(f"{shard}{number:05}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def run(binary, kind, path, recipe, settings, name, work, given, options=None):
    epoch, step, index = name
    changes = "-".join(settings[1::2])
    stem = f"{kind}-{recipe}-{changes}-{epoch}-{step}-{index}"
    stem = "".join(c for c in stem if c.isalnum() or c in "-_.,")
    explain, dump, decoded = work / f"{stem}.json", work / f"{stem}.safetensors", work / f"{stem}.decoded"
    what = ["--dataset", path, "--recipe", recipe, *SIZES, *settings, "--seed", 11,
            "--epoch", epoch, "--step", step, "--index", index]
    explain.write_text(forebay(binary, "explain", *what))
    forebay(binary, "dump", *what, "--out", dump, *(["--decoded", decoded] if given else []))
    plan, made = json.loads(explain.read_text()), replay.read_dump(dump)
    with contextlib.redirect_stdout(io.StringIO()) as text:
        same = replay.compare(plan, made, replay.Dataset(path), decoded if given else None, unmixed=False, options=options)
    lines = text.getvalue().strip().splitlines()
    print(f"{'ok    ' if same else 'FAILED'} {stem}: {lines[-1]}", flush=True)
    if not same:
        print("\n".join(lines[:-1]))
    return same


def stock_client(binary, path, work):
    """Serves a dataset, and runs grpcio_client.py to compare the stream with a dump."""
    dump = work / "stock.safetensors"
    name = ["--seed", "3", "--epoch", "1", "--step", "0"]
    forebay(binary, "dump", "--dataset", path, "--recipe", "a2", *SIZES, *name, "--index", "1", "--out", dump)
    server = subprocess.Popen([binary, "serve", "--dataset", f"train={path}", "--listen", "127.0.0.1:0"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        address = server.stdout.readline().split()[-1]
        changes = ["--set", "batch = 8", "--set", "microbatches = 2"]
        client = subprocess.run([sys.executable, HERE / "grpcio_client.py", address, "--dataset", "train", "--dump", dump,
                                 "--recipe", "a2", *changes, *name, "--microbatch", "1"])
    finally:
        server.terminate()
        stopped = server.wait(30)
    return client.returncode == 0 and stopped == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forebay", type=pathlib.Path, default=ROOT / "target/release/forebay")
    parser.add_argument("--given-pixels", action="store_true", help="replay from the pixels of forebay's decoder")
    parser.add_argument("--keep", type=pathlib.Path, help="an empty folder for all files, which is kept")
    args = parser.parse_args()
    if not args.forebay.is_file():
        parser.error(f"no program {args.forebay}: run `cargo build --release -p forebay-server`, or give --forebay PATH")
    with tempfile.TemporaryDirectory() as temporary:
        work = args.keep or pathlib.Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        results = []
        for kind, path in datasets(args.forebay, work):
            forebay(args.forebay, "index", path)
            for recipe, settings, names in RUNS:
                results += [run(args.forebay, kind, path, recipe, settings, n, work, args.given_pixels) for n in names]
            for recipe, changes, options in TRANSFORMS if kind == "ImageFolder" else []:
                settings = [word for change in changes for word in ("--set", change)]
                results += [run(args.forebay, kind, path, recipe, settings, (e, 0, e), work, args.given_pixels, options)
                            for e in (0, 1)]
            if kind == "ImageFolder":
                stock = stock_client(args.forebay, path, work)
    print(f"{sum(results)} of {len(results)} microbatches equal timm and Pillow in every bit")
    print("a stock grpcio client reads them" if stock else "FAILED: the stock grpcio client")
    sys.exit(0 if all(results) and stock else 1)


if __name__ == "__main__":
    main()
