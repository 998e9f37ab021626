"""Trains with DistributedDataParallel: each rank takes its microbatches of every step.

    torchrun --nproc-per-node 2 ddp.py /data/train

All ranks of a host share one server, which decodes each image once.
"""

import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import forebay.torch


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda":
        torch.cuda.set_device(dist.get_rank() % torch.cuda.device_count())
    changes = {"image_size": 64, "batch": 32, "microbatches": 4}
    torch.manual_seed(0)
    # Rank and world are those of torch.distributed.
    with forebay.torch.Loader(sys.argv[1], device=device, recipe="a3", set=changes) as loader:
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(),
            torch.nn.Linear(128, len(loader.classes)),
        )
        model = DistributedDataParallel(network.to(device))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for epoch in range(2):
            loader.set_epoch(epoch)
            for images, targets in loader:
                loss = torch.nn.functional.cross_entropy(model(images), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        total = sum(parameter.double().sum() for parameter in model.parameters())
        print(f"rank {dist.get_rank()}: {len(loader)} steps an epoch, {float(total).hex()}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
