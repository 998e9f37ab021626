"""torchvision's transforms v2, on tensors by decode_jpeg, or on Pillow's images with `pil`."""

import torch
from common import RATIO, SCALE, SIDE, count, loader, serve, versions
from PIL import Image
from torch.utils.data import default_collate
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import InterpolationMode, v2


class Files(torch.utils.data.Dataset):
    def __init__(self, job, transform):
        self.files, self.transform = job.files(), transform
        self.load = self.pil if "pil" in job.options else self.tensor

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return self.transform(self.load(self.files[index])), index % 1000

    @staticmethod
    def pil(path):
        return Image.open(path).convert("RGB")

    @staticmethod
    def tensor(path):
        return decode_jpeg(read_file(path), mode=ImageReadMode.RGB)


def build(job):
    torch.set_num_threads(1)
    steps = [
        v2.RandomResizedCrop(SIDE, SCALE, RATIO, InterpolationMode.BICUBIC),
        v2.RandomHorizontalFlip(),
    ]
    if job.augmented:
        # As timm: two operations, each with probability 1/2, magnitude 7 of 10.
        op = v2.RandAugment(1, magnitude=21, interpolation=InterpolationMode.BILINEAR)
        steps += [v2.RandomApply([op], p=0.5)] * 2
    steps.append(v2.ToImage())
    collate = default_collate
    if job.mixed:
        steps.append(v2.ToDtype(torch.float32, scale=True))  # MixUp takes floats
        mix = v2.RandomChoice(
            [v2.MixUp(alpha=0.1, num_classes=1000), v2.CutMix(alpha=1.0, num_classes=1000)]
        )

        def collate(samples):
            return mix(*default_collate(samples))

    batches = loader(Files(job, v2.Compose(steps)), collate_fn=collate)
    return lambda: count(batches)


if __name__ == "__main__":
    serve(build, versions("torchvision", "torch", "pillow"))
