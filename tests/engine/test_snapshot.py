"""Going on from a snapshot: bit by bit what would have come without it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlfb_lab import assemble
from dlfb_lab.assemble import TrainRequest
from dlfb_lab.checkpoints.arrays import restore, save
from dlfb_lab.engine import loop, resident
from dlfb_lab.engine.snapshot import Snapshot, arrays_of, differences, into
from dlfb_lab.engine.trainer import Trained
from dlfb_lab.errors import StoreError
from dlfb_lab.events import Evaluation, Event, Losses
from dlfb_lab.record import Record

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype(np.float32)
Y = (X @ [1.0, -2.0, 0.5] + 0.1 * RNG.normal(size=40)).astype(np.float32)


class Noisy(nn.Module):
    """Dropout, and statistics across rows."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))
        return nn.Dense(1)(nn.Dropout(0.5, deterministic=not train)(x))


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(1)(x)


class Kept:
    """Keeps the snapshots of some steps, and of the end."""

    def __init__(self, *steps: int) -> None:
        self.steps, self.snapshots = set(steps), dict[int, Snapshot]()

    def due(self, step: int, ending: bool, better: bool = False) -> bool:
        return step in self.steps or ending

    def steps_until(self, step: int) -> int:
        return min([wanted - step for wanted in self.steps if wanted > step], default=sys.maxsize)

    def save(self, snapshot: Snapshot) -> None:
        self.snapshots[int(snapshot.place["step"])] = snapshot

    def news(self) -> Iterator[Event]:
        yield from ()


def train(
    model: Any, data: Any, kept: Kept | None = None, snapshot: Snapshot | None = None, **options: Any
) -> tuple[list[Event], Trained]:
    session, _ = assemble.session(TrainRequest(model=model, data=data, **options))
    events = loop.train(
        session.experiment, session.plan, session.control, session.trainer, "id", checkpointer=kept, snapshot=snapshot
    )
    told = []
    while True:
        try:
            told.append(next(events))
        except StopIteration as end:
            return told, end.value


