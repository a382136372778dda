"""The training programs: what one update computes, on its own or many times in one dispatch.

The number of steps of a fused dispatch is an argument of the program, not a part
of it. So one compilation serves every dispatch, and numbers cannot depend on how
steps were divided into dispatches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlfb_lab.engine.asking import asked
from dlfb_lab.engine.losses import Loss
from dlfb_lab.engine.optimizers import Optimizer
from dlfb_lab.engine.products import with_small_products_as_sums
from dlfb_lab.engine.programs import Program
from dlfb_lab.models.model import Apply, PyTree, Stepper, Values

CAPACITY = 8192
"""Most steps in one block."""

MOST_SCALARS = 2**16
"""In one block, of all members."""

Hyper = dict[str, jax.Array]


@dataclass(frozen=True)
class Step:
    """One update as a pure function, which holds no arrays.

    Attributes:
        key: steps with equal keys compute the same.
        function: (state, batch, counts, rng, epoch_begins, hyper) to (state, scalars by name, "loss" among them).
            `counts` says which rows of the batch count, shape [batch], bool; None where all do.
        per_row: whether `counts` can be given.
    """

    key: Hashable
    function: Callable[[PyTree, PyTree, jax.Array | None, jax.Array, jax.Array, Hyper], tuple[PyTree, Values]]
    per_row: bool = False


class ModelState(NamedTuple):
    """The state of a `Model` in training.

    Attributes:
        params: what is trained.
        extra: other collections, such as batch statistics.
        opt_state: the optimizer's state.
    """

    params: PyTree
    extra: PyTree
    opt_state: PyTree


def model_step(
    model_key: Hashable, apply: Apply, loss: Loss, optimizer: Optimizer, target_shape: tuple[int, ...]
) -> Step:
    """Returns the update of a model: the gradient of the mean loss over the batch's rows, and the optimizer.

    Args:
        model_key: see `Model.key`.
        apply: the model's function.
        loss: what is minimised.
        optimizer: what turns gradients into updates.
        target_shape: shape of a batch's targets after the first axis.
    """

    def batch_loss(params: PyTree, extra: PyTree, batch: PyTree, counts: jax.Array | None, rng: jax.Array) -> Any:
        x, y = batch
        outputs, extra = apply(params, extra, x, rng, True)
        values = loss.function(outputs, y.reshape(y.shape[0], *target_shape))
        if counts is None:
            return values.mean(), extra
        return jnp.where(counts, values, 0).sum() / counts.sum(), extra

    def update(
        state: ModelState,
        batch: PyTree,
        counts: jax.Array | None,
        rng: jax.Array,
        epoch_begins: jax.Array,
        hyper: Hyper,
    ) -> tuple[ModelState, Values]:
        params, extra, opt_state = state
        (value, extra), gradients = jax.value_and_grad(batch_loss, has_aux=True)(params, extra, batch, counts, rng)
        transformation = optax.with_extra_args_support(optimizer.make(dict(hyper)))
        updates, opt_state = transformation.update(gradients, opt_state, params, value=value)
        return ModelState(optax.apply_updates(params, updates), extra, opt_state), {"loss": value}

    return Step((model_key, loss, optimizer.key, target_shape), update, loss.per_row)


def own_step(stepper: Stepper) -> Step:
    """Returns the update that a stepper brings along."""
    # The function alone: the stepper holds the user's own state, which a kept program must not keep alive.
    step = stepper.step

    def update(
        state: PyTree,
        batch: PyTree,
        counts: jax.Array | None,
        rng: jax.Array,
        epoch_begins: jax.Array,
        hyper: Hyper,
    ) -> tuple[PyTree, Values]:
        return step(state, batch, rng, epoch_begins)

    return Step(stepper.key, update)


class Carry(NamedTuple):
    """What one step hands to the next. All arrays; with members, state and order have them as their first axis.

    Attributes:
        state: what is trained, and what goes with it.
        order: this epoch's order of the rows, shape [rows, padded to whole batches], int32.
        step: updates applied, shape [], int32.
        row: rows of this epoch already used, shape [], int32.
        epoch: epochs completed, shape [], int32.
    """

    state: PyTree
    order: jax.Array
    step: jax.Array
    row: jax.Array
    epoch: jax.Array


class Keys(NamedTuple):
    """What random numbers come from; with members, a key each.

    As plain numbers, uint32: a program that is given typed keys is called in a way that takes longer than a small step.

    Attributes:
        order: of the order of the rows.
        step: that each step's key is folded from.
    """

    order: jax.Array
    step: jax.Array


def start(state: PyTree, order_length: int, members: int = 0) -> Carry:
    """Returns the carry before the first step."""
    # Each counter is an array of its own: a donated buffer must not appear twice.
    step, row, epoch = (jax.device_put(np.zeros((), np.int32)) for _ in range(3))
    shape = (members, order_length) if members else (order_length,)
    return Carry(state, jax.device_put(np.zeros(shape, np.int32)), step, row, epoch)


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


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How rows on the device become batches.

    Attributes:
        rows: training rows.
        batch: rows per step.
        order_length: length of the carry's order.
        mask_padding: whether the last batch of an epoch is filled up with rows that do not count.
        members: models that are trained at once; 0 for one without that axis.
        sharding: how the rows of a batch lie on several devices; None for one device.
        draws: whether the program draws a new order at the first step of an epoch; else `order_program` does.
    """

    rows: int
    batch: int
    order_length: int
    mask_padding: bool
    members: int = 0
    sharding: Any = None
    draws: bool = True

    @property
    def whole(self) -> bool:
        """Whether a batch is all the rows there are, in their own order."""
        return self.batch >= self.rows


