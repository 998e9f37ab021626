"""The table, and the ratios that forebay promises."""

import statistics

WORKLOADS = {"crop": "crop + flip", "randaugment": "+ RandAugment", "mix": "+ MixUp, CutMix"}
OURS = "forebay"
REPEATS = "forebay, 3 repeats"
TIMM = "timm + PIL DataLoader"
TORCHVISION = ["torchvision v2, decode_jpeg", "torchvision v2, PIL"]
TURBO = "libjpeg-turbo partial + fast_image_resize"

# Description, peers and their workload, forebay and its workload, minimum ratio of CPU times.
PROMISES = [
    ("crop + flip", ([TIMM], "crop"), (OURS, "crop"), 4.5),
    ("crop + flip", (TORCHVISION, "crop"), (OURS, "crop"), 3.0),
    ("crop + flip", ([TURBO], "crop"), (OURS, "crop"), 1.4),
    ("a2 without repeats", ([TIMM], "randaugment"), (OURS, "mix"), 5.0),
    ("a2 as it is", ([TIMM], "randaugment"), (REPEATS, "mix"), 7.0),
]

DIFFERENCES = """\
The peers differ in details: FFCV's writer reencodes every image at quality 90, and it resizes by area;
tf.data resizes without antialiasing; RandAugment of torchvision and DALI is set to timm's two
operations, each with probability 1/2, but draws from other sets of operations, torchvision's with bilinear interpolation;
torchvision mixes floats. Peak memory counts pages that processes share twice."""


def median(rounds, name, workload, field="cpu_ms"):
    values = [turn[field] for turn in rounds.get((workload, name), [])]
    return statistics.median(values) if values else None


def table(rounds, names, reasons):
    """Returns a Markdown table. `rounds` is by (workload, name), `reasons` explains empty cells."""
    notes = []

    def note(text):
        if text not in notes:
            notes.append(text)
        return f"– ({notes.index(text) + 1})"

    head = ["CPU ms per image, images/s, times forebay's CPU", *WORKLOADS.values(), "peak RSS, MB"]
    lines = [head, ["---"] * len(head)]
    for name in names:
        cells = []
        for workload in WORKLOADS:
            cpu = median(rounds, name, workload)
            if cpu is None:
                cells.append(note(reasons[workload, name]))
                continue
            ratio = cpu / median(rounds, OURS, workload)
            speed = median(rounds, name, workload, "images_per_s")
            cells.append(f"**{cpu:.2f}**, {speed:.0f}/s, {ratio:.1f}x")
        peaks = [median(rounds, name, workload, "rss_mb") or 0 for workload in WORKLOADS]
        lines.append([name, *cells, f"{max(peaks):.0f}" if max(peaks) else "–"])
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([*text, "", *(f"({i}) {note}  " for i, note in enumerate(notes, 1))])


def promises(rounds):
    """Returns a line for each ratio that forebay promises."""
    for what, (peers, theirs), (name, workload), minimum in PROMISES:
        ours = median(rounds, name, workload)
        measured = {peer: median(rounds, peer, theirs) for peer in peers}
        measured = {peer: cpu for peer, cpu in measured.items() if cpu}
        if not measured or not ours:
            yield f"{what}: not measured"
            continue
        peer = min(measured, key=measured.get)
        ratio = measured[peer] / ours
        verdict = "reached" if ratio >= minimum else "MISSED"
        yield f"{what}: {ratio:.2f}x {peer} ({WORKLOADS[theirs]}), at least {minimum}: {verdict}"
