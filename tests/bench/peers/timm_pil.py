"""timm's loader: Pillow, timm's transforms, uint8 batches, timm's FastCollateMixup."""

import torch
from common import BATCH, RANDAUGMENT, SIDE, count, serve, versions
from timm.data import FastCollateMixup, ImageDataset, create_loader


def build(job):
    torch.set_num_threads(1)
    mixup = FastCollateMixup(mixup_alpha=0.1, cutmix_alpha=1.0, label_smoothing=0.0)
    loader = create_loader(
        ImageDataset(str(job.folder)),
        (3, SIDE, SIDE),
        BATCH,
        is_training=True,
        color_jitter=0.0,
        auto_augment=RANDAUGMENT if job.augmented else None,
        interpolation="bicubic",
        collate_fn=mixup if job.mixed else None,
        num_workers=1,
        device=torch.device("cpu"),
    )
    # The prefetcher around it makes floats of the batches, on the device.
    return lambda: count(loader.loader)


if __name__ == "__main__":
    serve(build, versions("timm", "pillow", "torch"))
