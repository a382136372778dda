"""Data that come in batches, from `dlfb_lab.train` to the run: the same numbers whoever makes the batches."""

from __future__ import annotations

import gc
import math
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anndata
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

import dlfb_lab
from dlfb_lab.data import lazy, prefetch, stream
from dlfb_lab.data.lazy import ArrayRows
from dlfb_lab.data.prefetch import Prefetch
from dlfb_lab.errors import DataError, DlfbLabError, ModelError, OptionError
from dlfb_lab.run import Run

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5], np.float32)).astype(np.float32)
BATCHES = [(X[i : i + 16], Y[i : i + 16]) for i in (0, 16, 32)]


class Linear(nn.Module):
    outputs: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.outputs)(x)


def by_hand(epochs: int, batches: Any = BATCHES, rate: float = 0.1) -> list[float]:
    """Returns the losses of a loop of one's own, from the parameters that a run with seed 0 starts from."""
    params = start()
    optimizer = optax.sgd(rate)
    state, losses = optimizer.init(params), []

    def loss(params: Any, x: Any, y: Any) -> Any:
        return ((Linear().apply({"params": params}, x)[:, 0] - y) ** 2).mean()

    for _ in range(epochs):
        for x, y in batches:
            value, gradients = jax.value_and_grad(loss)(params, x, y)
            updates, state = optimizer.update(gradients, state)
            params = optax.apply_updates(params, updates)
            losses.append(float(value))
    return losses


def start() -> Any:
    return {"Dense_0": {"kernel": jnp.ones((3, 1)), "bias": jnp.zeros(1)}}


def trained(data: Any, **options: Any) -> Run:
    given: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1, "init_from": start(), **options}
    return dlfb_lab.train(Linear(), data, **given)


def losses(run: Run) -> Any:
    return run.history["train/loss"].dropna().to_numpy()


def notices(run: Run) -> str:
    return "\n".join(notice.text for notice in run.record.notices)


@pytest.fixture(scope="module")
def listed() -> Run:
    return trained(BATCHES, epochs=2, valid=(X, Y))


def test_a_list_of_batches_has_the_losses_of_a_loop_of_ones_own(listed: Run) -> None:
    np.testing.assert_allclose(losses(listed), by_hand(2), rtol=1e-5)
    started = listed.record.started
    assert started is not None
    assert (started.steps_total, started.steps_per_epoch, started.batch_size) == (6, 3, 16)
    assert "a list, batches of 16" in started.task_sentence
    assert list(listed.history["valid/loss"].dropna().index) == [0, 3, 6]
    assert listed.record.plans[-1].plan == "streamed"
    assert len([c for c in listed.record.compilations if "train step" in c.program]) == 1
    assert listed.predict(X[:5]).shape == (5,)
    assert listed.evaluate(BATCHES)["loss"] == pytest.approx(listed.history["valid/loss"].dropna().iloc[-1], rel=1e-5)


def generator() -> Iterator[Any]:
    yield from BATCHES


def with_key(key: jax.Array) -> Iterator[Any]:
    assert jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    yield from BATCHES


class Loader:
    """As those of grain and others: no length, and iterated again for each epoch."""

    def __iter__(self) -> Iterator[Any]:
        return iter([{"x": jnp.asarray(x), "y": y.tolist()} for x, y in BATCHES])


def examples() -> Iterator[Any]:
    for x, y in BATCHES:
        yield from ({"x": row, "y": value} for row, value in zip(x, y, strict=True))


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (generator, {}),
        (with_key, {}),
        (Loader(), {}),
        (examples, {"batch_size": 16}),
        (lambda: (batch for batch in BATCHES), {}),
        (lambda: [(x.astype(np.float64), y) for x, y in BATCHES], {}),
    ],
)
def test_whoever_makes_the_batches_the_losses_are_the_same(data: Any, options: Any, listed: Run) -> None:
    run = trained(data, epochs=2, valid=(X, Y), **options)
    np.testing.assert_allclose(losses(run), losses(listed), rtol=1e-6)
    assert list(run.history["valid/loss"].dropna().index) == [0, 3, 6], (
        "after each epoch, though its length is not known"
    )
    assert run.status == "finished"


