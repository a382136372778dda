"""The training program: several steps, on data that stay on the device, in one dispatch.

The number of steps is an argument of the program, not a part of it. So one
compilation serves every dispatch, and numbers cannot depend on how steps were
divided into dispatches.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlfb_lab.engine.losses import Loss
from dlfb_lab.engine.programs import Program
from dlfb_lab.models.model import Apply, PyTree

CAPACITY = 8192
"""Most steps in one dispatch: the length of the block of losses that comes back."""


class Carry(NamedTuple):
    """What one step hands to the next. All arrays.

    Attributes:
        params: what is trained.
        extra: other collections, such as batch statistics.
        opt_state: the optimizer's state.
        step: updates applied, shape [], int32.
        row: rows of this epoch already used, shape [], int32.
        epoch: epochs completed, shape [], int32.
        order: this epoch's order of the rows, shape [rows, padded to whole batches], int32.
    """

    params: PyTree
    extra: PyTree
    opt_state: PyTree
    step: jax.Array
    row: jax.Array
    epoch: jax.Array
    order: jax.Array


def start(params: PyTree, extra: PyTree, opt_state: PyTree, order_length: int) -> Carry:
    """Returns the carry before the first step."""
    # Each counter is an array of its own: a donated buffer must not appear twice.
    step, row, epoch = (jax.device_put(np.zeros((), np.int32)) for _ in range(3))
    return Carry(params, extra, opt_state, step, row, epoch, jax.device_put(np.zeros(order_length, np.int32)))


def random_order(key: jax.Array, rows: int) -> jax.Array:
    """Returns the numbers below `rows` in random order, shape [rows], int32.

    A plain sort of random bits with the row number in the low bits takes a quarter of the time of an argsort, and
    that half the time of `jax.random.permutation`. Each round adds random bits, until ties are as rare as with keys
    of twice the bits of a row number.
    """
    row_bits = max(1, (rows - 1).bit_length())
    if row_bits > 20:
        return jnp.argsort(jax.random.bits(key, (rows,))).astype(jnp.int32)
    low = (1 << row_bits) - 1
    order = jnp.arange(rows, dtype=jnp.uint32)
    for round_ in range(math.ceil((2 * row_bits - 1) / (32 - row_bits))):
        bits = jax.random.bits(jax.random.fold_in(key, round_), (rows,), jnp.uint32)
        keys = jax.lax.sort((bits & ~jnp.uint32(low)) | jnp.arange(rows, dtype=jnp.uint32))
        order = order[keys & jnp.uint32(low)]
    return order.astype(jnp.int32)


def training_program(
    model_key: Hashable,
    apply: Apply,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    rows: int,
    batch: int,
    order_length: int,
    mask_padding: bool,
    shuffle: bool,
    target_shape: tuple[int, ...],
) -> Program:
    """Builds `(carry, x, y, order_key, step_key, count) -> (carry, losses)`.

    Args:
        model_key: see `Model.key`.
        apply: the model's function.
        loss: what is minimised: the mean over the batch's rows.
        optimizer: what turns gradients into updates.
        rows: training rows.
        batch: rows per step.
        order_length: length of the carry's order.
        mask_padding: whether the last batch of an epoch is filled up with rows that do not count.
        shuffle: whether every epoch takes the rows in a new random order.
        target_shape: shape of a batch's targets after the first axis.
    """
    update = optax.with_extra_args_support(optimizer).update

    def batch_loss(
        params: PyTree, extra: PyTree, x: PyTree, y: jax.Array, counts: jax.Array | None, rng: jax.Array
    ) -> Any:
        outputs, extra = apply(params, extra, x, rng, True)
        values = loss.function(outputs, y.reshape(y.shape[0], *target_shape))
        if counts is None:
            return values.mean(), extra
        return jnp.where(counts, values, 0).sum() / counts.sum(), extra

    def new_order(order_key: jax.Array, epoch: jax.Array) -> jax.Array:
        order = random_order(jax.random.fold_in(order_key, epoch), rows)
        return jnp.pad(order, (0, order_length - rows), mode="wrap") if order_length > rows else order

    def one_step(carry: Carry, x: PyTree, y: jax.Array, order_key: jax.Array, step_key: jax.Array) -> Any:
        order = carry.order
        if batch < rows:
            if shuffle:
                order = jax.lax.cond(carry.row == 0, lambda: new_order(order_key, carry.epoch), lambda: order)
            chosen = jax.lax.dynamic_slice(order, (carry.row,), (batch,))
            x, y = jax.tree.map(lambda a: a[chosen], (x, y))
        counts = carry.row + jnp.arange(batch) < rows if mask_padding else None
        rng = jax.random.fold_in(step_key, carry.step)
        (value, extra), gradients = jax.value_and_grad(batch_loss, has_aux=True)(
            carry.params, carry.extra, x, y, counts, rng
        )
        updates, opt_state = update(gradients, carry.opt_state, carry.params, value=value)
        params = optax.apply_updates(carry.params, updates)
        row = carry.row + batch
        over = row >= rows
        return Carry(
            params, extra, opt_state, carry.step + 1, jnp.where(over, 0, row), carry.epoch + over, order
        ), value

    def steps(
        carry: Carry, x: PyTree, y: jax.Array, order_key: jax.Array, step_key: jax.Array, count: jax.Array
    ) -> Any:
        def body(i: jax.Array, loop: tuple[Carry, jax.Array]) -> tuple[Carry, jax.Array]:
            carry, values = loop
            carry, value = one_step(carry, x, y, order_key, step_key)
            return carry, values.at[i].set(value.astype(values.dtype))

        return jax.lax.fori_loop(0, count, body, (carry, jnp.zeros(CAPACITY)))

    key = (model_key, loss, optimizer, rows, batch, order_length, mask_padding, shuffle, target_shape)
    return Program("train step", key, steps, donate=(0,))
