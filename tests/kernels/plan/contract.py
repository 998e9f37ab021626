"""Whether the stand-in for cuDNN answers as cuDNN does: the same calls of the backend API, right and wrong, in both libraries.

    contract.py STAND-IN                 compares all cases, and prints those that differ
    contract.py --calls LIBRARY          prints the calls of each case and their statuses, as JSON

cuDNN plans for a described GPU, so that no device is needed. Compared are the first call of each case that is refused and the class
of its status (BAD_PARAM, NOT_SUPPORTED, ...), which is what a caller can tell from it: cuDNN's own answers differ in the rest, for
the same mistake in different descriptors. Called by contract.sh.
"""

import json
import os
import subprocess
import sys

from cases import CASES, STRICTER
from header import HOME, NAMES
from session import Session

CLASSES = {0: "success", 1: "not initialized", 2: "bad parameter", 3: "not supported", 4: "internal error",
           5: "execution failed"}
CRASH = "crash"


def calls(path):
    """Runs each case in a process of its own, because cuDNN does not survive all of them."""
    library = Session(path).library
    library.cudnnGetVersion()
    found = {}
    for name, case in CASES.items():
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            session = Session(path)
            try:
                case(session)
            except Exception as error:
                session.log = [[f"{name} is no case: {error!r}", -1]]
            os.write(writer, json.dumps(session.log).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            text = pipe.read()
        os.waitpid(child, 0)
        found[name] = json.loads(text) if text else CRASH
    return found


def outcome(log):
    """The refused calls of a case, by class. What comes after the first one may only be its consequence."""
    if log == CRASH:
        return CRASH
    refused = [f"{what}: {CLASSES.get(status // 1000, status)}" for what, status in log if status]
    return refused[0] if refused else f"success of {len(log)} calls" + "".join(
        f", {what}" for what, _ in log if what.startswith(("count", "all", "0 ", "1 ")))


def run(path):
    command = [sys.executable, __file__, "--calls", path]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)


def main():
    if sys.argv[1] == "--calls":
        json.dump(calls(sys.argv[2]), sys.stdout)
        return
    real, own = run(str(HOME / "lib/libcudnn.so.9")), run(sys.argv[1])
    different = stricter = 0
    for name in CASES:
        wanted, found = outcome(real[name]), outcome(own[name])
        excused = name in STRICTER or wanted == CRASH
        refuses = wanted.startswith("success") or wanted == CRASH
        if wanted == found or (excused and refuses and not found.startswith("success") and found != CRASH):
            if name in STRICTER and wanted == found:
                print(f"{name}: not stricter than cuDNN, which answers {wanted}")
                different += 1
            stricter += wanted != found
            continue
        different += 1
        print(f"{name}: cuDNN answers {wanted}, the stand-in {found}")
    unknown = STRICTER.keys() - CASES.keys()
    print(f"{len(CASES)} cases: {different} differ, {stricter} are refused by the stand-in only")
    sys.exit(1 if different or unknown else 0)


if __name__ == "__main__":
    main()