@pytest.mark.guests("torch")
def test_a_loader_of_torch_and_a_data_set() -> None:
    torch: Any = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    run = trained(torch.utils.data.DataLoader(data, batch_size=16), epochs=2)
    np.testing.assert_allclose(losses(run), by_hand(2), rtol=1e-5)

    class Cells(torch.utils.data.Dataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(X)

        def __getitem__(self, row: int) -> Any:
            return torch.from_numpy(X[row]), float(Y[row])

    run = trained(Cells(), epochs=3, batch_size=16)
    assert run.record.step == 9
    assert losses(run)[-1] < losses(run)[0]


@pytest.mark.guests("tensorflow")
@pytest.mark.slow
def test_a_data_set_of_tensorflow() -> None:
    tf: Any = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices((X, Y))
    run = trained(data.batch(16).prefetch(2), epochs=2, valid=data.batch(48))
    np.testing.assert_allclose(losses(run), by_hand(2), rtol=1e-5)
    assert run.history["valid/loss"].notna().sum() == 3
    run = trained(data.repeat().batch(16, drop_remainder=True), steps=5)
    np.testing.assert_allclose(losses(run), by_hand(2)[:5], rtol=1e-5)
    with pytest.raises(OptionError, match=r"endless.*--steps"):
        trained(data.repeat().batch(16))


# --- rows in files


def test_memory_maps_are_read_as_they_are_needed_and_give_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    read: list[int] = []
    take = ArrayRows.__getitem__

    def counted(rows: ArrayRows, index: Any) -> Any:
        found = take(rows, index)
        read.append(len(found))
        return found

    monkeypatch.setattr(ArrayRows, "__getitem__", counted)
    # What every row is looked at for is read in blocks, of which these few rows would be one.
    monkeypatch.setattr(lazy, "BLOCK_BYTES", 16 * X[0].nbytes)
    on_disk = trained((mapped, Y), epochs=2, batch_size=20, valid=0.25, seed=3)
    in_memory = trained((X, Y), epochs=2, batch_size=20, valid=0.25, seed=3)
    np.testing.assert_allclose(losses(on_disk), losses(in_memory), rtol=1e-6)
    np.testing.assert_allclose(
        on_disk.history["valid/loss"].dropna(), in_memory.history["valid/loss"].dropna(), rtol=1e-6
    )
    assert on_disk.record.plans[-1].plan == "streamed"
    assert "lie in files" in on_disk.record.plans[-1].reason
    assert read and max(read) <= 20, "a batch at most, never the whole"
    assert on_disk.split()["valid"].tolist() == in_memory.split()["valid"].tolist()


def test_anndata_by_a_column_of_its_cells() -> None:
    kinds = pd.Categorical(np.where(Y > 0, "t cell", "b cell"))
    cells = anndata.AnnData(X=X, obs=pd.DataFrame({"kind": kinds}, index=[f"c{i}" for i in range(len(X))]))
    run = dlfb_lab.train(Linear(2), cells, target="kind", epochs=30, lr=0.1, valid=0.25)
    assert run.classes == ["b cell", "t cell"]
    assert run.history["valid/accuracy"].dropna().iloc[-1] > 0.8
    assert (run.predict(X) == np.asarray(kinds)).mean() > 0.8


# --- streams that end, or do not


def test_an_iterator_that_ends_early_keeps_what_was_learned() -> None:
    run = trained(iter(BATCHES), steps=10, valid=(X, Y))
    np.testing.assert_allclose(losses(run), by_hand(1), rtol=1e-5)
    assert run.record.status is not None
    assert "the data ended before step 10" in run.record.status.reason
    assert list(run.history["valid/loss"].dropna().index)[-1] == 3
    assert np.isfinite(run.predict(X)).all()


def test_what_can_be_read_once_is_one_epoch() -> None:
    run = trained(iter(BATCHES))
    assert run.record.step == 3
    with pytest.raises(
        OptionError, match=r"--epochs 2: the list_iterator can be read only once\. Give a list of batches"
    ):
        trained(iter(BATCHES), epochs=2)
    with pytest.raises(OptionError, match="can be read only once, and each run reads the data anew"):
        trained(iter(BATCHES), sweep="batch_size=4,8")


@pytest.mark.parametrize("data", [[], iter([]), lambda: iter(())])
def test_data_without_a_batch_are_refused(data: Any) -> None:
    with pytest.raises(DataError, match=r"empty|nothing"):
        trained(data)


def test_data_that_the_first_epoch_uses_up_are_told() -> None:
    once = iter(BATCHES)

    def factory() -> Any:
        return once

    run = trained(factory, epochs=3)
    assert run.status == "stopped"
    assert run.record.step == 3
    assert "gave nothing in epoch 2" in notices(run)
    assert "What was learned before is kept" in notices(run)


def test_an_epoch_that_is_shorter_than_the_first_is_told() -> None:
    calls: list[int] = []

    def factory() -> Any:
        calls.append(0)
        return iter(BATCHES if len(calls) == 1 else BATCHES[:1])

    run = trained(factory, epochs=3)
    assert "ended early in epoch 2: after 1 of 3 batches" in notices(run)
    assert run.status == "stopped"
    assert run.record.step == len(losses(run)) == 4


def test_endless_data_need_a_length() -> None:
    import itertools

    with pytest.raises(OptionError, match=r"endless cycle.*--steps N, or --timebox"):
        trained(itertools.cycle(BATCHES))
    run = trained(itertools.cycle(BATCHES), steps=5, valid=(X, Y), eval_every=2)
    np.testing.assert_allclose(losses(run), by_hand(2)[:5], rtol=1e-5)
    assert list(run.history["valid/loss"].dropna().index) == [0, 2, 4, 5]


def test_a_generator_that_fails_midway_keeps_what_was_learned() -> None:
    def failing() -> Iterator[Any]:
        yield from BATCHES
        raise OSError("the disk is gone")

    run = trained(failing(), steps=10, valid=(X, Y))
    assert run.status == "stopped"
    np.testing.assert_allclose(losses(run), by_hand(1), rtol=1e-5)
    assert run.record.step == 3
    assert "failed at item 3: OSError: the disk is gone" in notices(run)
    assert list(run.history["valid/loss"].dropna().index)[-1] == 3, "and scored"
    with pytest.raises(DataError, match="failed at item 0"):
        trained((x for x in [1 / 0]) if False else _fails_at_once(), steps=3)


def _fails_at_once() -> Iterator[Any]:
    raise OSError("the disk is gone")
    yield


def test_what_a_generator_binds_to_its_thread_stays_with_it(tmp_path: Path) -> None:
    database = tmp_path / "rows.sqlite"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("create table rows (a, b, c, y)")
        rows = np.concatenate([X, Y[:, None]], axis=1).astype(float).tolist()
        connection.executemany("insert into rows values (?, ?, ?, ?)", rows)
    closed = []

    def batches() -> Iterator[Any]:
        connection = sqlite3.connect(database)
        found = connection.execute("select * from rows order by rowid")
        try:
            while rows := found.fetchmany(16):
                table = np.asarray(rows, np.float32)
                yield table[:, :3], table[:, 3]
        finally:
            connection.close()
            closed.append(threading.current_thread())

    options: Any = {"optimizer": "sgd", "lr": 0.1, "task": "regression"}
    run = dlfb_lab.train(Linear(), batches, epochs=2, valid=batches(), **options)
    same = dlfb_lab.train(Linear(), BATCHES, epochs=2, valid=BATCHES, **options)
    pd.testing.assert_frame_equal(run.history.drop(columns="epoch"), same.history.drop(columns="epoch"))
    assert len(closed) == 3 and len(set(closed)) == 2
    for refused in ({"scale": True}, {"lr": "find"}, {"metrics": "nonsense"}, {"valid": 0.2}):
        with pytest.raises((DataError, OptionError, ModelError)):
            dlfb_lab.train(Linear(), batches, **{**options, **refused})
    dlfb_lab.train(Linear(), batches, timebox=1e-4, **options)
    gc.collect()
    deadline = time.monotonic() + 60
    while len(closed) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(closed) == 8, "each was closed"
    assert threading.main_thread() not in closed[3:], "in its own thread"
    with pytest.raises(OptionError):
        dlfb_lab.train(Linear(), batches, groups=np.zeros(48), **options)
    with pytest.raises(DataError, match="no such table"):
        dlfb_lab.train(Linear(), (sqlite3.connect(tmp_path / "none").execute("select * from rows") for _ in "a"))


def test_a_set_to_evaluate_on_is_read_where_it_was_made(tmp_path: Path) -> None:
    connection = sqlite3.connect(":memory:")
    seen = []

    def sets() -> Iterator[Any]:
        connection.execute("select 1")
        seen.append(threading.current_thread())
        yield X[:16], Y[:16]

    run = dlfb_lab.train(Linear(), BATCHES, valid=sets(), epochs=1, task="regression")
    run.evaluate(sets())
    assert seen == [threading.current_thread()] * 2


def test_an_interrupt_ends_the_reading_of_first_items() -> None:
    read = []

    def slow() -> Iterator[Any]:
        for number in range(64):
            if number == 3:
                signal.raise_signal(signal.SIGINT)
                time.sleep(0.2)
            read.append(number)
            yield X[number % 48], Y[number % 48]

    with pytest.raises(KeyboardInterrupt):
        dlfb_lab.train(Linear(), slow(), task="regression", steps=3)
    time.sleep(0.5)
    assert len(read) <= 5


def test_an_item_that_does_not_come_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PATIENCE_S", 0.05)

    def slow() -> Iterator[Any]:
        time.sleep(0.5)
        yield from BATCHES

    with pytest.warns(UserWarning, match="has not given its next item.*Interrupt to end waiting"):
        dlfb_lab.train(Linear(), slow(), task="regression", epochs=1)


def test_a_stop_does_not_wait_for_a_slow_generator() -> None:
    gate = threading.Event()

    def slow() -> Iterator[Any]:
        yield from BATCHES
        gate.wait(60)
        yield from BATCHES

    run = trained(slow(), steps=6, background=True)
    try:
        until = time.monotonic() + 50
        while run.record.step < 3 and time.monotonic() < until:
            time.sleep(0.01)
        run.stop()
        run.wait(30)
        assert run.status == "stopped"
        assert run.record.step == 3
        assert run.predict(X).shape == (48,)
    finally:
        gate.set()


def test_steps_taken_in_the_thread_of_a_generator_that_computes_give_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches = [(x, y + np.float32(i % 7)) for i, (x, y) in enumerate([*BATCHES * 30, (X[:4], Y[:4]), *BATCHES * 5])]
    threads: set[str] = set()
    lent: list[int] = []
    lend = Prefetch.lend

    def counted(self: Prefetch, use: Any, count: int, timeout_s: float) -> None:
        lend(self, lambda item: (threads.add(threading.current_thread().name), use(item))[1], count, timeout_s)
        lent.append(count)

    monkeypatch.setattr(Prefetch, "lend", counted)

    def computing() -> Iterator[Any]:
        for batch in batches:
            began = time.thread_time()
            while time.thread_time() - began < 0.004:
                pass
            yield batch

    run = trained(computing, epochs=2, valid=(X, Y))
    assert lent
    assert threads == {"dlfb-prefetch"}
    listed = trained(batches, epochs=2, valid=(X, Y))
    np.testing.assert_array_equal(losses(run), losses(listed))
    for name in ("valid/loss", "valid/mae"):
        np.testing.assert_array_equal(run.history[name], listed.history[name])
    assert len([notice for notice in run.record.notices if "another shape" in notice.text]) == 1


def test_a_stop_does_not_wait_for_a_generator_that_hangs_after_it_has_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "COMPUTES", -1.0)
    monkeypatch.setattr(prefetch, "LOOKED_AT", 0)
    monkeypatch.setattr(prefetch, "SMALL", math.inf)
    test_a_stop_does_not_wait_for_a_slow_generator()


