"""Trains with the Trainer of Hugging Face's transformers.

    python hf_trainer.py /data/train OUTPUT
"""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

import forebay.torch


class Images(forebay.torch.Loader):
    """Batches as the Trainer passes them to a model: by the names of its arguments."""

    def __iter__(self) -> Iterator[Any]:
        return ({"pixel_values": images, "labels": targets} for images, targets in super().__iter__())


class ImageTrainer(Trainer):
    """A Trainer whose batches are made by forebay."""

    def __init__(self, *args: Any, images: Images, **kwargs: Any) -> None:
        super().__init__(*args, train_dataset=images.dataset, **kwargs)
        self.images = images

    def get_train_dataloader(self) -> Any:
        return self.images


class Classifier(torch.nn.Module):
    """A small network."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(),
            torch.nn.Linear(128, classes),
        )

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.network(pixel_values)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def main() -> None:
    path, output = sys.argv[1:]
    changes = {"image_size": 64, "batch": 32, "microbatches": 2}
    with Images(path, recipe="a3", set=changes) as images:
        arguments = TrainingArguments(
            output, num_train_epochs=2, use_cpu=True, logging_steps=1, save_strategy="no", report_to="none",
            disable_tqdm=True, per_device_train_batch_size=images.batch_size,
        )
        trainer = ImageTrainer(Classifier(len(images.classes)), arguments, images=images)
        trainer.train()
        print(f"{trainer.state.global_step} steps, {trainer.state.epoch} epochs")


if __name__ == "__main__":
    main()
