"""FFCV in its JPEG mode. Its writer reencodes every image at quality 90."""

import pathlib

import torch
from common import BATCH, SIDE, count, serve, versions
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import RandomHorizontalFlip, ToTensor
from ffcv.writer import DatasetWriter
from torchvision.datasets import ImageFolder


def build(job):
    torch.set_num_threads(1)
    beton = pathlib.Path(job.folder).with_suffix(".beton")
    fields = {"image": RGBImageField(write_mode="jpg"), "label": IntField()}
    DatasetWriter(str(beton), fields, num_workers=1).from_indexed_dataset(ImageFolder(job.folder))
    image = [RandomResizedCropRGBImageDecoder((SIDE, SIDE)), RandomHorizontalFlip(), ToTensor()]
    pipelines = {"image": image, "label": [IntDecoder(), ToTensor()]}
    loader = Loader(
        str(beton),
        BATCH,
        num_workers=1,
        order=OrderOption.RANDOM,
        pipelines=pipelines,
        drop_last=False,
    )
    return lambda: count(loader)


if __name__ == "__main__":
    serve(build, versions("ffcv", "opencv-python"))