# --- shapes


def test_each_new_shape_is_said_once_with_its_cost() -> None:
    ragged = [(X[:16], Y[:16]), (X[16:32], Y[16:32]), (X[32:40], Y[32:40])]
    run = trained(ragged, epochs=2)
    np.testing.assert_allclose(losses(run), by_hand(2, ragged), rtol=1e-5)
    said = [notice.text for notice in run.record.notices if "another shape" in notice.text]
    assert len(said) == 1
    assert "(8, 3)" in said[0]
    assert " s." in said[0]


def test_a_flood_of_shapes_stops_with_advice_and_keeps_what_was_learned() -> None:
    flood = [(X[:n], Y[:n]) for n in range(2, 30)]
    run = trained(flood, epochs=1, valid=(X, Y))
    assert run.status == "stopped"
    assert run.record.step == 16 == len(losses(run))
    assert run.record.status is not None
    for text in (notices(run), run.record.status.reason):
        assert "more than 16 shapes" in text
        assert "Pad them to one shape" in text
    assert np.isfinite(run.predict(X)).all()


def test_batches_of_another_structure_are_told() -> None:
    run = trained([*BATCHES, (X[:4], Y[:4], Y[:4])], epochs=1)
    assert run.status == "stopped"
    assert "Batch 3 is a tuple of (shape (4, 3), shape (4,), shape (4,)); the first was" in notices(run)
    assert run.record.step == 3


