"""The order of the rows."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from dlfb_lab.engine.step import random_order


@pytest.mark.parametrize("rows", [1, 2, 3, 100, 2048, 4097])
def test_an_order_has_every_row_once(rows: int) -> None:
    order = np.asarray(random_order(jax.random.key(1), rows))
    assert order.dtype == np.int32
    assert sorted(order.tolist()) == list(range(rows))


def test_more_rows_than_fit_beside_random_bits_are_ordered_too() -> None:
    rows = 2**20 + 3
    order = np.asarray(random_order(jax.random.key(1), rows))
    assert np.array_equal(np.sort(order), np.arange(rows))


def test_every_place_is_as_likely_for_every_row() -> None:
    keys = jax.random.split(jax.random.key(3), 6000)
    orders = np.asarray(jax.vmap(lambda key: random_order(key, 5))(keys))
    counts = np.stack([np.bincount(orders[:, place], minlength=5) for place in range(5)])
    # Each count is binomial(6000, 0.2): standard deviation 31.
    assert abs(counts - 1200).max() < 5 * 31


@pytest.mark.parametrize("rows", [2000, 50_000])
def test_neighbours_ascend_as_often_as_they_descend(rows: int) -> None:
    orders = [np.asarray(random_order(jax.random.key(seed), rows)) for seed in range(20)]
    ascending = np.mean([(np.diff(order) > 0).mean() for order in orders])
    # The share over n independent orders has a standard deviation of about 1 / sqrt(12 n rows).
    assert abs(ascending - 0.5) < 5 / np.sqrt(12 * 20 * rows)
