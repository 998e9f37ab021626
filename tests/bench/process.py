"""A peer as a running process, and the resources that it and its descendants use."""

import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time


class PeerError(Exception):
    """A peer has ended; the message is the reason."""


def tree(pid):
    """A process and all its descendants."""
    found = [pid]
    for parent in found:
        for children in pathlib.Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    return found


def cpu(pids):
    """User and system seconds, as of getrusage, but of other running processes."""
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)  # CPUCLOCK_SCHED of a pid


def settle(pids):
    """Waits until prefetching is done, so that the work of one pass does not count for another."""
    for _ in range(100):
        before = cpu(pids)
        time.sleep(0.02)
        if cpu(pids) - before < 0.001:
            return


def peak_rss(pids):
    """The sum of the peaks in MB; a page shared by two processes counts twice."""
    kilobytes = 0
    for pid in pids:
        status = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
        kilobytes += sum(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return kilobytes / 1000


class Peer:
    """A process that speaks the protocol of peers/common.py."""

    def __init__(self, program, arguments):
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise PeerError((self.log.read().strip().splitlines() or ["the process ended"])[-1])
        return json.loads(line)

    def ready(self):
        """Waits for the end of the warm-up."""
        return self.answer()["versions"]

    def measure(self):
        pids = tree(self.process.pid)
        settle(pids)
        before = cpu(pids)
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.answer()
        settle(pids)
        if tree(self.process.pid) != pids:
            raise PeerError("it started or ended processes during a pass")
        images = answer["images"]
        return {
            "images": images,
            "cpu_ms": (cpu(pids) - before) * 1000 / images,
            "images_per_s": images / answer["seconds"],
            "rss_mb": peak_rss(pids),
        }

    def stop(self):
        """Kills the process and its children, which are a process group."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Forebay:
    """`forebay bench`, which warms up and measures itself: one process per round."""

    def __init__(self, program, dataset, sets, images):
        self.seed = 0
        self.command = [program, "bench", "--json", "--threads", "1", "--images", str(images)]
        self.command += ["--dataset", str(dataset), "--index-dir", str(dataset.parent)]
        self.command += ["--recipe", "a2", *(word for change in sets for word in ("--set", change))]
        self.program = program

    def ready(self):
        return subprocess.check_output([self.program, "--version"], text=True).strip()

    def measure(self):
        self.seed += 1
        command = [*self.command, "--seed", str(self.seed)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        report = json.loads(process.stdout.read())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return {
            "images": report["images"],
            "cpu_ms": report["cpu_ms_per_image"],
            "images_per_s": report["images_per_s"],
            "rss_mb": usage.ru_maxrss / 1000,
        }

    def stop(self):
        pass