def _new_order(batching: Batching, key: jax.Array, epoch: jax.Array) -> jax.Array:
    rows, length = batching.rows, batching.order_length
    order = random_order(jax.random.fold_in(jax.random.wrap_key_data(key), epoch), rows)
    return jnp.pad(order, (0, length - rows), mode="wrap") if length > rows else order


def order_program(batching: Batching) -> Program:
    """Builds `(key, epoch) -> order`: the order of an epoch's rows, shape [order_length] or [members, order_length].

    Sorting takes several times the memory of the order; many rows had better not have that in every step.
    """

    def draw(key: jax.Array, epoch: jax.Array) -> jax.Array:
        return _new_order(batching, key, epoch)

    function = jax.vmap(draw, in_axes=(0, None)) if batching.members else draw
    return Program("order of the rows", batching, function)


def names_of(values: Values) -> tuple[str, ...]:
    """Returns the names of a step's scalars, "loss" first."""
    return ("loss", *(name for name in values if name != "loss"))


def _one(step: Step, batching: Batching) -> Callable[..., tuple[Carry, jax.Array]]:
    """Returns (carry, data, keys, hyper) to (carry, scalars, shape [names] or [members, names])."""
    rows, batch = batching.rows, batching.batch
    update = with_small_products_as_sums(step.function) if batching.members else step.function

    def member(
        state: PyTree, order: jax.Array, keys: Keys, hyper: Hyper, clock: tuple[jax.Array, ...], data: PyTree
    ) -> Any:
        at, row, epoch = clock
        if not batching.whole:
            if batching.draws:
                order = jax.lax.cond(row == 0, lambda: _new_order(batching, keys.order, epoch), lambda: order)
            chosen = jax.lax.dynamic_slice(order, (row,), (batch,))
            data = jax.tree.map(lambda a: a[chosen], data)
        if batching.sharding is not None:
            data = jax.lax.with_sharding_constraint(data, batching.sharding)
        counts = row + jnp.arange(batch) < rows if batching.mask_padding else None
        rng = jax.random.fold_in(jax.random.wrap_key_data(keys.step), at)
        state, values = update(state, data, counts, rng, row == 0, hyper)
        return state, order, stacked(values)

    mapped = jax.vmap(member, in_axes=(0, 0, 0, 0, None, None)) if batching.members else member

    def one(carry: Carry, data: PyTree, keys: Keys, hyper: Hyper) -> tuple[Carry, jax.Array]:
        clock = carry.step, carry.row, carry.epoch
        state, order, values = mapped(carry.state, carry.order, keys, hyper, clock, data)
        row = carry.row + batch
        over = row >= rows
        return Carry(state, order, carry.step + 1, jnp.where(over, 0, row), carry.epoch + over), values

    return one