# --- parts and members


def test_a_stream_to_evaluate_on() -> None:
    run = trained(BATCHES, epochs=1, valid=BATCHES[:2], test=iter(BATCHES[2:]))
    assert run.record.started is not None
    assert run.record.started.rows == {"valid": 32, "test": 16}
    expected = trained(BATCHES, epochs=1, valid=(X[:32], Y[:32]))
    assert run.history["valid/loss"].dropna().tolist() == expected.history["valid/loss"].dropna().tolist()
    assert np.isfinite(run.evaluate("test")["loss"])


def test_steps_on_a_stream_are_not_fused_and_it_is_said() -> None:
    run = trained(BATCHES, epochs=1, plan="fused")
    assert "--plan fused: steps are not fused here, since the data are a stream." in notices(run)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"valid": 0.2}, r"--valid 0\.2: the data are a list, which cannot be divided\. Give a set"),
        ({"scale": True}, "--scale: the data are a list, whose statistics are not known"),
        ({"groups": np.zeros(48)}, "--groups"),
        ({"class_weights": "balanced", "task": "binary"}, "--class-weights|targets"),
        ({"target": "y"}, "--target y: batches are pairs"),
    ],
)
def test_what_a_stream_cannot_do_is_said(options: dict[str, Any], said: str) -> None:
    with pytest.raises((OptionError, DataError), match=said):
        trained(BATCHES, epochs=1, **options)


