"""Generates the golden set in this folder with timm, Pillow and torch. Versions: README.md.

    python generate.py [--out FOLDER] [--seed N] [--damaged N] [SUITE ...]
"""

import argparse
import importlib
import pathlib

# The function of each suite. Its module is imported when it is asked for: not all of them need timm and torch.
SUITES = {
    "01_decode": "decode.make",
    "02_crop": "pixels.crop",
    "03_randaug": "pixels.randaug",
    "04_chain": "pixels.chain",
    "05_mixup": "mixing.make",
    "06_stats": "draws.stats",
    "07_sampler": "draws.sampler",
    "08_optim": "training.optim",
    "09_loss": "training.loss",
    "11_droppath": "training.droppath",
    "12_formats": "formats.make",
    "13_odd": "odd.make",
    "14_policy": "policies.make",
    "15_transforms": "transforms.crops",
    "16_colors": "transforms.colors",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=0, help="of 13_odd; the repository's is 0")
    parser.add_argument("--damaged", type=int, default=1, metavar="N", help="of 13_odd: damaged files for each whole one; the repository's is 1")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"{', '.join(SUITES)}; default all")
    args = parser.parse_args()
    unknown = [name for name in args.suites if name not in SUITES]
    if unknown:
        parser.error(f"no suite {', '.join(unknown)}; there are {', '.join(SUITES)}")
    for name in args.suites or SUITES:
        (args.out / name).mkdir(parents=True, exist_ok=True)
        module, function = SUITES[name].split(".")
        options = {"seed": args.seed, "damaged_per_file": args.damaged} if name == "13_odd" else {}
        getattr(importlib.import_module(module), function)(args.out / name, **options)
        files = [f for f in (args.out / name).rglob("*") if f.is_file()]
        print(f"{name}: {len(files)} files, {sum(f.stat().st_size for f in files)} bytes")


if __name__ == "__main__":
    main()
