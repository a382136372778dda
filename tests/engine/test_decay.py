from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from dlfb_lab.engine.decay import read_mask
from dlfb_lab.errors import OptionError

PARAMS = {
    "encoder": {"dense": {"kernel": np.ones((2, 3)), "bias": np.ones(3)}, "norm": {"scale": np.ones(3)}},
    "head": [np.ones((3, 1)), np.ones(())],
}


def chosen(mask: Any) -> list[bool]:
    """Returns what decays, in the order bias, kernel, scale, head's first, head's second."""
    found = mask(PARAMS)
    assert jax.tree.structure(found) == jax.tree.structure(PARAMS)
    return jax.tree.leaves(found)


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (None, [False, True, False, True, False]),
        ("weights", [False, True, False, True, False]),
        ("all", [True] * 5),
        ("*/kernel", [False, True, False, False, False]),
        ("encoder/*, head/0", [True, True, True, True, False]),
        (jax.tree.map(lambda leaf: leaf.ndim == 0, PARAMS), [False] * 4 + [True]),
        (lambda params: jax.tree.map(lambda leaf: leaf.shape == (3,), params), [True, False, True, False, False]),
    ],
)
def test_what_decays(asked: Any, wanted: list[bool]) -> None:
    assert chosen(read_mask(asked)) == wanted


def test_equal_masks_are_equal() -> None:
    tree = jax.tree.map(lambda leaf: True, PARAMS)
    assert read_mask(tree) == read_mask(jax.tree.map(lambda leaf: True, PARAMS))
    assert read_mask("*/kernel") == read_mask("*/kernel")
    assert len({read_mask(asked) for asked in (None, "all", "*/kernel", "*/bias")}) == 4
    assert read_mask(None) == read_mask("weights")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("kernels", "--decay-mask kernels: no parameter is called so; there are encoder/dense/bias"),
        ("*/kernel,", "--decay-mask : no parameter"),
        ({"encoder": True}, "--decay-mask: it says nothing of encoder/dense/bias"),
    ],
)
def test_a_mask_that_does_not_fit_the_parameters_is_refused(asked: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        read_mask(asked)(PARAMS)


@pytest.mark.parametrize("asked", [3, {"a": 1.0}, [], {"a": "kernel"}])
def test_what_is_no_mask_is_refused(asked: Any) -> None:
    with pytest.raises(OptionError, match="--decay-mask: give all, weights, a pattern"):
        read_mask(asked)
