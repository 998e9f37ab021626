"""Writes throughput.json and summary.md from what the steps of run.sh left: summary.py WORK_DIR OUT_DIR PREDICTIONS VERSION."""

import csv
import gzip
import io
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

# Kernels of a list of times.
TOP = 15


def read(path):
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def table(head, rows):
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines) + "\n"


def device_of(predictions, out):
    """The predictions for this GPU, by the name that the self-test printed."""
    path = out / "selftest.txt"
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    found = re.search(r"^cuda:0: (.*)$", text, re.MULTILINE) or re.search(r"cuda:0[^\n]*", text)
    name = found.group(found.lastindex or 0).strip() if found else "unknown GPU"
    for device in predictions["devices"]:
        if device["reported_as"] in name:
            return name, device
    return name, None


def throughput(work, device):
    """A row for each batch and size: predicted, measured, ratio, and torch."""
    measured, others = read(work / "bench.json"), read(work / "torch.json")
    predicted = {(row["size"], row["batch"]): row for row in (device or {}).get("training", [])}
    torch = {(run["image_size"], run["batch"], run["mode"]): run for run in (others or {}).get("runs", [])}
    rows = []
    for run in (measured or {}).get("runs", []):
        key = (run["image_size"], run["batch"])
        rate, expected = run.get("images_per_s"), predicted.get(key, {})
        row = [*key, number(expected.get("floor_images_per_s")), number(expected.get("expected_images_per_s")),
               number(rate) if rate else run.get("error", ""), ratio(rate, expected.get("expected_images_per_s"))]
        for mode in ("eager", "compiled"):
            other = torch.get((*key, mode), {})
            row += [number(other.get("images_per_s")) or other.get("error", "")[:60], ratio(rate, other.get("images_per_s"))]
        row += [f"{run['step_ms']['median']:.2f}", f"{run['queued_ms']:.2f}", f"{run['cpu_ms']:.2f}"] if rate else ["", "", ""]
        rows.append(row)
    return rows, measured, others


def variants(work):
    """A row for each way to train and each batch, beside the first way."""
    found = sorted(work.glob("variant-*.json"), key=lambda path: path.stat().st_mtime)
    rates, rows = {}, []
    for path in found:
        for run in (read(path) or {}).get("runs", []):
            key, rate = (run["image_size"], run["batch"]), run.get("images_per_s")
            first = rates.setdefault(key, rate)
            rows.append([path.stem.removeprefix("variant-"), *key, number(rate) or run.get("error", "")[:60], ratio(rate, first)])
    return rows


def number(value):
    return f"{value:,.0f}" if value else ""


def ratio(measured, expected):
    return f"{measured / expected:.2f}" if measured and expected else ""


def by_kind(text):
    """Milliseconds of convolutions and norms, forward and backward, in the self-test's table of operations."""
    lines, sums = text.splitlines(), {"convolutions": 0.0, "norms": 0.0}
    begin = next((i for i, line in enumerate(lines) if line.startswith("kind   ")), len(lines))
    for line in lines[begin + 1 :]:
        kind, cells = line[:20].strip(), line[20:].split()
        if len(cells) < 3:
            break
        for name in sums:
            if kind.startswith(name[:4]):
                sums[name] += float(cells[1]) + float(cells[2])
    return sums


def by_kernel(path):
    """Kernels of the last step: name, launches, microseconds; from the table of ncu or nsys."""
    if not path.exists():
        return []
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
        lines = [line for line in file if not line.startswith("==")]
    begin = next((i for i, line in enumerate(lines) if "Name" in line and "," in line), None)
    launches = []
    for row in csv.DictReader(io.StringIO("".join(lines[begin:]))) if begin is not None else []:
        name = row.get("Kernel Name") or row.get("Name") or ""
        try:
            value = float((row.get("Metric Value") or row.get("Duration (ns)") or "").replace(",", ""))
        except ValueError:
            continue
        unit = {"us": 1.0, "usecond": 1.0, "ms": 1e3, "msecond": 1e3}.get(row.get("Metric Unit", "ns"), 1e-3)
        launches.append((name, value * unit))
    # A step ends where the parameters are changed.
    ends = [i for i, (name, _) in enumerate(launches) if "lamb_apply" in name]
    if len(ends) > 1:
        launches = launches[ends[-2] + 1 : ends[-1] + 1]
    found = defaultdict(list)
    for name, microseconds in launches:
        found[name].append(microseconds)
    rows = sorted(((name, len(times), sum(times)) for name, times in found.items()), key=lambda row: -row[2])
    total = sum(row[2] for row in rows)
    shown = [[f"`{name[:90]}`", count, f"{time:.0f}", f"{time / total:.0%}"] for name, count, time in rows[:TOP]]
    return [*shown, ["all", len(launches), f"{total:.0f}", ""]] if rows else []


