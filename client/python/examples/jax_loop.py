"""Trains in JAX, with batches sharded over the local devices.

    python jax_loop.py /data/train
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import forebay.jax


def loss_of(weights: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
    images = batch["image"].reshape(len(batch["image"]), -1)
    return -jnp.mean(jnp.sum(batch["target"] * jax.nn.log_softmax(images @ weights), axis=1))


@jax.jit
def step(weights: jax.Array, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    loss, gradient = jax.value_and_grad(loss_of)(weights, batch)
    return weights - 1e-4 * gradient, loss


def main() -> None:
    devices = Mesh(np.asarray(jax.local_devices()), "batch")
    sharding = NamedSharding(devices, PartitionSpec("batch"))
    changes = {"image_size": 32, "batch": 32, "microbatches": 2}
    with forebay.jax.Loader(sys.argv[1], recipe="a3", set=changes, sharding=sharding) as loader:
        weights = jnp.zeros((32 * 32 * 3, len(loader.loader.classes)))
        for _epoch in range(2):
            for batch in loader:
                weights, loss = step(weights, batch)
                print(f"{float(loss):.6f} on {len(batch['image'].sharding.device_set)} devices")


if __name__ == "__main__":
    main()
