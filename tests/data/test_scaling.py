from __future__ import annotations

import numpy as np
import pytest

from dlfb_lab.data.scaling import Scaling, device_inputs, flattened
from dlfb_lab.errors import DataError

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


def test_images_are_scaled_by_channel_and_so_are_whole_numbers() -> None:
    x = {
        "image": RNG.normal(3, 2, size=(10, 4, 4, 2)).astype(np.float32),
        "pixels": RNG.integers(0, 256, size=(10, 4, 4, 3), dtype=np.uint8),
        "count": np.arange(10, dtype=np.int32),
    }
    scaling = Scaling.fit(x)
    assert scaling.mean["image"].shape == (2,)
    for name, scaled in scaling.apply(x).items():
        assert scaled.dtype == np.float32, name
        axes = tuple(range(max(1, scaled.ndim - 1)))
        np.testing.assert_allclose(scaled.mean(axes), 0, atol=1e-5)
        np.testing.assert_allclose(scaled.std(axes), 1, atol=1e-5)


def test_the_digits_of_float64_are_kept_until_it_is_scaled() -> None:
    noise = RNG.normal(size=(50, 2))
    scaled = device_inputs(1e8 + noise, Scaling.fit(1e8 + noise))
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, (noise - noise.mean(0)) / noise.std(0), atol=1e-4)


def test_without_scaling_float64_is_rounded_and_whole_numbers_stay() -> None:
    x = {"a": np.ones((3, 2)), "b": np.ones(3, np.int32), "c": np.ones(3, np.uint8)}
    assert [a.dtype for a in device_inputs(x, None).values()] == [np.float32, np.int32, np.uint8]


def test_a_number_too_large_for_the_device_is_refused() -> None:
    with pytest.raises(DataError, match=r"x holds 1e\+39, too large for the 32-bit numbers"):
        device_inputs(np.array([[1.0], [1e39]]), None)


def test_columns_that_rounding_flattens_are_found() -> None:
    x = np.stack([1e9 + RNG.normal(size=20), RNG.normal(size=20), np.ones(20)], axis=1)
    ((name, lost),) = flattened(x)
    assert (name, lost.tolist()) == ("", [0])
    assert not list(flattened(x.astype(np.float32)))


def test_one_number_a_row_is_scaled() -> None:
    x = np.arange(5, dtype=np.float32)
    np.testing.assert_allclose(Scaling.fit(x).apply(x), (x - 2) / np.sqrt(2), rtol=1e-6)
