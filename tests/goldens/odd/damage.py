"""Random damage, of the kinds that fuzzers use."""

import numpy as np

INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF)


def damaged(data, rng):
    out = bytearray(data)
    for _ in range(1 + int(rng.geometric(0.6))):
        change(out, rng)
    return bytes(out)


def change(out, rng):
    # Half of all places are in the header, where a byte decides more.
    end = len(out) + 1
    at = int(rng.integers(0, min(end, 64) if rng.random() < 0.4 else end))
    kind = rng.random()
    if kind < 0.35:
        out[at : at + 1] = bytes([int(rng.choice(INTERESTING)) if rng.random() < 0.5 else int(rng.integers(0, 256))])
    elif kind < 0.6 and at < len(out):
        out[at] ^= 1 << int(rng.integers(0, 8))
    elif kind < 0.7:
        out[at:at] = rng.bytes(int(rng.integers(1, 5)))
    elif kind < 0.8:
        del out[at : at + int(rng.integers(1, 9))]
    elif kind < 0.9:
        start, length = int(rng.integers(0, end)), int(rng.integers(1, 65))
        out[at:at] = out[start : start + length]
    else:
        del out[at:]


def number(rng, low, high):
    """A plain int from `low` to `high`, which is included."""
    return int(rng.integers(low, high + 1))


def one_of(rng, values):
    return values[int(rng.integers(0, len(values)))]


def cuts(data, count):
    """Ends that are spread over a file, each of the first and last bytes included."""
    ends = set(np.linspace(0, len(data) - 1, count).astype(int).tolist())
    return sorted(ends | {end for end in (*range(20), *range(len(data) - 6, len(data))) if 0 <= end < len(data)})
