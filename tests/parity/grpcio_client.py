"""Reads forebay with a stock gRPC client: grpcio and stubs by grpcio-tools, with default limits.

    python grpcio_client.py HOST:PORT --dataset NAME --dump dump.safetensors
        [--recipe a2] [--set ASSIGNMENT]... [--seed 0] [--epoch 0] [--step 0] [--microbatch 0]

Calls Describe, Fetch and Stream; joins frames; checks order, sizes and XXH3; compares both with each
other and with what `forebay dump` wrote for the same name. Exits 1 on any difference.
"""

import argparse
import importlib
import pathlib
import sys
import tempfile

import grpc
import numpy as np
import xxhash
from grpc_tools import protoc
from safetensors import safe_open

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"
LIMIT = 4 * 1024 * 1024  # the default limit of grpcio on a received message
FRAME = 1024 * 1024


def stubs():
    """Generates messages and stubs from the repository's .proto file."""
    out = tempfile.mkdtemp()
    command = ["protoc", f"-I{PROTO}", f"--python_out={out}", f"--grpc_python_out={out}", "forebay/v1/forebay.proto"]
    if protoc.main(command):
        raise SystemExit("grpcio-tools cannot compile forebay/v1/forebay.proto")
    sys.path.insert(0, out)
    return importlib.import_module("forebay.v1.forebay_pb2"), importlib.import_module("forebay.v1.forebay_pb2_grpc")


def check(right, what):
    if not right:
        raise SystemExit(f"FAILED: {what}")


def microbatches(frames):
    """Joins frames; returns (header, payload) of each microbatch."""
    header, payload, count, largest = None, bytearray(), 0, 0
    for frame in frames:
        count, largest = count + 1, max(largest, frame.ByteSize())
        if frame.HasField("header"):
            check(header is None, "a microbatch starts before the last one is whole")
            header, payload = frame.header, bytearray()
        check(header is not None, "the first frame has no header")
        check(frame.offset == len(payload), f"offset {frame.offset} after {len(payload)} bytes")
        check(len(frame.payload) <= FRAME, f"a payload of {len(frame.payload)} bytes")
        payload += frame.payload
        check(len(payload) <= header.payload_bytes, "more bytes than the header says")
        if len(payload) == header.payload_bytes:
            check(xxhash.xxh3_64_intdigest(bytes(payload)) == header.payload_xxh3, "XXH3 differs")
            yield header, bytes(payload)
            header = None
    check(header is None, "the last microbatch is cut off")
    check(largest < LIMIT, f"a frame of {largest} bytes passes grpcio's default limit")
    print(f"  {count} frames, the largest {largest} bytes, every XXH3 correct")


def equals_dump(header, payload, path):
    with safe_open(path, "np") as file:
        dump = {key: file.get_tensor(key) for key in file.keys()}
    pixels = np.frombuffer(payload, dtype=np.uint8).reshape(header.shape)
    check(pixels.shape == dump["pixels"].shape, f"shape {pixels.shape}, dump {dump['pixels'].shape}")
    check((pixels == dump["pixels"]).all(), f"{int((pixels != dump['pixels']).sum())} pixel values differ from the dump")
    sent = {"record": header.records, "label_a": header.label_a, "label_b": header.label_b, "lambda": header.lambda_}
    for name, values in sent.items():
        check((np.array(values, dtype=dump[name].dtype) == dump[name]).all(), f"{name} differs from the dump")
    print(f"  equal to the dump: pixels {pixels.shape}, {', '.join(sent)}")


class Header:
    """The header with its field `lambda`, a keyword of Python, as `lambda_`."""

    def __init__(self, message):
        self.message = message

    def __getattr__(self, name):
        return getattr(self.message, name.rstrip("_"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("endpoint")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--dump", type=pathlib.Path, required=True)
    parser.add_argument("--recipe", default="a2")
    parser.add_argument("--set", action="append", default=[], metavar="ASSIGNMENT")
    for name in ("seed", "epoch", "step", "microbatch"):
        parser.add_argument(f"--{name}", type=int, default=0)
    args = parser.parse_args()
    pb, services = stubs()
    job = pb.Job(dataset=args.dataset, recipe=pb.Recipe(name=args.recipe, set=args.set), seed=args.seed)
    with grpc.insecure_channel(args.endpoint) as channel:
        service = services.ForebayServiceStub(channel)
        facts = service.Describe(pb.DescribeRequest(job=job), timeout=300)
        print(f"Describe: {facts.records} records, {len(facts.classes)} classes, {facts.steps_per_epoch} steps of "
              f"{facts.batch} in {facts.microbatches} microbatches, {facts.image_size} px")
        check(len(facts.dataset_digest) == len(facts.recipe_digest) == 32, "digests are 32 bytes")
        job.dataset_digest, job.recipe_digest = facts.dataset_digest, facts.recipe_digest

        print("Fetch:")
        request = pb.FetchRequest(job=job, epoch=args.epoch, step=args.step, microbatch=args.microbatch)
        fetched = list(microbatches(service.Fetch(request, timeout=300)))
        check(len(fetched) == 1, f"{len(fetched)} microbatches fetched, not one")
        header, payload = fetched[0]
        check((header.epoch, header.step, header.microbatch) == (args.epoch, args.step, args.microbatch), "another name")
        check(header.recipe_digest == facts.recipe_digest and header.dataset_digest == facts.dataset_digest, "other digests")
        equals_dump(Header(header), payload, args.dump)

        print("Stream:")
        request = pb.StreamRequest(job=job, epoch=args.epoch, step=args.step, steps=2)
        streamed = list(microbatches(service.Stream(request, timeout=300)))
        names = [(h.epoch, h.step, h.microbatch) for h, _ in streamed]
        steps = [divmod(args.epoch * facts.steps_per_epoch + args.step + k, facts.steps_per_epoch) for k in range(2)]
        check(names == [(*s, g) for s in steps for g in range(facts.microbatches)], f"order {names}")
        same = [p for (h, p), name in zip(streamed, names) if name == (args.epoch, args.step, args.microbatch)]
        check(same == [payload], "Stream and Fetch give different bytes for one name")
        print(f"  {len(names)} microbatches in order; the fetched one has the same bytes")
    print("a stock grpcio client under default limits reads everything")


if __name__ == "__main__":
    main()
