"""Keras on JAX, and a run's history in the shape of Keras's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dlfb_lab.events import Evaluation, Losses
from dlfb_lab.models import keras
from dlfb_lab.record import Record


@pytest.mark.guests
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_keras_on_jax() -> None:
    pytest.importorskip("keras")
    environment = {**os.environ, "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/models/keras_jax_cases.py"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
def test_keras_on_another_backend_is_left_to_its_guest(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other: Any = SimpleNamespace(Model=SimpleNamespace, config=SimpleNamespace(backend=lambda: backend))
    monkeypatch.setitem(sys.modules, "keras", other)
    assert keras.adapt(SimpleNamespace()) is None


def test_history_in_the_shape_of_keras() -> None:
    record = Record()
    assert keras.keras_history(record, 2) == {}
    record.put(Evaluation(step=0, split="valid", metrics={"loss": 9.0}, rows=1, duration_s=0.1))
    for step, (loss, accuracy) in enumerate([(1.0, 0.1), (3.0, 0.2), (5.0, 0.3), (7.0, 0.4), (8.0, 0.5)]):
        parts = {"accuracy": np.array([accuracy])}
        record.put(Losses(step=step + 1, first_step=step, losses=np.array([loss]), duration_s=9.0, parts=parts))
        if step in (1, 3):
            scores = {"loss": 10.0 + step, "accuracy": 0.5}
            record.put(Evaluation(step=step + 1, split="valid", metrics=scores, rows=1, duration_s=0.1))
    assert keras.keras_history(record, 2) == {
        "loss": [2.0, 6.0, 8.0],
        "accuracy": [0.2, 0.4, 0.5],
        "val_loss": [11.0, 13.0],
        "val_accuracy": [0.5, 0.5],
    }
    assert keras.keras_history(record, 0) == {}, "an epoch whose length is not known"
