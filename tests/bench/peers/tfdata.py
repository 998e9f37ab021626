"""tf.data: decode_and_crop_jpeg and a bicubic resize; with `service`, by a tf.data service."""

import multiprocessing
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import tensorflow as tf  # noqa: E402
from common import BATCH, RATIO, SCALE, SIDE, count, serve, versions  # noqa: E402


def one_thread():
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def sample(path):
    data = tf.io.read_file(path)
    box, size, _ = tf.image.sample_distorted_bounding_box(
        tf.io.extract_jpeg_shape(data),
        bounding_boxes=tf.zeros([1, 0, 4]),
        aspect_ratio_range=RATIO,
        area_range=SCALE,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat([box[:2], size[:2]], axis=0)
    pixels = tf.io.decode_and_crop_jpeg(data, window, channels=3)
    pixels = tf.image.resize(pixels, [SIDE, SIDE], "bicubic")
    pixels = tf.image.random_flip_left_right(pixels)
    return tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), tf.uint8)


def worker(dispatcher):
    """A process of its own, as deployed."""
    one_thread()
    service = tf.data.experimental.service
    service.WorkerServer(service.WorkerConfig(dispatcher_address=dispatcher)).join()


def build(job):
    one_thread()
    files = job.files()
    data = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files)).map(sample).batch(BATCH)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    data = data.with_options(options)
    if "service" in job.options:
        service = tf.data.experimental.service
        job.dispatcher = service.DispatchServer()  # lives as long as the job
        address = job.dispatcher.target.split("://")[1]
        spawn = multiprocessing.get_context("spawn")
        spawn.Process(target=worker, args=(address,), daemon=True).start()
        data = data.apply(
            service.distribute(service.ShardingPolicy.OFF, job.dispatcher.target, compression=None)
        )
    return lambda: count((pixels,) for pixels in data)


if __name__ == "__main__":
    serve(build, versions("tensorflow-cpu"))
