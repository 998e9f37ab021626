"""Epochs of a dataset in a bucket, beside the same tars on disk; see run.sh."""

import argparse
import io
import json
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request

import boto3

HERE = pathlib.Path(__file__).resolve().parent
KEYS = {"AWS_ACCESS_KEY_ID": "forebay", "AWS_SECRET_ACCESS_KEY": "forebay-secret", "AWS_REGION": "us-east-1"}
SHARDS, BATCH = 8, 200


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def write_tars(forebay, folder, per_class):
    """Shards of procedural images, in the form of WebDataset."""
    images, tars = folder / "images", folder / "tars"
    tars.mkdir()
    command = [forebay, "sample-data", images, "--classes", "10", "--per-class", str(per_class), "--val-per-class", "1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    files = sorted((images / "train").glob("*/*"))
    classes = sorted({file.parent.name for file in files})
    writers = [tarfile.open(tars / f"t-{number:02}.tar", "w") for number in range(SHARDS)]
    for number, file in enumerate(files):
        label = str(classes.index(file.parent.name)).encode()
        for suffix, data in ((".cls", label), (file.suffix.lower().replace("jpeg", "jpg"), file.read_bytes())):
            member = tarfile.TarInfo(f"{number:06}{suffix}")
            member.size = len(data)
            writers[number % SHARDS].addfile(member, io.BytesIO(data))
    for writer in writers:
        writer.close()
    return tars, len(files)


class Process:
    """A process that is killed at the end."""

    def __init__(self, command, wait_for, env=None):
        # A process that says nothing to wait for is a server of others, which logs each request.
        out, err = (subprocess.PIPE, sys.stderr) if wait_for else (subprocess.DEVNULL, subprocess.DEVNULL)
        command = [str(part) for part in command]
        self.process = subprocess.Popen(command, stdout=out, stderr=err, text=True, env=env)
        self.said = ""
        while wait_for and not re.search(wait_for, self.said):
            line = self.process.stdout.readline()
            if not line:
                raise SystemExit(f"{command[0]} ended: {self.said}")
            self.said += line

    def cpu_seconds(self):
        return cpu_seconds(self.process.pid)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def cpu_seconds(pid):
    """CPU time of a process so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bucket_server(kind, folder, port):
    if kind == "moto":
        return Process([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port], None)
    root = folder / "s3s"
    (root / "imagenet").mkdir(parents=True)
    command = ["s3s-fs", "--host", "127.0.0.1", "--port", port]
    command += ["--access-key", KEYS["AWS_ACCESS_KEY_ID"], "--secret-key", KEYS["AWS_SECRET_ACCESS_KEY"], root]
    return Process(command, None)


def upload(tars, port):
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        region_name=KEYS["AWS_REGION"],
    )
    for attempt in range(100):
        try:
            if "imagenet" not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket="imagenet")
            break
        except Exception:
            if attempt == 99:
                raise
            time.sleep(0.2)
    for tar in sorted(tars.iterdir()):
        client.upload_file(str(tar), "imagenet", f"train/{tar.name}")


def metrics(address):
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        text = answer.read().decode()
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            found[name] = float(value)
    return found


def serve(args, dataset, index_dir, flags, env):
    command = [args.forebay, "serve", "--dataset", f"train={dataset}", "--index-dir", index_dir]
    # Microbatches that are kept in memory would hide the storage.
    command += ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--cache-bytes", "0", *flags]
    if args.rounds:
        # Other CPUs are for the network, the bucket, the proxy and the trainer.
        command += ["--threads", "1"]
    return Process(command, "metrics and status on", {**env, "RUST_LOG": "error"})


def addresses(server):
    patterns = (r"listening on (\S+)", r"metrics and status on http://(\S+?)/")
    return [re.search(pattern, server.said)[1] for pattern in patterns]


def trainer(args, listen, steps, number):
    # Each epoch reads each record once.
    load = [args.loadtest, "--endpoint", listen, "--recipe", "a2", "--set", "repeats = 1", "--batch", BATCH]
    load += ["--microbatches", 2, "--trainers", 1, "--steps", steps, "--epoch", number, "--json"]
    if args.rounds:
        # A worker that needs more CPU time than bucket and proxy do for an image, so that these do not limit it.
        load += ["--set", "image_size = 448"]
    return [str(part) for part in load]


def kill_in_the_middle(args, dataset, index_dir, flags, steps, env):
    """Kills a server by SIGKILL while its cache fills."""
    with serve(args, dataset, index_dir, flags, env) as server:
        listen, admin = addresses(server)
        load = [*trainer(args, listen, steps, 0), "--give-up-after", "0"]
        running = subprocess.Popen(load, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while metrics(admin)["forebay_storage_fetched_bytes_total"] < 4e6:
            time.sleep(0.02)
    running.wait()


def epochs(args, dataset, index_dir, flags, steps, names, env):
    """Runs a server for epochs of the same job, each by number and name. Returns a row for each."""
    rows = []
    with serve(args, dataset, index_dir, flags, env) as server:
        listen, admin = addresses(server)
        for number, name in names:
            before = metrics(admin)
            busy = {**args.others, "server": server}
            used, begun = {who: process.cpu_seconds() for who, process in busy.items()}, time.monotonic()
            load = trainer(args, listen, steps, number)
            ran = subprocess.run(load, check=True, stdout=subprocess.PIPE, env={**env, "RUST_LOG": "error"})
            took = time.monotonic() - begun
            used = {who: (process.cpu_seconds() - used[who]) / took for who, process in busy.items()}
            report, after = json.loads(ran.stdout), metrics(admin)
            grown = lambda key: after.get(key, 0.0) - before.get(key, 0.0)
            rows.append(
                {
                    "number": number,
                    "epoch": name,
                    "images_per_s": round(report["images_per_s"]),
                    "checksum": report["checksum"],
                    "hits": int(grown('forebay_storage_read_bytes_total{tier="cache"}')),
                    "misses": int(grown('forebay_storage_read_bytes_total{tier="remote"}')),
                    "fetched": int(grown("forebay_storage_fetched_bytes_total")),
                    "requests": int(grown("forebay_storage_requests_total")),
                    "retries": int(grown("forebay_storage_retries_total")),
                    "throttled": int(grown("forebay_storage_throttled_total")),
                    "late": int(grown("forebay_storage_late_reads_total")),
                    "cached": int(after.get("forebay_disk_cache_bytes", 0)),
                    "rss": int(after["process_resident_memory_bytes"]),
                    "damaged": int(after.get("forebay_storage_damaged_records_total", 0)),
                    "disk_failed": int(after.get("forebay_disk_cache_failed", 0)),
                    "server_seconds": used["server"] * took,
                    "cpus": used,
                }
            )
    return rows


def rates(args, tars, remote, local, folder, steps, env):
    """Rates in rounds, each of every kind of epoch, so that what else the machine does meets all of them."""
    rows = []
    for number in range(args.rounds):
        cache = folder / f"cache-{number}"
        bucket = lambda flags, names: epochs(args, "s3://imagenet/train", remote, flags, steps, names, env)
        rows += epochs(args, tars, local, [], steps, [(number, "local")], env)
        rows += bucket(["--disk-cache", cache], [(number, "cold cache"), (number, "full cache")])
        rows += bucket([], [(number, "no cache")])
        shutil.rmtree(cache)
    print(f"{'epoch':11} {'images/s':>9} {'of local':>9} {'worst':>6} {'ms/image':>9} {'proxy':>6} {'bucket':>7} {'requests':>9} "
          f"{'late':>5} {'RSS MB':>7}      medians; CPU time of the server, CPUs of the others")
    images = {row["number"]: row["checksum"] for row in rows if row["epoch"] == "local"}
    if any(row["checksum"] != images[row["number"]] for row in rows):
        raise SystemExit("FAILED: the images differ from the local ones")
    by_name = {name: [row for row in rows if row["epoch"] == name] for name in dict.fromkeys(row["epoch"] for row in rows)}
    for name, of_name in by_name.items():
        shares = [row["images_per_s"] / own["images_per_s"] for row, own in zip(of_name, by_name["local"])]
        median = lambda value: statistics.median(map(value, of_name))
        cpus = [median(lambda row: row["cpus"][who]) for who in ("proxy", "bucket")]
        cost = median(lambda row: 1e3 * row["server_seconds"] / args.images)
        print(f"{name:11} {median(lambda row: row['images_per_s']):9.0f} {statistics.median(shares):9.2f} {min(shares):6.2f} "
              f"{cost:9.3f} {cpus[0]:6.2f} {cpus[1]:7.2f} {median(lambda row: row['requests']):9.0f} "
              f"{max(row['late'] for row in of_name):5} {max(row['rss'] for row in of_name) / 1e6:7.0f}")
    return rows


def main():
    parser = argparse.ArgumentParser()
    for flag in ("--forebay", "--loadtest", "--bucket", "--json"):
        parser.add_argument(flag)
    parser.add_argument("--latency", type=float)
    parser.add_argument("--per-class", type=int)
    parser.add_argument("--rounds", type=int)
    args = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp())
    env = {**os.environ, **KEYS}
    port = free_port()
    try:
        tars, images = write_tars(args.forebay, folder, args.per_class)
        size = sum(tar.stat().st_size for tar in tars.iterdir())
        steps, left = divmod(images, BATCH)
        if left:
            raise SystemExit(f"{images} images are no multiple of {BATCH}, so that no epoch would read all of them")
        with bucket_server(args.bucket, folder, port) as bucket:
            upload(tars, port)
            with Process([sys.executable, HERE / "proxy.py", port, args.latency], r"\d+ \d+") as proxy:
                args.others, args.images = {"bucket": bucket, "proxy": proxy}, images
                plain, failing = (f"http://127.0.0.1:{number}" for number in proxy.said.split())
                env["AWS_ENDPOINT_URL"] = plain
                local, remote = folder / "local", folder / "remote"
                index = lambda data, into: subprocess.run(
                    [args.forebay, "index", data, "--index-dir", into], check=True, stdout=subprocess.DEVNULL, env=env
                )
                index(tars, local)
                begun = time.monotonic()
                index("s3://imagenet/train", remote)
                print(f"{images} images in {size / 1e6:.0f} MB, indexed from the bucket in {time.monotonic() - begun:.1f} s")
                if args.rounds:
                    rows = rates(args, tars, remote, local, folder, steps, env)
                    pathlib.Path(args.json).write_text(json.dumps(rows, indent=1))
                    return
                run = lambda flags, names: epochs(args, "s3://imagenet/train", remote, flags, steps, names, env)
                rows = epochs(args, tars, local, [], steps, [(0, "local"), (1, "local, next")], env)
                rows += run(["--disk-cache", folder / "full"], [(0, "cold"), (1, "full")])
                half = ["--disk-cache", folder / "half", "--disk-cache-bytes", size // 2]
                rows += run(half, [(0, "half, cold"), (1, "half"), (0, "half again")])
                rows += run([], [(0, "no cache")])
                killed = ["--disk-cache", folder / "killed"]
                kill_in_the_middle(args, "s3://imagenet/train", remote, killed, steps, env)
                rows += run(killed, [(0, "after kill -9"), (1, "and again")])
                env["AWS_ENDPOINT_URL"] = failing
                rows += run(["--disk-cache", folder / "failing"], [(0, "failing")])
                env["AWS_ENDPOINT_URL"] = plain
                rows += run(["--disk-cache", folder / "failing"], [(1, "after failing")])
                small = folder / "small"
                small.mkdir()
                mount = ["mount", "-t", "tmpfs", "-o", f"size={size // 3}", "tmpfs", small]
                if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode == 0:
                    try:
                        limit = ["--disk-cache", small / "cache", "--disk-cache-bytes", size * 2]
                        rows += run(limit, [(0, "disk full")])
                    finally:
                        subprocess.run(["umount", small], check=True)
                else:
                    print("no disk was filled: mount is not permitted here")
        check(rows)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    pathlib.Path(args.json).write_text(json.dumps(rows, indent=1))


def check(rows):
    by_name = {row["epoch"]: row for row in rows}
    local = max(by_name[name]["images_per_s"] for name in ("local", "local, next"))
    print(f"{'epoch':13} {'images/s':>9} {'of local':>9} {'hits MB':>9} {'misses MB':>9} {'fetched MB':>10} "
          f"{'requests':>9} {'late':>5} {'RSS MB':>7}")
    for row in rows:
        numbers = [row[key] / 1e6 for key in ("hits", "misses", "fetched")]
        print(f"{row['epoch']:13} {row['images_per_s']:9} {row['images_per_s'] / local:9.2f} {numbers[0]:9.1f} "
              f"{numbers[1]:9.1f} {numbers[2]:10.1f} {row['requests']:9} {row['late']:5} {row['rss'] / 1e6:7.0f}")
    failures = []
    images = {row["number"]: row["checksum"] for row in rows if "local" in row["epoch"]}
    if any(row["checksum"] != images[row["number"]] for row in rows):
        failures.append("the images differ from the local ones")
    full, half, again = by_name["full"], by_name["half"], by_name["half again"]
    if full["misses"] or full["fetched"] or full["hits"] != half["hits"] + half["misses"]:
        failures.append("an epoch from a full cache has fetched something")
    # Where the last block of a cache remains free, an epoch may still add it.
    grown = again["cached"] - by_name["half, cold"]["cached"]
    if not 0 <= again["hits"] - half["hits"] <= grown or not half["hits"] or not half["misses"]:
        failures.append(f"half of a cache was hit otherwise in the next epoch, and grew by {grown} bytes")
    if any(row["damaged"] for row in rows if row["epoch"] != "failing"):
        failures.append("a killed server or a full disk left wrong bytes in the cache")
    failing = by_name["failing"]
    if not (failing["damaged"] and failing["retries"] and failing["throttled"]):
        failures.append("the proxy that fails did not")
    if by_name["after failing"]["fetched"]:
        failures.append("the cache was not completed behind a proxy that fails")
    if by_name["and again"]["fetched"]:
        failures.append("the cache of a killed server was not completed")
    if "disk full" in by_name and not by_name["disk full"]["disk_failed"]:
        failures.append("the disk was not full")
    # While a wrong block is replaced, a neighbor in it may be read late.
    if any(row["late"] for row in rows if row["epoch"] != "failing"):
        failures.append("a worker waited for the bucket")
    if failures:
        raise SystemExit("FAILED: " + "; ".join(failures))
    counts = ", ".join(f"{failing[key]} {key}" for key in ("retries", "throttled", "damaged"))
    print(f"ok: images, hits and reads are as they must be; behind the proxy that fails: {counts}")


if __name__ == "__main__":
    main()
