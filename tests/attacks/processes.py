"""The processes of a measurement: a server, a trainer, an attacker; and what they take."""

import dataclasses
import http.client
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20

TOKENS = {"trainer": "0123456789abcdef-trainer", "attacker": "0123456789abcdef-attacker"}


def cpu(pid):
    """CPU seconds of a process, system calls included."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory(pid, key):
    """A number of /proc/PID/status in bytes: VmRSS, or VmHWM, which is the largest so far."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":")), 0)


def has_flag(forebay, flag):
    text = subprocess.run([forebay, "serve", "--help"], check=True, stdout=subprocess.PIPE, text=True).stdout
    return f"{flag} " in text


class Server:
    """A server that is killed if it takes more than `cap` bytes, so that the machine survives."""

    def __init__(self, setup, attack):
        datasets = ["train", *attack.datasets]
        command = [setup.forebay, "serve", "--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0", "--json",
                   f"--index-dir={setup.indexes}", f"--token-file={setup.folder / 'tokens'}", "--drain-grace=2s",
                   *(f"--dataset={name}={setup.folder / name}" for name in datasets)]
        if setup.memory:
            command.append(f"--memory={attack.memory or setup.memory}")
        else:
            command[command.index("--drain-grace=2s")] = "--drain-grace=2"
        def limit():
            if attack.files:
                resource.setrlimit(resource.RLIMIT_NOFILE, (attack.files, attack.files))
        self.log = open(setup.folder / "server.log", "w+")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True, preexec_fn=limit)
        self.pid = self.process.pid
        addresses = [self.process.stdout.readline().rstrip("/\n").split()[-1:] for _ in range(2)]
        if not all(addresses):
            self.log.seek(0)
            raise SystemExit("attacks: the server does not start: " + self.log.read()[-2000:])
        self.address, self.admin = (address[0].removeprefix("http://") for address in addresses)
        self.cap, self.killed = setup.cap, False
        threading.Thread(target=self.guard, daemon=True).start()

    def declared(self):
        """The memory that the server says it takes at most; None if it says nothing."""
        self.log.seek(0)
        for line in self.log:
            fields = json.loads(line).get("fields", {}) if line.startswith("{") else {}
            if fields.get("message") == "memory":
                return fields["total"]
        return None

    def guard(self):
        while self.process.poll() is None:
            if memory(self.pid, "VmRSS") > self.cap:
                self.killed = True
                self.process.kill()
            time.sleep(0.02)

    def reset_peak(self):
        pathlib.Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def alive(self):
        return self.process.poll() is None

    def end(self, patience=5):
        """Tells the server to end. Returns the seconds that it takes; None if it has to be killed."""
        begin = time.monotonic()
        self.process.terminate()
        try:
            self.process.wait(patience)
            return time.monotonic() - begin
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None
        finally:
            self.process.stdout.close()
            self.log.close()


class Attacker:
    """A process that attacks a server until it is ended."""

    def __init__(self, setup, attack, server):
        nice = attack.nice if setup.nice is None else setup.nice
        command = [sys.executable, HERE / "attacks.py", attack.name, str(nice), server.address, server.admin,
                   TOKENS["attacker"], str(setup.records)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid
        self.process.stdout.readline()

    def end(self):
        """Ends the attack. Returns what became of it."""
        self.process.terminate()
        try:
            text, _ = self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            text, _ = self.process.communicate()
        return json.loads(text) if text else {"the attacker failed": 1}


class Prober(threading.Thread):
    """Probes /healthz as a kubelet does, five times a second, until it is stopped."""

    def __init__(self, admin):
        super().__init__(daemon=True)
        self.admin, self.stopped, self.count, self.failed = admin, threading.Event(), 0, 0
        self.start()

    def run(self):
        while not self.stopped.wait(0.2):
            connection = http.client.HTTPConnection(self.admin, timeout=1)
            try:
                connection.request("GET", "/healthz")
                ok = connection.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                ok = False
            finally:
                connection.close()
            self.count += 1
            self.failed += not ok

    def stop(self):
        self.stopped.set()
        self.join()
        return self.failed, self.count


@dataclasses.dataclass
class Window:
    """What was measured while a trainer trained for some seconds."""
    rate: float  # images/s, connecting included
    first: float | None  # seconds until the trainer had its first microbatch
    server_cpu: float  # cores
    trainer_cpu: float
    attacker_cpu: float
    peak: int  # largest resident memory of the server
    probes: tuple  # failed, all
    errors: list  # of the trainer


def train(setup, attack, server, seed, rate=None, attacker=None):
    """Has a trainer train for some seconds."""
    command = [setup.loadtest, f"--endpoint={server.address}", "--dataset=train", "--plan=1x1h", "--check=digests",
               f"--batch={attack.batch or setup.batch}", "--microbatches=1",
               f"--token-file={setup.folder / 'trainer-token'}", f"--seed={seed}", "--json", *attack.trainer]
    if rate:
        command.append(f"--rate={rate:.1f}")
    prober = Prober(server.admin)
    pids = [server.pid, attacker.pid if attacker else 0]
    before, begin = [cpu(pid) for pid in pids], time.monotonic()
    # That the token is sent in plain text is no error here.
    levels = {**os.environ, "RUST_LOG": "warn,forebay_client::wire::access=error"}
    trainer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=levels)
    try:
        trainer.wait(setup.seconds)
    except subprocess.TimeoutExpired:
        pass
    time.sleep(max(0, begin + setup.seconds - time.monotonic()))
    took = time.monotonic() - begin
    used = [(cpu(pid) - past) / took for pid, past in zip(pids, before)]
    used.insert(1, cpu(trainer.pid) / took)
    peak = memory(server.pid, "VmHWM")
    failed = prober.stop()
    trainer.send_signal(signal.SIGTERM)
    try:
        text, warnings = trainer.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        trainer.kill()
        text, warnings = trainer.communicate()
    report = json.loads(text) if text else {"images": 0, "violations": []}
    errors = report["violations"] + warnings.splitlines()[-1:]
    # The report's time begins when the trainer has connected.
    first = max(0, took - report["seconds"]) + report["first_microbatch_ms"] / 1e3 if report["images"] else None
    return Window(report["images"] / took, first, *used, peak, failed, errors)
