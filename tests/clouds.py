"""One small problem for four frameworks: two Gaussian clouds, told apart by a linear model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

POINTS = 1_000
RATE = 0.1
STEPS = 40
Array = np.ndarray[Any, Any]


def clouds() -> tuple[Array, Array]:
    """Returns points, shape [2000, 2], and their targets 0 and 1, shape [2000, 1], both float32."""
    rng = np.random.default_rng(0)
    covariance = [[1, 0.5], [0.5, 1]]
    points = [rng.multivariate_normal(mean, covariance, POINTS) for mean in ([0, 3], [3, 0])]
    targets = np.repeat([0, 1], POINTS)[:, None]
    return np.concatenate(points).astype(np.float32), targets.astype(np.float32)


def weights() -> Array:
    """Returns the first W, shape [2, 1], float32, from uniform(2, 1). The first b is zero."""
    return np.random.default_rng(1).uniform(size=(2, 1)).astype(np.float32)


def expected_losses() -> list[float]:
    """Returns the mean squared error before each full-batch step of gradient descent, by plain NumPy in float64."""
    x, y = clouds()
    w, b, losses = weights().astype(np.float64), 0.0, []
    for _ in range(STEPS):
        error = x @ w + b - y
        losses.append(float((error**2).mean()))
        w, b = w - RATE * 2 * x.T @ error / len(x), b - RATE * 2 * error.mean()
    return losses


def torch_model() -> Any:
    """Returns the linear model as a PyTorch module, with the first weights."""
    import torch

    model = torch.nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(weights().T.copy()))
        model.bias.zero_()
    return model


def keras_model() -> Any:
    """Returns the linear model as a Keras model on whatever backend, with the first weights."""
    import keras

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.set_weights([weights(), np.zeros(1, np.float32)])
    return model


def in_keras(backend: str, code: str) -> Any:
    """Runs code in a new interpreter whose Keras has that backend, and returns what it gave to `answer`.

    Raises:
        AssertionError: the code failed.
    """
    head = "import json\nimport numpy as np\nimport keras\ndef answer(value): print('ANSWER' + json.dumps(value))\n"
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", head + code], capture_output=True, text=True, check=False, env=environment, cwd=root
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.rpartition("ANSWER")[2])
