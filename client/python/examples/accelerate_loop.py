"""Trains with Accelerate, whose checkpoints have the position of the loader.

    accelerate launch accelerate_loop.py /data/train [FOLDER] [STEPS]

With STEPS, it stops after as many steps and saves its state to FOLDER; without, it continues from FOLDER.
"""

import sys

import torch
from accelerate import Accelerator

import forebay.torch


def main() -> None:
    path, folder, steps = [*sys.argv[1:], None, None][:3]
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    torch.manual_seed(0)
    torch.set_num_threads(1)
    changes = {"image_size": 64, "batch": 32, "microbatches": 2}
    loader = forebay.torch.Loader(
        str(path), device=accelerator.device, recipe="a3", set=changes,
        rank=accelerator.process_index, world=accelerator.num_processes,
    )
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(),
        torch.nn.Linear(128, len(loader.classes)),
    )
    # The loader is not prepared: it gives each process its own images, on its device.
    model, optimizer = accelerator.prepare(network, torch.optim.SGD(network.parameters(), lr=0.1))
    accelerator.register_for_checkpointing(loader)
    if folder and not steps:
        accelerator.load_state(folder)
    done = 0
    while loader.loader.epoch < 2:
        for images, targets in loader:
            loss = torch.nn.functional.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            accelerator.print(loss.item().hex(), flush=True)
            done += 1
            if steps and done == int(steps):
                accelerator.save_state(folder)
                return
    loader.close()


if __name__ == "__main__":
    main()
