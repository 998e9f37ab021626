"""Runs the manifests: the chart's own pods, probes, users, read-only roots, signals, secrets and Jobs, with
the real binaries, and Prometheus with the alert rules and the dashboard's queries.

    live.py --forebay BIN --loadtest BIN [--trainer BIN] --prometheus BIN

Runs as root in a network namespace of its own, so that ports of the manifests are free.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse

import chart
import kubelet
from kubelet import HANG

HOST = f"{chart.RELEASE}-forebay.{chart.NAMESPACE}.svc"
GRPC, METRICS = 50051, 9090


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("forebay", "loadtest", "prometheus"):
        arguments.add_argument(f"--{name}", required=True, type=pathlib.Path)
    arguments.add_argument("--trainer", type=pathlib.Path)
    args = arguments.parse_args()
    if os.environ.get("FOREBAY_OWN_NETWORK") != "1":
        os.environ["FOREBAY_OWN_NETWORK"] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory(prefix="forebay-deploy-") as folder:
        stage = Stage(pathlib.Path(folder), args)
        for test in (stage.plain, stage.secure, stage.example_config):
            begin = time.monotonic()
            print(f"{test.__name__}: {test()} ({time.monotonic() - begin:.1f} s)", flush=True)


class Stage:
    def __init__(self, folder, args):
        self.folder, self.args = folder, args
        folder.chmod(0o755)
        self.binaries = {"forebay/server": args.forebay, "forebay/loadtest": args.loadtest}
        self.ranks = 0
        if args.trainer:
            self.binaries["forebay/trainer"] = args.trainer
            self.ranks = ranks(args.trainer)
        self.data = folder / "data"
        subprocess.run(
            [args.forebay, "sample-data", self.data, "--classes=4", "--per-class=24", "--val-per-class=4"],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def cluster(self, name, objects, **more):
        # The rendezvous address of the ranks is the first pod of the Indexed Job.
        jobs = [o["metadata"]["name"] for o in objects if o["kind"] == "Job"]
        meet = [f"{job}-0.{chart.RELEASE}-forebay-trainer.{chart.NAMESPACE}.svc" for job in jobs]
        claims = {"imagenet": self.data, **more.pop("claims", {})}
        return kubelet.Cluster(self.folder / name, objects, self.binaries, claims, hosts=[HOST, *meet], **more)

    def plain(self):
        """Indexes, serves, probes, reads and drains with the required values alone."""
        values = chart.value_sets()["minimal"]
        values["resources"] = {"requests": {"cpu": "1500m"}, "limits": {"memory": "2Gi"}}
        values["loadtest"] = {"enabled": True, "trainers": 2, "steps": 3, "args": ["--batch=16", "--microbatches=2"]}
        runs = self.folder / "runs"
        if self.args.trainer:
            runs.mkdir()
            kubelet.own(runs, 65532)
            values["trainer"] = {
                "enabled": True, "model": "resnet20", "world": self.ranks, "checkpointSteps": 1,
                "volume": {"persistentVolumeClaim": {"claimName": "runs"}},
                "args": ["--epochs=1000", "--batch=16", "--microbatches=2", "--image-size=32", "--stop-after=2"]}
        objects, _ = chart.render(values)
        cluster = self.cluster("plain", objects, claims={"runs": runs})
        pod = cluster.pod(chart.one(objects, "Deployment")["spec"]["template"]["spec"], name="server")
        pod.run_init(HANG)
        with running(pod.start()) as server:
            server.until("startupProbe", HANG, "started")
            server.until("readinessProbe", HANG, "ready")
            assert server.probe("livenessProbe")
            expected = {"uids": {"65532"}, "groups": ["65532"], "capabilities": 0,
                        "no_new_privileges": True, "root": "ro", "first": True}
            assert kubelet.locked(server.pid()) == expected, kubelet.locked(server.pid())
            metrics = kubelet.http(METRICS, "/metrics")[1]
            assert re.search(r"^forebay_worker_threads 2\b", metrics, re.M), "threads are not the cores asked for, rounded up"
            with prometheus(self.args.prometheus, self.folder / "prometheus") as query:
                self.job(cluster, chart.one(objects, "Job", "loadtest"))
                smoke = chart.one(objects, "Pod", "smoke")
                cluster.pod(smoke["spec"], name="smoke").start().succeed(HANG)
                if self.args.trainer:
                    self.training(cluster, chart.one(objects, "Job", "trainer"), runs)
                queries = self.queries(query)
            took = self.drain(cluster, server, chart.one(objects, "Job", "loadtest"))
        return f"probes, user 65532, read-only root, Jobs, {self.ranks} ranks, {queries} queries, drained in {took:.1f} s"

    def job(self, cluster, job, index="0", name="job"):
        pod = cluster.pod(job["spec"]["template"]["spec"], {"batch.kubernetes.io/job-completion-index": index}, name)
        return pod.start().succeed(HANG)

    def training(self, cluster, job, runs):
        """Runs all ranks three times: the second run resumes the training, and the third is asked to stop."""
        assert job["spec"]["completionMode"] == "Indexed"
        spec, out = job["spec"]["template"]["spec"], runs / chart.RELEASE
        index = "batch.kubernetes.io/job-completion-index"

        def start(stack, stop_after):
            spec["containers"][0]["args"][-1] = f"--stop-after={stop_after}"
            pods = [cluster.pod(spec, {index: str(rank)}, f"trainer-{rank}") for rank in range(job["spec"]["completions"])]
            return [stack.enter_context(running(pod.start())) for pod in pods]

        for steps in (2, 4):
            with contextlib.ExitStack() as stack:
                for rank in start(stack, steps):
                    rank.succeed(HANG)
            assert (out / f"step-{steps:08}").is_dir(), list(out.iterdir())
        log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        assert len([line for line in log if "lr" in line]) == 4, "a step was done twice"
        with contextlib.ExitStack() as stack:
            ranks, end = start(stack, 1_000_000), time.monotonic() + HANG
            while not (out / "step-00000005").is_dir():
                assert time.monotonic() < end, ranks[0].said()
                time.sleep(0.1)
            os.kill(ranks[-1].pid(), signal.SIGTERM)
            codes = {rank.process.wait(spec["terminationGracePeriodSeconds"]) for rank in ranks}
        ignored = [code for rule in job["spec"]["podFailurePolicy"]["rules"] if rule["action"] == "Ignore"
                   for code in rule.get("onExitCodes", {}).get("values", [])]
        assert codes <= set(ignored), f"exit codes {codes}, of which {ignored} count as no failure: {ranks[0].said()}"

    def drain(self, cluster, server, job):
        """Sends SIGTERM within a microbatch: the pod is not ready at once, and the reader gets the rest of the microbatch."""
        spec = job["spec"]["template"]["spec"]
        spec["containers"][0]["args"] = ["--steps=10000", "--batch=96", "--microbatches=1", "--dtype=f32"]
        with running(cluster.pod(spec, name="reader").start()) as reader:
            end = time.monotonic() + HANG
            while not re.search(r"^forebay_streams [1-9]", kubelet.http(METRICS, "/metrics")[1], re.M):
                assert reader.process.poll() is None and time.monotonic() < end, reader.said()
                time.sleep(0.1)
            # 58 MB exceed the socket buffers, so that a part is still in the server.
            os.kill(reader.pid(), signal.SIGSTOP)
            time.sleep(1)
            begin = time.monotonic()
            os.kill(server.pid(), signal.SIGTERM)
            while server.probe("readinessProbe"):
                assert time.monotonic() < begin + HANG, "the server is still ready"
            assert kubelet.http(METRICS, "/readyz")[0] == 503 and kubelet.http(METRICS, "/healthz")[0] == 200
            time.sleep(0.5)
            assert server.process.poll() is None, "the server did not wait for its reader"
            os.kill(reader.pid(), signal.SIGCONT)
            code = server.process.wait(server.pod.spec["terminationGracePeriodSeconds"])
        assert code == 0, f"exit code {code}:\n{server.said()}"
        assert "unfinished: 0" in server.said(), server.said()
        return time.monotonic() - begin

    def queries(self, query):
        """Runs every query of the dashboard and the alerts; those of the dashboard must return data."""
        files = chart.CHART / "files"
        rules = [rule["expr"] for group in chart.load(files / "alerts.yaml")["groups"] for rule in group["rules"]]
        panels = json.loads((files / "dashboard.json").read_text())["panels"]
        targets = [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", [])]
        for expression in rules:
            query(expression)
        for title, expression in targets:
            for name, value in (("$namespace", ".*"), ("$service", ".*"), ("$__rate_interval", "10s")):
                expression = expression.replace(name, value)
            if title != "Calls refused":  # this test refuses no calls
                found(query, expression, title)
        used = set(re.findall(r"\bforebay_\w+|\bprocess_\w+", " ".join(rules + [t for _, t in targets])))
        # The series of a status code begins with its first call; the load test has made the others.
        known = {name for name in used if query(name)}
        assert used == known, f"the server has no {used - known}"
        return len(rules) + len(targets)

    def secure(self):
        """Uses TLS, client certificates, tokens, a recipe, limits of identities, and secrets that rotate."""
        values = chart.value_sets()["secure"]
        values["data"] = chart.value_sets()["minimal"]["data"]
        values["index"] = {"build": "pod"}
        values["datasets"] = {"train": "train"}
        values["autoscaling"]["min"] = 1
        values["loadtest"] = {"enabled": True, "recipe": "mine", "trainers": 2, "steps": 2,
                              "args": ["--batch=16", "--microbatches=2", "--give-up-after=5s"]}
        values.pop("trainer")
        objects, _ = chart.render(values)
        tokens = {"tokens": "team/a first-token-0123456789\n"}
        secrets = {"forebay-tokens": tokens, "forebay-client-token": {"token": "first-token-0123456789"}}
        secrets |= certificates(self.folder / "certificates")
        cluster = self.cluster("secure", objects, secrets=secrets)
        pod = cluster.pod(chart.one(objects, "Deployment")["spec"]["template"]["spec"], name="server")
        pod.run_init(HANG)
        job = chart.one(objects, "Job", "loadtest")
        with running(pod.start()) as server:
            server.until("startupProbe", HANG, "started")
            assert server.probe("readinessProbe") and server.probe("livenessProbe")
            assert not kubelet.grpc_health(GRPC, ""), "the port answers in plain text"
            self.job(cluster, job, name="with-both")
            pod.rotate("tokens", {"tokens": "team/a second-token-0123456789\n"})
            server.until_said("access files reloaded", HANG)
            refused = cluster.pod(job["spec"]["template"]["spec"], name="old-token").start()
            assert refused.process.wait(HANG) != 0 and "token" in refused.said(), refused.said()
            secrets["forebay-client-token"]["token"] = "second-token-0123456789"
            self.job(cluster, job, name="new-token")
            secrets["forebay-client-tls"] |= certificates(self.folder / "strangers")["forebay-client-tls"] | {
                "ca.crt": secrets["forebay-client-tls"]["ca.crt"]}
            stranger = cluster.pod(job["spec"]["template"]["spec"], name="stranger").start()
            assert stranger.process.wait(HANG) != 0, "a stranger's certificate was accepted"
            code, took = server.stop()
            assert code == 0, server.said()
            for secret in ("first-token", "second-token"):
                assert secret not in server.log.read_text(), "a token is in the log"
        return f"mTLS, tokens, rotation without a restart, strangers refused, stopped in {took:.1f} s"

    def example_config(self):
        """Reads deploy/forebay.toml as it is, and with every setting that it has in a comment."""
        text = (chart.ROOT / "deploy/forebay.toml").read_text()
        # A server that nobody holds the lock of would end at once; tests/system/command.rs has one that somebody holds.
        full = [line.removeprefix("#: ") for line in text.splitlines() if "while_locked" not in line]
        values = chart.value_sets()["minimal"]
        values["recipes"] = {"mine": 'base = "a3"\n'}
        values["index"] = {"build": "pod"}
        objects, _ = chart.render(values)
        spec = chart.one(objects, "Deployment")["spec"]["template"]["spec"]
        server = spec["containers"][0]
        secrets = certificates(self.folder / "certificates") | {"tokens": {"tokens": "a 0123456789abcdef\n"}}
        shards = self.folder / "data/shards"
        shards.mkdir()
        for number in (0, 1):
            images = sorted((self.data / "train").rglob("*.*"))[number * 8:][:8]
            tar(shards / f"train-{number:06}.tar", images)
        spec["volumes"] += [{"name": "tls", "secret": {"secretName": "forebay-tls", "defaultMode": 0o440}}]
        server["volumeMounts"] += [{"name": "tls", "mountPath": "/etc/forebay/tls", "readOnly": True}]
        index = spec["initContainers"][0]
        for name, path in (("val", "/data/val"), ("shards", "/data/shards/train-{000000..000001}.tar")):
            spec["initContainers"].append({**index, "name": name, "args": ["index", path, index["args"][2]]})
        for name, toml in (("given", text), ("full", "\n".join(full))):
            toml = toml.replace("/etc/forebay/mine.toml", "/etc/forebay/config/recipe-mine.toml")
            toml = toml.replace("/etc/forebay/tokens", "/etc/forebay/config/tokens")
            cluster = self.cluster(f"example-{name}", objects, secrets=secrets)
            config = cluster.configs[f"{chart.RELEASE}-forebay"]
            config["forebay.toml"], config["tokens"] = toml, secrets["tokens"]["tokens"]
            pod = cluster.pod(spec, name="server")
            pod.run_init(HANG)
            with running(pod.start()) as started:
                ready(started)
                code, _ = started.stop()
                assert code == 0, started.said()
        return f"serves as it is and with all {len(full)} lines"


def ranks(trainer):
    """The number of ranks: two if the trainer has `--rendezvous`."""
    flags = subprocess.check_output([trainer, "train", "--help"], text=True)
    return 2 if "--rendezvous" in flags else 1


@contextlib.contextmanager
def running(container):
    try:
        yield container
    finally:
        container.kill()


def ready(server):
    """Waits until the admin port reports ready, independent of the probes."""
    end = time.monotonic() + HANG
    while kubelet.http(METRICS, "/readyz")[0] != 200:
        assert server.process.poll() is None and time.monotonic() < end, server.said()
        time.sleep(0.1)


def found(query, expression, title):
    """Waits until a query returns data; a rate needs two scrapes."""
    end = time.monotonic() + HANG
    while not query(expression):
        assert time.monotonic() < end, f"{title} finds nothing: {expression}"
        time.sleep(0.5)


@contextlib.contextmanager
def prometheus(binary, folder):
    """Starts Prometheus with the alert rules, scraping the server every second."""
    folder.mkdir()
    rules = chart.CHART / "files/alerts.yaml"
    (folder / "prometheus.yml").write_text(
        f"global: {{scrape_interval: 1s, evaluation_interval: 5s}}\nrule_files: [{rules}]\n"
        f"scrape_configs: [{{job_name: forebay, static_configs: [{{targets: ['127.0.0.1:{METRICS}']}}]}}]\n")
    command = [binary, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
               "--web.listen-address=127.0.0.1:9091"]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)

    def query(expression):
        path = "/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        status, body = kubelet.http(9091, path, 10)
        assert status == 200, f"Prometheus refuses ({status}): {expression}"
        return json.loads(body)["data"]["result"]

    try:
        end = time.monotonic() + HANG
        # Prometheus discovers its targets only some seconds after it is ready.
        while kubelet.http(9091, "/-/ready")[0] != 200 or not query("up == 1"):
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.2)
        yield query
    finally:
        process.terminate()
        process.wait()


def certificates(folder):
    """Creates Secrets with certificates of separate authorities for servers and clients."""
    folder.mkdir(exist_ok=True)
    openssl = lambda *words: subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=authority",
            "-addext", "keyUsage=critical,keyCertSign")
    secrets = {}
    for name, host in (("forebay-tls", HOST), ("forebay-client-tls", "trainer")):
        (folder / "ext").write_text(f"subjectAltName=DNS:{host}\nbasicConstraints=CA:FALSE\n")
        openssl("req", *curve, "-keyout", "tls.key", "-out", "tls.csr", "-subj", f"/CN={host}")
        openssl("x509", "-req", "-in", "tls.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                "-out", "tls.crt", "-days", "2", "-extfile", "ext")
        secrets[name] = {key: (folder / key).read_text() for key in ("tls.crt", "tls.key", "ca.crt")}
    return secrets


def tar(path, images):
    """Writes a WebDataset shard."""
    import io
    import tarfile

    with tarfile.open(path, "w") as shard:
        for number, image in enumerate(images):
            for name, data in ((image.suffix.lower(), image.read_bytes()), (".cls", b"0")):
                entry = tarfile.TarInfo(f"{number:06}{name}")
                entry.size = len(data)
                shard.addfile(entry, io.BytesIO(data))


if __name__ == "__main__":
    main()
