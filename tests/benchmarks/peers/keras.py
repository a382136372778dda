"""(c) Keras on the JAX backend: `model.fit`, compiled once, called again."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from workloads import LEARNING_RATE, Workload

os.environ["KERAS_BACKEND"] = "jax"


def prepare(workload: Workload) -> Callable[[int], dict[str, Any]]:
    import jax
    import keras

    x, y = workload.data()
    layers = [keras.layers.Dense(width, activation="relu") for width in workload.settings["hidden"]]
    outputs = keras.layers.Dense(workload.settings["classes"])
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers, outputs])
    model.compile(
        optimizer=keras.optimizers.Adam(LEARNING_RATE),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )

    def train(epochs: int) -> dict[str, Any]:
        # Goes on with the weights it has: a new model would be compiled again.
        done = model.fit(x, y, batch_size=workload.batch, epochs=epochs, shuffle=True, verbose=0)
        return {
            "steps": -(-len(x) // workload.batch) * epochs,
            "last_loss": float(done.history["loss"][-1]),
            "device": jax.default_backend(),
        }

    return train
