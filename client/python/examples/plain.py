"""Trains in plain PyTorch, from a path or from servers, and prints the bits of each loss.

    python plain.py /data/train
    python plain.py http://data-0:50051 http://data-1:50051      # whose dataset is named train
"""

import sys

import torch

import forebay.torch

source, dataset = (sys.argv[1], None) if len(sys.argv) == 2 else (sys.argv[1:], "train")
changes = {"image_size": 64, "batch": 32, "microbatches": 2}
torch.manual_seed(0)
torch.set_num_threads(1)
with forebay.torch.Loader(source, dataset=dataset, recipe="a3", set=changes) as loader:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(),
        torch.nn.Linear(128, len(loader.classes)),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _epoch in range(2):
        for images, targets in loader:
            loss = torch.nn.functional.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(loss.item().hex(), flush=True)