def main(work, out, predictions, version):
    work, out = Path(work), Path(out)
    name, device = device_of(read(predictions), out)
    rows, measured, others = throughput(work, device)
    ends = read(work / "end_to_end.json")
    steps = [line.split("\t") for line in (work / "status.tsv").read_text(encoding="utf-8").splitlines()]
    everything = {"device": name, "predicted": device, "forebay": measured, "forebay_f32": read(work / "bench_f32.json"),
                  "variants": variants(work),
                  "torch": others, "end_to_end": ends, "steps": [dict(zip(("name", "status", "seconds"), step)) for step in steps]}
    text = f"# {name}\n\nforebay {Path(version).read_text(encoding='utf-8').strip()}\n\n"
    text += table(["step", "status", "s"], steps) + "\n## Training, bf16, images/s\n\n"
    text += table(["pixels", "batch", "floor", "predicted", "measured", "ratio", "torch eager", "ratio", "torch compiled", "ratio",
                   "step, ms", "queued, ms", "CPU, ms"], rows)
    if device is None:
        text += "\nThere are no predictions for this GPU.\n"
    runs = [run for run in (others or {}).get("runs", []) if "model" in run]
    if runs:
        text += f"\ntorch {others['torch']}: {runs[0]['model']}, {runs[0]['optimizer']}"
        sgd = [f"batch {run['batch']}: {number(run['images_per_s'])}" for run in runs if run["mode"] == "eager, SGD"]
        text += f"; eager with SGD at {runs[0]['image_size']} pixels, {', '.join(sgd)}.\n" if sgd else ".\n"
    if rows := variants(work):
        text += "\n## Ways to train\n\n" + table(["way", "pixels", "batch", "images/s", "of the first"], rows)
    losses = read(out / "losses.json")
    if losses:
        text += (f"\n## Losses\n\n{losses['steps']} of {losses['expected_steps']} steps on the CPU's microbatches: the largest "
                 f"difference is {losses['worst_share_of_limit']:.2f} of its limit.\n")
    if ends:
        text += (f"\n## End to end\n\n{ends['images_per_s']:,.0f} images/s with a server on the same {ends['cores']} cores; the trainer "
                 f"waited {ends['waits']:.0%} of the time.\n")
    for place in ("cpu", "cuda:0"):
        if pipeline := read(work / f"pipeline-{place}.json"):
            everything[f"pipeline_{place}"] = pipeline
            text += (f"\nThe server's pipeline with mixing on {place}: {pipeline['images_per_s']:,.0f} images/s on "
                     f"{pipeline['threads']} threads, {pipeline['cpu_ms_per_image']:.3f} ms of CPU an image.\n")
    selftest = out / "selftest.txt"
    said = selftest.read_text(encoding="utf-8", errors="replace") if selftest.exists() else ""
    for title, first, count in [("Operations, each by itself", "kind   ", 8), ("Mixing, µs an image", " samples of ", 7)]:
        lines = said.splitlines()
        found = next((i for i, line in enumerate(lines) if first in line), None)
        if found is not None:
            text += f"\n## {title}\n\n```text\n" + "\n".join(lines[found : found + count]) + "\n```\n"
    at = next((row for row in (device or {}).get("training", []) if (row["size"], row["batch"]) == (224, 256)), None)
    if at and any(by_kind(said).values()):
        cells = [[kind, f"{at['floor_ms'][kind]:.1f}", f"{at['expected_ms'][kind]:.1f}", f"{ms:.1f}", ratio(ms, at["expected_ms"][kind])]
                 for kind, ms in by_kind(said).items()]
        text += "\n224 pixels and batch 256, ms a step:\n\n" + table(["kernels", "floor", "predicted", "measured", "ratio"], cells)
    kernels = by_kernel(out / "ncu.csv.gz")
    if kernels:
        text += "\n## Kernels of a step\n\n" + table(["kernel", "launches", "µs", "share"], kernels)
    (out / "throughput.json").write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    (out / "summary.md").write_text(text, encoding="utf-8")


main(*sys.argv[1:])
