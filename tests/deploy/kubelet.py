"""Runs the pods of a manifest as a kubelet does, with the real binaries, on this machine.

Each container is process 1 of a namespace, with the image's few libraries as its root, read-only; its
volumes are mounted where the manifest says, with the owner and mode that Kubernetes gives; it runs as the
manifest's user and may gain no privileges. Not imitated: images, the network policy, limits on memory.
"""

import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

# Seconds that only a hang exceeds, however busy the machine.
HANG = 300

# Mounts a container's root and the list of its mounts (source, target, options), makes the root read-only, and runs
# the container.
STAGE = r"""
set -eu
root=$1 list=$2 user=$3; shift 3
mount --bind "$root" "$root"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
while IFS='|' read -r from to options; do
  mount --bind "$from" "$root$to"
  mount -o "remount,bind,$options" "$root$to"
done < "$list"
mount -o remount,bind,ro,nosuid "$root"
exec setpriv --no-new-privs chroot --userspec="$user:$user" --groups="$user" "$root" "$@"
"""


class Cluster:
    """The environment of pods: ConfigMaps and Secrets by name, folders of claims, binaries by image."""

    def __init__(self, folder, objects, binaries, claims=None, secrets=None, hosts=()):
        self.folder = pathlib.Path(folder)
        self.binaries = binaries
        self.claims = claims or {}
        self.secrets = secrets or {}
        self.hosts = hosts
        self.configs = {o["metadata"]["name"]: o["data"] for o in objects if o["kind"] == "ConfigMap"}

    def pod(self, spec, annotations=None, name="pod"):
        return Pod(self, spec, annotations or {}, name)


class Pod:
    def __init__(self, cluster, spec, annotations, name):
        self.cluster, self.spec, self.annotations, self.name = cluster, spec, annotations, name
        self.folder = cluster.folder / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.group = spec["securityContext"]["fsGroup"]
        self.volumes = {volume["name"]: self.volume(volume) for volume in spec.get("volumes", [])}

    def volume(self, volume):
        """The folder with the content of a volume."""
        here = self.folder / "volumes" / volume["name"]
        here.mkdir(parents=True)
        if "configMap" in volume:
            project(here, self.cluster.configs[volume["configMap"]["name"]], 0o644, 0)
        elif "secret" in volume:
            secret = volume["secret"]
            project(here, self.cluster.secrets[secret["secretName"]], secret["defaultMode"], self.group)
        elif "persistentVolumeClaim" in volume:
            return self.cluster.claims[volume["persistentVolumeClaim"]["claimName"]]
        elif "emptyDir" in volume:
            own(here, self.group)
        else:
            raise AssertionError(f"unsupported volume: {volume}")
        return here

    def rotate(self, volume, data):
        """Replaces the content of a Secret atomically, as the kubelet does."""
        mode = next(v for v in self.spec["volumes"] if v["name"] == volume)["secret"]["defaultMode"]
        project(self.volumes[volume], data, mode, self.group)

    def run_init(self, timeout):
        for container in self.spec.get("initContainers", []):
            self.start(container).succeed(timeout)

    def start(self, container=None, stdout=None):
        container = container or self.spec["containers"][0]
        return Container(self, container, stdout)

    def user(self, container):
        locked = {**self.spec["securityContext"], **container["securityContext"]}
        assert locked["readOnlyRootFilesystem"] and not locked["allowPrivilegeEscalation"]
        return locked["runAsUser"]

    def environment(self, container):
        env = {}
        for entry in container.get("env", []):
            source = entry.get("valueFrom", {})
            if "fieldRef" in source:
                key = re.fullmatch(r"metadata\.annotations\['(.*)'\]", source["fieldRef"]["fieldPath"])[1]
                value = self.annotations[key]
            elif "resourceFieldRef" in source:
                kind, resource = source["resourceFieldRef"]["resource"].split(".")
                value = str(cores(container["resources"][kind][resource]))
            else:
                value = expand(entry["value"], env)
            env[entry["name"]] = value
        return env


