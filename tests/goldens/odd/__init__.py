"""13_odd: small odd files of every format, made by rule and by damage, with what Pillow makes of them.

The module of a format yields its files in groups: `(group, name, bytes)`. Those of the groups `DAMAGED` are also damaged
at random, by a generator that the seed and the file's name start. So equal seeds give equal files, and another seed
gives files that no test has seen:

    pip install -r odd/requirements.txt
    python generate.py 13_odd --seed 7 --damaged 50 --out /tmp/unseen
    FOREBAY_GOLDENS=/tmp/unseen cargo test -p forebay-tests --test golden 13_odd

The files of a format are in a `.gz`, each after its length (4 bytes, little-endian), in the order of `cases.json.gz`,
which has Pillow's verdict and the digest of its pixels.
"""

import gzip
import hashlib
import io
import json
import warnings
import zlib

import numpy as np
import PIL
from PIL import Image, features

from common import sha256
from . import bmp, gif, jpeg, other, png, pnm, tiff, webp
from .damage import damaged

FORMATS = {"bmp": bmp, "gif": gif, "jpeg": jpeg, "other": other, "png": png, "pnm": pnm, "tiff": tiff, "webp": webp}
# Files that claim more pixels are left out: they cost the test time and show nothing else.
MAX_PIXELS = 1 << 19


def generator(seed, name):
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def files(name, seed, damaged_per_file):
    """The files of a format, each content once."""
    module, seen = FORMATS[name], set()
    rules = list(module.cases(generator(seed, name)))
    for group, label, data in [*rules, *damage_of(name, rules, module, seed, damaged_per_file)]:
        digest = hashlib.sha256(data).digest()
        if digest not in seen:
            seen.add(digest)
            yield group, label, data


def damage_of(name, rules, module, seed, count):
    """Every file of the groups that the module names, `count` times damaged."""
    for group, label, data in rules:
        if group in module.DAMAGED:
            rng = generator(seed, f"{name}/{group}/{label}")
            for number in range(count):
                out = damaged(data, rng)
                if hasattr(module, "with_right_checksums") and number % 2:
                    out = module.with_right_checksums(out)
                yield f"damaged_{group}", f"{label}_{number}", out


def opened(data):
    """Returns (fields of the case, pixels or None), or None if the file is left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data))
            if image.width * image.height > MAX_PIXELS:
                return None
            pixels = np.asarray(image.convert("RGB"))
        except Exception as error:  # whatever Pillow raises is the recorded outcome
            text = str(error).split("<_io")[0].strip()
            return {"error": f"{type(error).__name__}: {text}"[:70]}, None
    fields = {"format": image.format, "width": pixels.shape[1], "height": pixels.shape[0], "rgb_sha256": sha256(pixels)}
    return fields, pixels


def make(folder, seed, damaged_per_file):
    cases = []
    for name in FORMATS:
        packed = []
        for group, label, data in files(name, seed, damaged_per_file):
            found = opened(data)
            if found is not None:
                cases.append({"name": f"{name}/{group}/{label}"} | found[0])
                packed.append(len(data).to_bytes(4, "little") + data)
        (folder / f"{name}.gz").write_bytes(gzip.compress(b"".join(packed), 9, mtime=0))
    versions = {codec: features.version(codec) for codec in ("libjpeg_turbo", "webp", "libtiff", "zlib_ng")}
    listed = {"pillow": PIL.__version__} | versions | {"seed": seed, "cases": cases}
    (folder / "cases.json.gz").write_bytes(gzip.compress(json.dumps(listed).encode(), 9, mtime=0))
    return cases