def test_members_learn_from_one_stream() -> None:
    run = dlfb_lab.train(Linear(), BATCHES, epochs=2, seeds=2, valid=(X, Y), optimizer="sgd", lr=0.1)
    table = run.history["train/loss"]
    assert list(table.columns) == ["seed 0", "seed 1"]
    alone = dlfb_lab.train(Linear(), BATCHES, epochs=2, seed=1, valid=(X, Y), optimizer="sgd", lr=0.1)
    np.testing.assert_allclose(table["seed 1"].dropna(), losses(alone), rtol=1e-4)


def test_classes_of_a_stream_are_numbered_by_the_models_outputs() -> None:
    kinds = (Y > 0).astype(np.int32)
    batches = [(X[i : i + 16], kinds[i : i + 16]) for i in (0, 16, 32)]
    run = dlfb_lab.train(Linear(2), batches, epochs=20, lr=0.1, valid=(X, kinds), early_stop="auc:4")
    assert run.record.started is not None
    assert run.record.started.monitor == "valid/auc"
    assert run.history["valid/accuracy"].dropna().iloc[-1] > 0.8
    assert (run.predict(X) == kinds).mean() > 0.8


def again(items: list[Any]) -> Iterator[Any]:
    """Yields items in the same two arrays each time."""
    x, y = (np.empty_like(part) for part in items[0])
    for new_x, new_y in items:
        x[...], y[...] = new_x, new_y
        yield x, y