def same(one: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def losses(events: list[Event]) -> dict[int, tuple[float, ...]]:
    """The loss of each step, and of each member."""
    found = {}
    for event in events:
        if isinstance(event, Losses):
            rows = event.members or [event.losses]
            for place in range(len(event.losses)):
                found[event.first_step + place] = tuple(float(row[place]) for row in rows)
    return found


def scores(events: list[Event], after: int) -> list[tuple[int, Any, Any]]:
    return [(e.step, e.metrics, e.members) for e in events if isinstance(e, Evaluation) and e.step > after]


def batches() -> Iterator[Any]:
    for at in (0, 16, 32):
        yield X[at : at + 16], Y[at : at + 16]


def on_disk(folder: Path) -> Any:
    np.save(folder / "x.npy", X)
    return np.load(folder / "x.npy", mmap_mode="r"), Y


def own_step(state: Any, batch: Any, rng: jax.Array) -> Any:
    x, y = batch

    def loss(w: jax.Array) -> jax.Array:
        return jnp.mean((x @ w + 0.1 * jax.random.normal(rng) - y) ** 2)

    value, gradient = jax.value_and_grad(loss)(state["w"])
    key, _ = jax.random.split(state["key"])
    return {"w": state["w"] - 0.1 * gradient, "key": key, "n": state["n"] + 1}, value


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (Noisy(), {"plan": "step"}),
        (Noisy(), {"plan": "fused"}),
        (Noisy(), {}),
        (Linear(), {"plan": "fused", "seeds": 3}),
        (Linear(), {"plan": "fused", "sweep": "lr=0.1,0.01"}),
        (Noisy(), {"early_stop": "loss:50"}),
        (Linear(), {"early_stop": "loss:50", "seeds": 2}),
        (Linear(), {"optimizer": "sgd", "lr": "find"}),
        (Linear(), {"accumulate": 3, "schedule": "cosine", "warmup": 4}),
        (Linear(), {"batch_size": "full", "epochs": 9}),
        ("own", {}),
        ("drawn outside", {}),
        ("on disk", {}),
        ("stream", {}),
        ("stream", {"seeds": 2}),
    ],
)
def test_what_follows_is_what_would_have_followed(
    model: Any, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data: Any = (X, Y)
    given: dict[str, Any] = {"epochs": 6, "batch_size": 16, "valid": 0.2, "seed": 3, "lr": 0.05}
    if model == "own":
        state = {"w": jnp.zeros(3), "key": jax.random.key(1), "n": jnp.int32(0)}
        model, given = None, {"epochs": 6, "batch_size": 16, "seed": 3, "state": state, "step": own_step}
    if model == "on disk":
        model, data = Noisy(), on_disk(tmp_path)
        monkeypatch.setattr("dlfb_lab.assemble.fits_on_device", lambda tree: False)
    if model == "stream":
        model, data, given = Noisy(), batches, {**given, "valid": (X, Y), "task": "regression"}
        del given["batch_size"]
    if model == "drawn outside":
        model = Noisy()
        monkeypatch.setattr(resident, "MOST_DRAWN_INSIDE", 8)
    given |= options
    steps = (2, 7)
    kept = Kept(*steps)
    whole, trained = train(model, data, kept, **given)
    expected = losses(whole)
    assert set(steps) < set(kept.snapshots), "the last is saved too"
    assert max(kept.snapshots) == len(expected)
    for step in steps:
        snapshot = kept.snapshots[step]
        json.dumps(snapshot.place, allow_nan=False)
        saved = save(tmp_path, step, snapshot.arrays, metrics=snapshot.metrics, place=snapshot.place)
        assert saved.manifest is not None
        back = Snapshot(restore(saved), saved.manifest.place, saved.manifest.metrics)
        again = Kept()
        events, result = train(model, data, again, back, **given)
        assert losses(events) == {at: value for at, value in expected.items() if at >= step}
        assert scores(events, step) == scores(whole, step)
        same(result.params, trained.params)
        same(result.opt_state, trained.opt_state)
        assert result.step == trained.step
        last = again.snapshots[len(expected)]
        same(last.arrays, kept.snapshots[len(expected)].arrays)
        assert last.place == kept.snapshots[len(expected)].place


def test_nothing_is_left_to_do_after_the_last() -> None:
    kept = Kept()
    options: dict[str, Any] = {"epochs": 3, "batch_size": 16, "valid": 0.2, "lr": 0.05}
    _, trained = train(Noisy(), (X, Y), kept, **options)
    events, again = train(Noisy(), (X, Y), None, kept.snapshots[6], **options)
    assert losses(events) == {}
    assert scores(events, -1) == []
    same(again.params, trained.params)


def test_a_snapshot_is_not_touched_by_what_follows() -> None:
    kept = Kept(3)
    options: dict[str, Any] = {"epochs": 4, "batch_size": 8, "lr": 0.05}
    train(Linear(), (X, Y), kept, **options)
    before = {name: array.copy() for name, array in kept.snapshots[3].arrays.items()}
    train(Linear(), (X, Y), None, kept.snapshots[3], **options)
    same(kept.snapshots[3].arrays, before)


def test_what_was_saved_of_another_model_is_refused() -> None:
    kept = Kept(3)
    options: dict[str, Any] = {"epochs": 4, "batch_size": 8, "lr": 0.05}
    train(Linear(), (X, Y), kept, **options)
    with pytest.raises(StoreError, match=r"not the one that was saved: .*kernel has shape \(3, 1\), not \(2, 1\)"):
        train(Linear(), (X[:, :2], Y), None, kept.snapshots[3], **options)
    with pytest.raises(StoreError, match=r"opt_state.* is (missing|not needed)"):
        train(Linear(), (X, Y), None, kept.snapshots[3], optimizer="sgd", **options)


def test_nothing_is_saved_where_nobody_asks() -> None:
    events, _ = train(Linear(), (X, Y), epochs=2)
    assert Record(events).step


def test_leaves_of_every_kind_come_back() -> None:
    tree = {
        "params": [jnp.ones((2, 3)), (jnp.arange(3), None)],
        "half": jnp.ones(2, jnp.bfloat16),
        "key": jax.random.split(jax.random.key(3, impl="rbg"), 2),
        "0": jnp.zeros((0, 2)),
        "1": optax.EmptyState(),
    }
    arrays = arrays_of(tree, "now")
    assert differences(tree, arrays, "now") == []
    back = into(jax.tree.map(jnp.zeros_like, tree), arrays, "now")
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for one, other in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        assert one.dtype == other.dtype
        same(*(jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a for a in (one, other)))


def test_differences_are_told_leaf_by_leaf() -> None:
    tree = {"a": jnp.ones(2), "b": jnp.ones(2), "c": jnp.ones(2), "d": jnp.ones(2)}
    arrays = arrays_of(tree, "now")
    arrays["now/a"] = np.ones(3, np.float32)
    arrays["now/b"] = np.ones(2, np.float64)
    arrays["now/e"] = arrays.pop("now/c")
    arrays["best/z"] = np.ones(1)
    assert differences(tree, arrays, "now") == [
        "now/a has shape (3,), not (2,)",
        "now/b is float64, not float32",
        "now/c is missing",
        "now/e is not needed",
    ]