class Container:
    """A started container, which its caller must end by `succeed`, `stop` or `kill`."""

    def __init__(self, pod, container, stdout):
        self.pod, self.container = pod, container
        self.name = container["name"]
        image = container["image"].rpartition(":")[0]
        binary = pathlib.Path(pod.cluster.binaries[image])
        root = pod.folder / "roots" / self.name
        inside = f"/usr/local/bin/{image.rpartition('/')[2]}"
        mounts = image_root(root, binary, inside, pod.cluster.hosts)
        for mount in container.get("volumeMounts", []):
            options = "ro" if mount.get("readOnly") else "rw"
            mounts.append((pod.volumes[mount["name"]], mount["mountPath"], f"{options},nosuid,nodev"))
            (root / mount["mountPath"].strip("/")).mkdir(parents=True, exist_ok=True)
        mount_list = root.with_suffix(".mounts")
        mount_list.write_text("".join(f"{a}|{b}|{c}\n" for a, b, c in mounts))
        env = pod.environment(container)
        arguments = [expand(argument, env) for argument in container.get("args", [])]
        base = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOSTNAME": pod.name, "HOME": "/home/nonroot"}
        variables = [f"{key}={value}" for key, value in {**base, **env}.items()]
        command = ["unshare", "--mount", "--pid", "--fork", "--propagation=private"]
        command += ["sh", "-c", STAGE, "stage", root, mount_list, str(pod.user(container))]
        # `env` of this machine sets the environment, because the image has no such program.
        command += ["/bin/env", "-i", *variables, inside, *arguments]
        self.log = root.with_suffix(".log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout or log, stderr=log)

    def succeed(self, timeout):
        """Waits for the end, and checks that the container succeeded."""
        try:
            code = self.process.wait(timeout)
        finally:
            self.kill()
        assert code == 0, f"{self.name} ended with {code}:\n{self.said()}"
        return self

    def said(self):
        return self.log.read_text(errors="replace")[-4000:]

    def until_said(self, words, seconds):
        end = time.monotonic() + seconds
        while words not in self.said():
            assert time.monotonic() < end, f"{self.name} did not say {words!r}:\n{self.said()}"
            time.sleep(0.1)

    def pid(self):
        """The process 1 of the container's namespace."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text().split()[0])

    def until(self, probe, seconds, what):
        """Runs a probe as the kubelet does until it succeeds."""
        end = time.monotonic() + seconds
        while not self.probe(probe):
            assert self.process.poll() is None, f"{self.name} ended before it was {what}:\n{self.said()}"
            assert time.monotonic() < end, f"{self.name} was not {what} in {seconds} s:\n{self.said()}"
            time.sleep(0.1)

    def probe(self, kind):
        """Runs a probe of the manifest once."""
        probe = self.container[kind]
        timeout = probe.get("timeoutSeconds", 1)
        if "grpc" in probe:
            return grpc_health(probe["grpc"]["port"], probe["grpc"].get("service", ""), timeout)
        ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        return http(ports[probe["httpGet"]["port"]], probe["httpGet"]["path"], timeout)[0] == 200

    def stop(self):
        """Sends SIGTERM. Returns the exit code and the seconds until it, at most the pod's grace period."""
        begin = time.monotonic()
        os.kill(self.pid(), 15)
        code = self.process.wait(self.pod.spec.get("terminationGracePeriodSeconds", 30))
        return code, time.monotonic() - begin

    def kill(self):
        # The signal goes to the container, not to unshare: its child would outlive it, because changing the user
        # resets the parent-death signal.
        if self.process.poll() is None:
            os.kill(self.pid(), 9)
            self.process.wait()


def grpc_health(port, service, timeout=1):
    """Whether a service is SERVING, by the health check of the kubelet's gRPC probe."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout)
        except grpc.RpcError:
            return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING


def http(port, path, timeout=1):
    """Returns the status, or 0 without an answer, and the body."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


def image_root(root, binary, inside, hosts):
    """The files of an image based on distroless/cc: the libraries of the binary, and a few files in /etc."""
    for folder in ("proc", "dev", "etc", "tmp", "bin", "home/nonroot", "usr/local/bin", "lib64"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    env = pathlib.Path(shutil.which("env"))
    for program in (binary, env):
        for library in re.findall(r"(/\S+) \(", subprocess.check_output(["ldd", program], text=True)):
            copy = root / library.lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, copy)
    shutil.copy(env, root / "bin/env")
    (root / inside.lstrip("/")).touch()
    (root / "etc/passwd").write_text("nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n")
    (root / "etc/nsswitch.conf").write_text("hosts: files\n")
    (root / "etc/hosts").write_text("".join(f"127.0.0.1 {host}\n" for host in ("localhost", *hosts)))
    mounts = [(binary.resolve(), inside, "ro,nosuid,nodev")]
    for device in ("null", "urandom"):
        (root / "dev" / device).touch()
        mounts.append((f"/dev/{device}", f"/dev/{device}", "rw,nosuid"))
    return mounts


def project(folder, data, mode, group):
    """Writes the files of a ConfigMap or Secret as the kubelet does, as links into a folder that is swapped."""
    new = folder / f"..{time.monotonic_ns()}"
    new.mkdir()
    for key, text in data.items():
        file = new / key
        file.write_text(text)
        file.chmod(mode)
        os.chown(file, 0, group)
        if not (folder / key).is_symlink():
            (folder / key).symlink_to(f"..data/{key}")
    link = folder / "..data_tmp"
    link.symlink_to(new.name)
    link.rename(folder / "..data")


def own(folder, group):
    """Sets the group of a volume, as fsGroup does."""
    os.chown(folder, 0, group)
    os.chmod(folder, 0o2775)


def cores(quantity):
    """A quantity of CPU, rounded up."""
    text = str(quantity)
    return math.ceil(int(text[:-1]) / 1000 if text.endswith("m") else float(text))


def expand(text, env):
    """`$(NAME)`."""
    return re.sub(r"\$\((\w+)\)", lambda match: env.get(match[1], match[0]), text)


def locked(pid):
    """Returns the kernel's view of a process: user, privileges, whether its root is read-only."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    field = lambda name: re.search(rf"^{name}:\s*(.*)$", status, re.M)[1]
    root = next(line for line in pathlib.Path(f"/proc/{pid}/mountinfo").read_text().splitlines() if line.split()[4] == "/")
    return {
        "uids": set(field("Uid").split()),
        "groups": field("Groups").split(),
        "capabilities": int(field("CapEff"), 16),
        "no_new_privileges": field("NoNewPrivs") == "1",
        "root": root.split()[5].split(",")[0],
        "first": field("NSpid").split()[-1] == "1",
    }


def report(text):
    return json.loads(text[text.index("{"):])