def test_a_generator_may_fill_the_same_arrays_again() -> None:
    rng = np.random.default_rng(1)
    batches = [
        (rng.normal(size=(256, 64)).astype(np.float32), rng.normal(size=256).astype(np.float32)) for _ in range(12)
    ]
    fresh, same = (
        dlfb_lab.train(Linear(), data, task="regression", steps=12) for data in (iter(batches), again(batches))
    )
    np.testing.assert_array_equal(same.record.losses()[1], fresh.record.losses()[1])


def test_one_that_gives_examples_may_too_and_one_for_validation() -> None:
    examples = [(x, np.asarray(y)) for x, y in zip(X, Y, strict=True)]
    fresh, same = (
        dlfb_lab.train(Linear(), make(), task="regression", steps=3, batch_size=16, valid=valid)
        for make, valid in (
            (lambda: iter(examples), lambda: iter(BATCHES)),
            (lambda: again(examples), lambda: again(BATCHES)),
        )
    )
    np.testing.assert_array_equal(same.record.losses()[1], fresh.record.losses()[1])
    assert same.record.evaluations[-1].metrics == fresh.record.evaluations[-1].metrics


def test_a_validation_set_that_the_model_cannot_take_is_refused_in_a_sentence() -> None:
    with pytest.raises(DataError, match=r"--valid: its rows have shape \(2,\), those of training"):
        trained(BATCHES, epochs=1, valid=[(x[:, :2], y) for x, y in BATCHES])


def test_a_batch_without_rows_is_refused_by_number_and_costs_nothing() -> None:
    run = trained([*BATCHES[:2], (X[:0], Y[:0]), BATCHES[2]], epochs=1)
    assert run.status == "stopped" and run.record.step == 2
    assert "Batch 2 of the list has no rows. Leave it out." in [e.text for e in run.record.notices][-1]
    with pytest.raises(DataError, match="Batch 0 of the list has no rows"):
        trained([(X[:0], Y[:0]), *BATCHES], epochs=1)


def test_a_batch_that_the_model_cannot_take_ends_training_with_what_was_learned() -> None:
    run = trained([*BATCHES, (np.ones((16, 9), np.float32), BATCHES[0][1])], epochs=1)
    assert run.status == "stopped" and run.record.step == 3
    said = [e.text for e in run.record.notices][-1]
    assert said.startswith("A batch of shape (16, 9), (16,) came, which the model does not take: ")
    assert run.predict(X).shape[0] == len(X)


class Held:
    """Batches, and whether they were closed and where."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.closed: list[int] = []

    def __call__(self) -> Iterator[Any]:
        self.threads.append(threading.get_ident())
        try:
            yield from BATCHES
        finally:
            self.closed.append(threading.get_ident())


@pytest.mark.parametrize("options", [{"scale": True}, {"metrics": "nonsense"}, {"valid": 0.2}, {"lr": "find"}])
def test_what_is_refused_is_closed_at_once_in_its_own_thread(options: dict[str, Any]) -> None:
    held = Held()
    with pytest.raises(DlfbLabError) as refused:
        trained(held, epochs=1, **options)
    deadline_s = time.monotonic() + 20
    while not held.closed and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert held.closed == held.threads, refused.value
    assert not [thread.name for thread in threading.enumerate() if thread.name == "dlfb-prefetch"] or time.sleep(1)


def test_going_back_is_refused_where_data_can_be_read_once() -> None:
    with pytest.raises(OptionError, match="--on-nan rollback: the data can be read only once"):
        trained(iter(BATCHES), on_nan="rollback")


def test_data_that_can_be_read_once_say_that_training_takes_one_epoch() -> None:
    run = trained(iter(BATCHES))
    assert any("can be read only once, so training takes one epoch" in e.text for e in run.record.notices)
