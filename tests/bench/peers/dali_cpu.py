"""NVIDIA DALI on the CPU: partial decode, cubic resize with antialiasing, its RandAugment."""

from common import BATCH, RATIO, SCALE, SIDE, serve, versions
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.auto_aug import rand_augment


@pipeline_def(
    batch_size=BATCH,
    num_threads=1,
    device_id=None,
    enable_conditionals=True,
    prefetch_queue_depth=1,
    exec_async=False,  # computes a batch on request, so that its work counts for its own pass
    exec_pipelined=False,
)
def pipeline(job):
    data, labels = fn.readers.file(file_root=str(job.folder), random_shuffle=True)
    pixels = fn.decoders.image_random_crop(
        data, device="cpu", output_type=types.RGB, random_area=SCALE, random_aspect_ratio=RATIO
    )
    pixels = fn.resize(pixels, size=(SIDE, SIDE), interp_type=types.INTERP_CUBIC)
    pixels = fn.flip(pixels, horizontal=fn.random.coin_flip())
    if job.augmented:
        # As timm: two operations, each with probability 1/2, magnitude 7 of 10.
        for _ in range(2):
            if fn.random.coin_flip(dtype=types.BOOL):
                pixels = rand_augment.rand_augment(pixels, n=1, m=21, fill_value=128)
    return pixels, labels


def build(job):
    made = pipeline(job)
    made.build()
    batches = len(job.files()) // BATCH

    def run():
        images = 0
        for _ in range(batches):
            pixels, _ = made.run()
            images += len(pixels)
        return images

    return run


if __name__ == "__main__":
    serve(build, versions("nvidia-dali-cuda120"))
