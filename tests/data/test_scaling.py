from __future__ import annotations

import json

import numpy as np

from dlfb_lab.data.scaling import Scaling

RNG = np.random.default_rng(0)


def test_features_are_standardised_with_their_own_statistics() -> None:
    x = (RNG.normal(size=(50, 3)) * [1, 100, 1e-3] + [5, -1000, 0]).astype(np.float32)
    scaled = Scaling.fit(x).apply(x)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, (x - x.mean(0, dtype=float)) / x.std(0, dtype=float), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(0), 1, atol=1e-5)


def test_a_constant_feature_becomes_zero() -> None:
    for constant in (0.0, 3.0, 1e7, 0.1):
        x = np.stack([np.full(100, constant), RNG.normal(size=100)], axis=1).astype(np.float32)
        np.testing.assert_array_equal(Scaling.fit(x).apply(x)[:, 0], 0)


def test_large_values_of_small_spread_keep_their_digits() -> None:
    x = (1e6 + np.arange(8.0)).astype(np.float32)[:, None]
    np.testing.assert_allclose(Scaling.fit(x).apply(x)[:, 0], (np.arange(8) - 3.5) / np.arange(8).std(), rtol=1e-6)


def test_images_are_scaled_by_channel_and_integers_left_alone() -> None:
    x = {"image": RNG.normal(3, 2, size=(10, 4, 4, 2)).astype(np.float32), "code": np.arange(10, dtype=np.int32)}
    scaling = Scaling.fit(x)
    assert scaling.mean["image"].shape == (2,)
    scaled = scaling.apply(x)
    np.testing.assert_array_equal(scaled["code"], x["code"])
    np.testing.assert_allclose(scaled["image"].mean((0, 1, 2)), 0, atol=1e-5)


def test_one_number_a_row_is_scaled() -> None:
    x = np.arange(5, dtype=np.float32)
    np.testing.assert_allclose(Scaling.fit(x).apply(x), (x - 2) / np.sqrt(2), rtol=1e-6)


def test_statistics_survive_json_exactly() -> None:
    x = RNG.normal(size=(20, 3)).astype(np.float32)
    scaling = Scaling.fit(x)
    again = Scaling.from_json(json.loads(json.dumps(scaling.to_json())))
    np.testing.assert_array_equal(again.apply(x), scaling.apply(x))
