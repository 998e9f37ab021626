"""Trains with Lightning: a DataModule that gives forebay's loaders, which resume within an epoch.

    python lightning_module.py /data [CHECKPOINTS] [STEPS]

/data has the folders train and val. With STEPS, it stops after as many steps and saves a checkpoint; without, it
continues from that, if there is one. Lightning saves the state of the training loader in its checkpoints.
"""

import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import forebay.torch

CHANGES: dict[str, object] = {"image_size": 64, "batch": 32, "microbatches": 2}


class Images(lightning.LightningDataModule):
    """Images of a folder with `train` and `val`."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def setup(self, stage: str) -> None:
        self.train = forebay.torch.Loader(f"{self.folder}/train", recipe="a3", set=CHANGES)
        self.val = forebay.torch.Loader(f"{self.folder}/val", recipe="eval", set=CHANGES, targets="index")

    def train_dataloader(self) -> forebay.torch.Loader:
        return self.train

    def val_dataloader(self) -> forebay.torch.Loader:
        return self.val

    def teardown(self, stage: str) -> None:
        self.train.close()
        self.val.close()


class Classifier(lightning.LightningModule):
    """A small network."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(),
            torch.nn.Linear(128, classes),
        )

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        images, targets = batch
        loss = torch.nn.functional.cross_entropy(self.network(images), targets)
        print(f"{self.global_step} {loss.item().hex()}", flush=True)
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        images, labels = batch
        self.log("accuracy", (self.network(images).argmax(1) == labels).float().mean(), batch_size=len(labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main() -> None:
    folder, checkpoints, steps = [*sys.argv[1:], None, None][:3]
    lightning.seed_everything(0)
    torch.set_num_threads(1)
    callbacks: list[Any] = []
    if checkpoints and steps:
        callbacks.append(ModelCheckpoint(checkpoints, filename="last", every_n_train_steps=int(steps)))
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=2, max_steps=int(steps or -1), logger=False, callbacks=callbacks,
        enable_checkpointing=bool(callbacks), enable_progress_bar=False, enable_model_summary=False,
    )
    saved = Path(f"{checkpoints}/last.ckpt")
    resumed = str(saved) if saved.exists() and not steps else None
    classes = sum(entry.is_dir() for entry in Path(f"{folder}/train").iterdir())
    trainer.fit(Classifier(classes), datamodule=Images(str(folder)), ckpt_path=resumed, weights_only=False)


if __name__ == "__main__":
    main()