def stacked(values: Values) -> jax.Array:
    """Returns a step's scalars in one array, shape [names]."""
    dtype = jnp.zeros(()).dtype
    return jnp.stack([jnp.asarray(values[name]).astype(dtype).reshape(()) for name in names_of(values)])


def single_program(step: Step, batching: Batching) -> Program:
    """Builds `(carry, data, keys, hyper) -> (carry, scalars)`: one update on data that stay on the device."""
    return Program("train step", (step.key, batching), _one(step, batching), donate=(0,))


def fused_program(step: Step, batching: Batching, names: int, asks: bool = False) -> Program:
    """Builds `(carry, data, keys, hyper, count) -> (carry, block)`: `count` updates in one dispatch.

    Args:
        step: one update.
        batching: how rows become batches.
        names: how many scalars a step gives.
        asks: whether it takes a further argument, the number of an `Asker` that may end it after any step, and also
            returns how many steps there were.

    Returns:
        The block's shape is [`capacity`, names] or [`capacity`, members, names]; what is beyond `count` is zero.
    """
    one = _one(step, batching)
    shape = (capacity(batching.members, names), *([batching.members] if batching.members else []), names)

    def steps(carry: Carry, data: PyTree, keys: Keys, hyper: Hyper, count: jax.Array) -> Any:
        def body(i: jax.Array, loop: tuple[Carry, jax.Array]) -> tuple[Carry, jax.Array]:
            carry, block = loop
            carry, values = one(carry, data, keys, hyper)
            return carry, block.at[i].set(values)

        return jax.lax.fori_loop(0, count, body, (carry, jnp.zeros(shape)))

    def asking_steps(
        carry: Carry, data: PyTree, keys: Keys, hyper: Hyper, count: jax.Array, number: jax.Array
    ) -> tuple[Carry, jax.Array, jax.Array]:
        def goes_on(loop: tuple[jax.Array, jax.Array, Carry, jax.Array]) -> jax.Array:
            i, on, _, _ = loop
            return (i < count) & on

        def body(loop: tuple[jax.Array, jax.Array, Carry, jax.Array]) -> tuple[jax.Array, jax.Array, Carry, jax.Array]:
            i, _, carry, block = loop
            carry, values = one(carry, data, keys, hyper)
            return i + 1, asked(number), carry, block.at[i].set(values)

        first = jnp.zeros((), jnp.int32), jnp.ones((), bool), carry, jnp.zeros(shape)
        done, _, carry, block = jax.lax.while_loop(goes_on, body, first)
        return carry, block, done

    key = (step.key, batching, names, asks)
    return Program("fused train steps", key, asking_steps if asks else steps, donate=(0,))


def capacity(members: int, names: int) -> int:
    """Returns the most steps of one fused dispatch."""
    return max(64, min(CAPACITY, MOST_SCALARS // (max(1, members) * names)))


def streamed_program(step: Step, sharding: Any = None, members: int = 0) -> Program:
    """Builds `(state, batch, counts, key, step, epoch_begins, hyper) -> (state, scalars)`: one update on a batch.

    Args:
        step: one update.
        sharding: how the rows of a batch lie on several devices; None for one device.
        members: models that learn from the same batches; 0 for one without that axis.
    """
    update = with_small_products_as_sums(step.function) if members else step.function

    def one(
        state: PyTree,
        batch: PyTree,
        counts: jax.Array | None,
        key: jax.Array,
        at: jax.Array,
        epoch_begins: jax.Array,
        hyper: Hyper,
    ) -> Any:
        if sharding is not None:
            batch = jax.lax.with_sharding_constraint(batch, sharding)
        rng = jax.random.fold_in(jax.random.wrap_key_data(key), at)
        state, values = update(state, batch, counts, rng, epoch_begins, hyper)
        return state, stacked(values)

    function = jax.vmap(one, in_axes=(0, None, None, 0, None, None, 0)) if members else one
    return Program("train step", ("streamed", step.key, sharding, members), function, donate=(0,))
