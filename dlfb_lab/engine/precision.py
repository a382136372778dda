"""The precision of a model's arithmetic. Parameters, statistics, loss and updates stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dlfb_lab.errors import OptionError, nearest
from dlfb_lab.models.model import Apply, Model, PyTree
from dlfb_lab.models.wrapped import WrappedModel

FIRST_WITH_TF32 = 8.0
"""Compute capability of NVIDIA's Ampere."""


@dataclass(frozen=True)
class MixedPrecision:
    """A model's function computed in bfloat16 (Micikevicius et al. 2018; Kalamkar et al. 2019).

    Parameters and inputs are rounded on their way in, and outputs come back as float32, so that gradients reach the
    parameters in their own dtype. Other collections go in unrounded: a running mean must not lose its digits.

    Attributes:
        apply: the model's own.
    """

    apply: Apply

    def __call__(self, params: PyTree, extra: PyTree, x: PyTree, rng: jax.Array, train: bool) -> tuple[Any, PyTree]:
        """See `Apply`."""
        outputs, after = self.apply(_rounded(params), extra, _rounded(x), rng, train)
        outputs = jax.tree.map(lambda a: a.astype(jnp.float32) if _dtype(a) == jnp.bfloat16 else a, outputs)
        after = jax.tree.map(
            lambda new, old: new.astype(old.dtype) if _dtype(new) != _dtype(old) else new, after, extra
        )
        return outputs, after


@dataclass(frozen=True)
class Products:
    """A model's function with matrix products of a certain precision; everything else is float32 as ever.

    Attributes:
        apply: the model's own.
        precision: as `jax.default_matmul_precision` takes it.
    """

    apply: Apply
    precision: str

    def __call__(self, params: PyTree, extra: PyTree, x: PyTree, rng: jax.Array, train: bool) -> tuple[Any, PyTree]:
        """See `Apply`."""
        with jax.default_matmul_precision(self.precision):
            return self.apply(params, extra, x, rng, train)


KINDS: dict[str, Callable[[Apply], Apply]] = {
    "bf16": MixedPrecision,
    "tf32": lambda apply: Products(apply, "tensorfloat32"),
    "f32": lambda apply: Products(apply, "float32"),
}


def with_precision(model: Model, kind: Any) -> Model:
    """Returns the model with its arithmetic in a precision, `--precision`; as it is for None.

    Raises:
        OptionError: there is no such precision.
    """
    if kind is None:
        return model
    name = kind.lower() if isinstance(kind, str) else ""
    if name not in KINDS:
        hint = nearest(name, KINDS) if name else ""
        raise OptionError(f"--precision {kind}: there is no such precision.{hint} Known: {', '.join(KINDS)}.")
    return WrappedModel(model, ("precision", name), KINDS[name](model.apply))


def notice(kind: str | None, device: Any = None) -> str | None:
    """Returns a sentence about what a precision does not do on a device, or None.

    Args:
        kind: one of `KINDS`, or None.
        device: a JAX device; the first one if left out.
    """
    device = jax.devices()[0] if device is None else device
    here = f"This device ({device.device_kind}, {device.platform})"
    if kind == "tf32" and not _knows_tf32(device):
        return f"{here} knows no TF32; matrix products are computed in its usual precision."
    if kind == "bf16" and device.platform == "cpu":
        return f"{here} seldom computes faster in bfloat16 than in float32."
    return None


def _knows_tf32(device: Any) -> bool:
    try:
        return float(device.compute_capability) >= FIRST_WITH_TF32
    except (AttributeError, TypeError, ValueError):  # no GPU, or one of another maker
        return False


def _rounded(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda a: a.astype(jnp.bfloat16) if _dtype(a) in (jnp.float32, jnp.float64) else a, tree)


def _dtype(leaf: Any) -> Any:
    return getattr(leaf, "dtype", None)
