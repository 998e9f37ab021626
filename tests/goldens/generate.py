"""Generates the golden set in this folder with timm, Pillow and torch. Versions: README.md.

    python generate.py [--out FOLDER] [SUITE ...]
"""

import argparse
import pathlib

import decode
import formats
import mixing
import draws
import pixels
import training

SUITES = {
    "01_decode": decode.make,
    "02_crop": pixels.crop,
    "03_randaug": pixels.randaug,
    "04_chain": pixels.chain,
    "05_mixup": mixing.make,
    "06_stats": draws.stats,
    "07_sampler": draws.sampler,
    "08_optim": training.optim,
    "09_loss": training.loss,
    "11_droppath": training.droppath,
    "12_formats": formats.make,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"{', '.join(SUITES)}; default all")
    args = parser.parse_args()
    unknown = [name for name in args.suites if name not in SUITES]
    if unknown:
        parser.error(f"no suite {', '.join(unknown)}; there are {', '.join(SUITES)}")
    for name in args.suites or SUITES:
        (args.out / name).mkdir(parents=True, exist_ok=True)
        SUITES[name](args.out / name)
        files = [f for f in (args.out / name).rglob("*") if f.is_file()]
        print(f"{name}: {len(files)} files, {sum(f.stat().st_size for f in files)} bytes")


if __name__ == "__main__":
    main()
