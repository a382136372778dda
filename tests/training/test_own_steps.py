"""Steps of the user's own, from `dlfb_lab.train` to the run that is handed back: what the reference asks for."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState
from sklearn.metrics import roc_auc_score

import dlfb_lab
from dlfb_lab.errors import DataError, ModelError, OptionError
from dlfb_lab.run import Run

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5, 0.0], np.float32))[:, None]


def notices(run: Run) -> str:
    return "\n".join(notice.text for notice in run.record.notices)


def linear(tx: optax.GradientTransformation | None = None, **fields: Any) -> TrainState:
    model = nn.Dense(1)
    params = model.init(jax.random.key(0), X[:1])["params"]
    return TrainState.create(apply_fn=model.apply, params=params, tx=tx or optax.sgd(0.1), **fields)


def squared(params: Any, state: TrainState, batch: Any) -> jax.Array:
    x, y = batch
    return ((state.apply_fn({"params": params}, x) - y) ** 2).mean()


@jax.jit
def plain_step(state: TrainState, batch: Any) -> Any:
    loss, gradients = jax.value_and_grad(squared)(state.params, state, batch)
    return state.apply_gradients(grads=gradients), loss


@jax.jit
def plain_eval(state: TrainState, batch: Any) -> Any:
    return {"loss": squared(state.params, state, batch)}


# --- embeddings to several heads, and a loss of named parts


class Autoencoder(nn.Module):
    """A vector-quantised autoencoder with a second head that tells a class."""

    codes: int = 8

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        z = nn.Dense(2)(x)
        book = self.param("codebook", nn.initializers.normal(), (self.codes, 2))
        nearest = book[((z[:, None] - book) ** 2).sum(-1).argmin(-1)]
        quantised = z + jax.lax.stop_gradient(nearest - z)
        return nn.Dense(4)(quantised), z, nearest, nn.Dense(1)(quantised)[:, 0]


def autoencoder_losses(params: Any, apply_fn: Any, batch: Any) -> Any:
    rebuilt, z, nearest, logits = apply_fn({"params": params}, batch["x"])
    parts = {
        "reconstruction": ((rebuilt - batch["x"]) ** 2).mean(),
        "codebook": ((jax.lax.stop_gradient(z) - nearest) ** 2).mean(),
        "commitment": 0.25 * ((z - jax.lax.stop_gradient(nearest)) ** 2).mean(),
        "classification": optax.sigmoid_binary_cross_entropy(logits, batch["label"]).mean(),
    }
    return sum(parts.values()), (parts, (rebuilt, z))


def autoencoder_step(state: TrainState, batch: Any) -> Any:
    (loss, (parts, _)), gradients = jax.value_and_grad(autoencoder_losses, has_aux=True)(
        state.params, state.apply_fn, batch
    )
    return state.apply_gradients(grads=gradients), (loss, parts)


def test_each_part_of_a_loss_has_its_column() -> None:
    model, labels = Autoencoder(), (X[:, 0] > 0).astype(np.float32)
    params = model.init(jax.random.key(0), X[:1])["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.adam(0.05))
    run = dlfb_lab.train(
        {"x": X, "label": labels},
        step=autoencoder_step,
        eval_step=lambda state, batch: autoencoder_losses(state.params, state.apply_fn, batch),
        state=state,
        valid=0.25,
        epochs=6,
        batch_size=10,
    )
    parts = ["reconstruction", "codebook", "commitment", "classification"]
    table = run.history.loc[: run.record.step - 1]
    assert {f"train/{part}" for part in parts} == {c for c in table if c.startswith("train/") and c != "train/loss"}
    np.testing.assert_allclose(table[[f"train/{p}" for p in parts]].sum(axis=1), table["train/loss"], rtol=1e-5)
    assert table["train/reconstruction"].iloc[-3:].mean() < table["train/reconstruction"].iloc[:3].mean()
    assert set(run.history) >= {"valid/loss", *(f"valid/{p}" for p in parts)}, (
        "the evaluation's parts have columns, too"
    )
    assert isinstance(run.state, TrainState)
    assert int(run.state.step) == run.record.step == 18
    rebuilt, z, *_ = run.state.apply_fn({"params": run.params}, X[:3])
    assert rebuilt.shape == (3, 4) and z.shape == (3, 2)
    with pytest.raises(OptionError, match=r"run\.state"):
        run.predict(X)
    assert "was trained by a step of our own, 40 rows" in run.cite()
    assert "None" not in run.cite()


# --- a graph passed whole, negatives drawn anew, hits@20

NODES = 30
EDGES = np.array([(i, (i + k) % NODES) for i in range(NODES) for k in (1, 2)], np.int32)
GRAPH = {"nodes": np.eye(NODES, dtype=np.float32), "edges": EDGES}


def embedded(params: Any, nodes: Any, edges: Any) -> Any:
    z = nodes @ params["w"]
    return z + jax.ops.segment_sum(z[edges[:, 0]], edges[:, 1], NODES)


def link_step(state: Any, graph: Any, key: jax.Array) -> Any:
    params, opt_state = state
    negatives = jax.random.randint(key, graph["edges"].shape, 0, NODES)

    def loss(params: Any) -> Any:
        z = embedded(params, graph["nodes"], graph["edges"])
        scores = [(z[e[:, 0]] * z[e[:, 1]]).sum(-1) for e in (graph["edges"], negatives)]
        return -jax.nn.log_sigmoid(scores[0]).mean() - jax.nn.log_sigmoid(-scores[1]).mean()

    value, gradients = jax.value_and_grad(loss)(params)
    updates, opt_state = optax.adam(0.05).update(gradients, opt_state)
    drawn = negatives.sum().astype(jnp.float32)
    return (optax.apply_updates(params, updates), opt_state), {"loss": value, "drawn": drawn}


def link_eval(state: Any, graph: Any) -> dict[str, Any]:
    z = np.asarray(embedded(state[0], graph["nodes"], graph["edges"]))
    scores = z @ z.T
    known = {tuple(edge) for edge in np.asarray(graph["edges"]).tolist()}
    negative = np.sort([scores[i, j] for i in range(NODES) for j in range(NODES) if i != j and (i, j) not in known])
    positive = np.array([scores[i, j] for i, j in known])
    labels = np.repeat([1, 0], [len(positive), len(negative)])
    return {
        "hits@20": float((positive > negative[-20]).mean()),
        "auc": float(roc_auc_score(labels, np.concatenate([positive, negative]))),
    }


def link_state() -> Any:
    params = {"w": jax.random.normal(jax.random.key(1), (NODES, 8)) * 0.1}
    return params, optax.adam(0.05).init(params)


@pytest.fixture(scope="module")
def links() -> Run:
    return dlfb_lab.train(
        GRAPH,
        step=link_step,
        eval_step=link_eval,
        state=link_state(),
        valid=GRAPH,
        epochs=40,
        eval_every=5,
        early_stop="hits@20:3",
    )


def test_a_graph_is_passed_whole_in_each_epoch_with_negatives_drawn_anew(links: Run) -> None:
    table = links.history
    drawn = table["train/drawn"].dropna()
    assert drawn.nunique() > 25, "the sums of what was drawn hardly ever agree"
    assert table["train/loss"].dropna().iloc[-1] < table["train/loss"].iloc[0]
    assert links.record.started is not None
    assert links.record.started.steps_per_epoch == 1
    assert "the whole at once" in links.record.started.task_sentence


def test_hits_at_20_is_a_metric_and_can_end_training(links: Run) -> None:
    assert links.record.started is not None
    assert (links.record.started.monitor, links.record.started.monitor_mode) == ("valid/hits@20", "max")
    hits = links.history["valid/hits@20"].dropna()
    assert hits.index[0] == 0 and (np.diff(hits.index)[:-1] == 5).all()
    best = hits.idxmax()
    assert links.record.step == best + 15, "three evaluations after the best"
    assert links.evaluate(GRAPH)["hits@20"] == hits.max(), "the best state is the one handed back"
    assert links.record.status is not None
    assert "hits@20" in links.record.status.reason
    assert "has not become better for 3 evaluations" in links.record.status.reason


def test_arrays_of_other_lengths_cannot_be_divided() -> None:
    with pytest.raises(OptionError, match=r"differ in length.*--valid DATA"):
        dlfb_lab.train(GRAPH, step=link_step, eval_step=link_eval, state=link_state(), valid=0.2)


def test_a_dict_of_rows_beside_a_static_graph() -> None:
    graph = {"edges": jnp.asarray(EDGES), "kind": "ring"}
    pairs = np.array([(i, (i + k) % NODES) for i in range(NODES) for k in (1, 7)], np.int32)
    data = {"pair": pairs, "label": np.tile([1.0, 0.0], NODES).astype(np.float32)}

    def step(state: Any, batch: Any, graph: Any, power: int) -> Any:
        assert graph["kind"] == "ring"

        def loss(w: Any) -> Any:
            z = w + jax.ops.segment_sum(w[graph["edges"][:, 0]], graph["edges"][:, 1], NODES)
            scores = (z[batch["pair"][:, 0]] * z[batch["pair"][:, 1]]).sum(-1) ** power
            return optax.sigmoid_binary_cross_entropy(scores, batch["label"]).mean()

        value, gradient = jax.value_and_grad(loss)(state["w"])
        return {"w": state["w"] - 0.3 * gradient}, value

    state = {"w": jax.random.normal(jax.random.key(0), (NODES, 4))}
    run = dlfb_lab.train(data, step=step, state=state, args={"graph": graph, "power": 1}, epochs=5, batch_size=20)
    assert run.record.step == 15
    assert run.history["train/loss"].iloc[-3:].mean() < run.history["train/loss"].iloc[:3].mean()
    with pytest.raises(OptionError, match="takes `graph` beside the batch"):
        dlfb_lab.train(data, step=step, state=state, args={"power": 1})


# --- several optimizers over parts of the tree, frozen parts, schedules


def test_a_partly_frozen_network_with_multi_transform() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Dense(1, name="head")(nn.tanh(nn.Dense(3, name="encoder")(x)))

    params = Net().init(jax.random.key(0), X[:1])["params"]
    rates = optax.cosine_decay_schedule(0.1, 20)
    tx = optax.multi_transform(
        {
            "train": optax.adamw(rates, mask=lambda p: jax.tree.map(lambda a: a.ndim > 1, p)),
            "freeze": optax.set_to_zero(),
        },
        {"encoder": "freeze", "head": "train"},
    )
    state = TrainState.create(apply_fn=Net().apply, params=params, tx=tx)
    run = dlfb_lab.train(
        (X, Y), step=plain_step, eval_step=plain_eval, state=state, valid=0.25, steps=20, batch_size=10
    )
    before, after = params, run.params
    assert np.array_equal(before["encoder"]["kernel"], after["encoder"]["kernel"])
    assert not np.array_equal(before["head"]["kernel"], after["head"]["kernel"])
    assert np.array_equal(params["head"]["bias"], state.params["head"]["bias"]), "the given state is left alone"
    assert run.record.step == 20


def test_the_losses_are_those_of_a_loop_of_ones_own() -> None:
    run = dlfb_lab.train((X, Y), step=plain_step, state=linear(), steps=6, batch_size="full")
    state, losses = linear(), []
    for _ in range(6):
        state, loss = plain_step(state, (X, Y))
        losses.append(float(loss))
    np.testing.assert_allclose(run.history["train/loss"], losses, rtol=1e-6)
    assert list(run.history.index) == list(range(6)), "one loss for every step, so that windows have means and spreads"


# --- splits by group


@pytest.mark.parametrize("groups", [np.repeat(np.arange(8), 5), "patient"])
def test_no_group_is_in_two_parts(groups: Any) -> None:
    patients = np.repeat(np.arange(8), 5).astype(np.int32)

    def step(state: Any, batch: Any) -> Any:
        return state, {"loss": batch["y"].mean() + 0 * state["w"], "first": batch["patient"][0].astype(jnp.float32)}

    data = {"x": X, "y": Y[:, 0], "patient": patients}
    run = dlfb_lab.train(
        data,
        step=step,
        eval_step=lambda state, batch: batch["y"].mean(),
        state={"w": jnp.zeros(())},
        groups=groups,
        valid=0.25,
        test=0.25,
        epochs=2,
        batch_size=5,
    )
    parts = [set(patients[rows].tolist()) for rows in run.split().values()]
    assert len(parts) == 3 and set.union(*parts) == set(range(8))
    assert sum(map(len, parts)) == 8
    assert set(run.history["train/first"].dropna().astype(int)) <= parts[0]
    assert run.evaluate("test")["loss"] == pytest.approx(Y[run.split()["test"], 0].mean(), abs=1e-5)


# --- evaluation


def test_a_whole_split_is_evaluated_as_one_batch() -> None:
    seen: list[int] = []

    def evaluation(state: TrainState, batch: Any) -> Any:
        x, y = batch
        seen.append(len(x))
        truth, score = np.asarray(y[:, 0]) > 0, np.asarray(state.apply_fn({"params": state.params}, x))[:, 0]
        return {"auc": roc_auc_score(truth, score), "rows": float(len(x))}

    run = dlfb_lab.train(
        (X, Y),
        step=plain_step,
        eval_step=evaluation,
        state=linear(),
        valid=0.4,
        epochs=3,
        batch_size=4,
        eval_batch_size="full",
    )
    assert set(seen) == {16}
    scores = run.history[["valid/auc", "valid/rows"]].dropna()
    assert list(scores.index) == [0, 6, 12, 18]
    assert (scores["valid/rows"] == 16).all()
    x, y = (a[run.split()["valid"]] for a in (X, Y))
    expected = roc_auc_score(y[:, 0] > 0, run.state.apply_fn({"params": run.params}, x)[:, 0])
    assert scores["valid/auc"].iloc[-1] == pytest.approx(expected)
    assert "called as it is" in notices(run)


@pytest.mark.parametrize(
    ("budget", "evaluated"),
    [
        ({"steps": 7, "eval_every": 3}, [0, 3, 6, 7]),
        ({"epochs": 3, "eval_every": 2}, [0, 6, 9]),
        ({"epochs": 2}, [0, 3, 6]),
    ],
)
def test_evaluation_at_0_and_every_so_often(budget: dict[str, int], evaluated: list[int]) -> None:
    run = dlfb_lab.train(
        (X, Y), step=plain_step, eval_step=plain_eval, state=linear(), valid=0.25, batch_size=10, **budget
    )
    assert list(run.history["valid/loss"].dropna().index) == evaluated


def test_a_ragged_last_batch_has_its_own_program_and_counts_by_its_rows() -> None:
    def step(state: Any, batch: Any) -> Any:
        x, y = batch
        return state + 1, {"loss": y.mean(), "rows": jnp.float32(len(x))}

    def evaluation(state: Any, batch: Any) -> Any:
        return batch[1].mean()

    run = dlfb_lab.train(
        (X, Y),
        step=step,
        eval_step=evaluation,
        state=jnp.zeros((), int),
        valid=(X[:11], Y[:11]),
        epochs=2,
        batch_size=16,
    )
    assert run.history["train/rows"].dropna().tolist() == [16, 16, 8] * 2
    assert run.history["valid/loss"].dropna().iloc[-1] == pytest.approx(Y[:11].mean(), abs=1e-6)
    by_epoch = run.history[["train/loss", "train/rows"]].dropna()
    mean = (by_epoch["train/loss"] * by_epoch["train/rows"]).iloc[:3].sum() / 40
    assert mean == pytest.approx(Y.mean(), abs=1e-6), "each row once an epoch"
    assert int(run.state) == 6
    assert not [c for c in run.record.compilations if not c.planned]


def test_a_set_to_evaluate_on_needs_a_step_to_evaluate() -> None:
    with pytest.raises(OptionError, match=r"--eval-step"):
        dlfb_lab.train((X, Y), step=plain_step, state=linear(), valid=0.2, epochs=1)


# --- where batches come from


def factory(key: jax.Array) -> Iterator[Any]:
    order = np.asarray(jax.random.permutation(key, len(X)))
    for start in range(0, len(X), 10):
        yield X[order[start : start + 10]], Y[order[start : start + 10]]


def test_a_factory_is_called_for_each_epoch_with_a_key() -> None:
    def step(state: Any, batch: Any) -> Any:
        return state, {"loss": batch[1].mean() + 0 * state["w"], "first": batch[0][0, 0]}

    run = dlfb_lab.train(factory, step=step, state={"w": jnp.zeros(())}, epochs=3)
    assert run.record.step == 12
    first = run.history["train/first"].to_numpy().reshape(3, 4)
    assert len(np.unique(first[:, 0])) == 3, "another order in every epoch"
    np.testing.assert_allclose(run.history["train/loss"].to_numpy().reshape(3, 4).mean(axis=1), Y.mean(), atol=1e-6)
    again = dlfb_lab.train(factory, step=step, state={"w": jnp.zeros(())}, epochs=3)
    assert np.array_equal(first.ravel(), again.history["train/first"])


def endless() -> Iterator[Any]:
    number = 0
    while True:
        yield {"x": X[:8], "number": np.full(8, number, np.float32)}
        number += 1


def test_an_endless_generator_is_read_for_so_many_steps() -> None:
    def step(state: Any, batch: Any) -> Any:
        return state, {"loss": batch["x"].mean() + 0 * state["w"], "number": batch["number"][0]}

    run = dlfb_lab.train(endless(), step=step, state={"w": jnp.zeros(())}, steps=9)
    assert run.status == "finished"
    assert run.history["train/number"].tolist() == list(range(9))


def test_memory_maps_give_the_numbers_of_arrays_in_memory(tmp_path: Any) -> None:
    mapped = []
    for name, array in (("x", X), ("y", Y)):
        np.save(tmp_path / f"{name}.npy", array)
        mapped.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    options: dict[str, Any] = dict(step=plain_step, eval_step=plain_eval, valid=0.25, epochs=3, batch_size=8)
    in_memory = dlfb_lab.train((X, Y), state=linear(), **options)
    on_disk = dlfb_lab.train(tuple(mapped), state=linear(), **options)
    np.testing.assert_allclose(on_disk.history["train/loss"], in_memory.history["train/loss"], rtol=1e-6)
    np.testing.assert_allclose(
        on_disk.history["valid/loss"].dropna(), in_memory.history["valid/loss"].dropna(), rtol=1e-6
    )
    assert on_disk.record.plans[-1].plan == "streamed"


# --- keys, states, static arguments


class Stateful(TrainState):
    batch_stats: Any
    key: jax.Array


def test_a_train_state_with_further_fields_and_dropout_by_a_key() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
            x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))
            return nn.Dense(1)(nn.Dropout(0.5, deterministic=not train)(x))

    variables = Net().init(jax.random.key(0), X[:1])
    state = Stateful.create(
        apply_fn=Net().apply,
        params=variables["params"],
        tx=optax.adam(0.05),
        batch_stats=variables["batch_stats"],
        key=jax.random.key(3),
    )

    @functools.partial(jax.jit, static_argnames=("scale",))
    def step(state: Stateful, batch: Any, dropout_rng: jax.Array, scale: float) -> Any:
        x, y = batch

        def loss(params: Any) -> Any:
            variables = {"params": params, "batch_stats": state.batch_stats}
            outputs, changed = state.apply_fn(
                variables, x, train=True, rngs={"dropout": dropout_rng}, mutable=["batch_stats"]
            )
            return scale * ((outputs - y) ** 2).mean(), changed["batch_stats"]

        (value, stats), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        return state.apply_gradients(grads=gradients).replace(batch_stats=stats), value

    options: dict[str, Any] = dict(step=step, args={"scale": 2.0}, epochs=2, batch_size=8)
    run = dlfb_lab.train((X, Y), state=state, **options)
    assert run.record.step == 10
    assert not np.array_equal(run.state.batch_stats["BatchNorm_0"]["mean"], np.zeros(4))
    same, other = (dlfb_lab.train((X, Y), state=state, seed=seed, **options) for seed in (0, 1))
    assert same.history["train/loss"].tolist() == run.history["train/loss"].tolist()
    assert other.history["train/loss"].tolist() != run.history["train/loss"].tolist()


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (lambda state, batch: {**state, "new": batch[0].mean()}, "returned a state of another structure|a dict of"),
        (lambda state, batch: ({**state, "new": 0.0}, 0.0), "another structure: it has new besides"),
        (lambda state, batch: ({"w": state["w"][None]}, 0.0), r"changed `w` from float32\[4\] to float32\[1, 4\]"),
        (
            lambda state, batch: ({"w": state["w"].astype(jnp.int32)}, 0.0),
            r"changed `w` from float32\[4\] to int32\[4\]",
        ),
        (lambda state, batch: batch[1].mean(), "returned an array of shape"),
        (lambda state, batch: (state, batch[1]), "where the loss belongs, a scalar"),
        (lambda state, batch: None, "returned nothing"),
        (lambda state, batch: (batch[1].mean(), state), "returned the state last"),
    ],
)
def test_a_step_that_returns_something_else_is_told_before_training(step: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        dlfb_lab.train((X, Y), step=step, state={"w": jnp.zeros(4)}, epochs=1)
    assert "--step" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_state_that_changes_while_it_runs_ends_the_run_with_a_message() -> None:
    def step(state: Any, batch: Any) -> Any:
        count = int(state["count"])  # on the host, so that this is no program
        state = {"count": state["count"] + 1, "w": state["w"]}
        return ({**state, "late": 0} if count == 3 else state), float(batch[1].mean())

    run = dlfb_lab.train((X, Y), step=step, state={"count": 0, "w": np.zeros(2)}, epochs=1, batch_size=8)
    assert run.status == "stopped" and run.record.step == 3
    assert run.state["count"] == 3, "what was learned before it is kept"
    assert "another structure: it has late besides" in run.record.notices[-1].text


def test_other_scalars_from_one_step_to_the_next_are_told() -> None:
    def step(state: Any, batch: Any) -> Any:
        done = int(state["count"])
        values = {"loss": 1.0, "extra": 2.0} if done == 2 else {"loss": 1.0}
        return {"count": state["count"] + 1}, values

    run = dlfb_lab.train((X, Y), step=step, state={"count": np.zeros((), np.int32)}, epochs=1, batch_size=8)
    assert run.status == "stopped" and run.record.step == 2
    assert "extra" in run.record.notices[-1].text and "kept" in run.record.notices[-1].text


@pytest.mark.parametrize("error", [ValueError("late"), SystemExit(1)])
def test_a_step_that_fails_late_loses_nothing(error: BaseException) -> None:
    def step(state: Any, batch: Any) -> Any:
        if int(state["count"]) == 4:
            raise error
        return {**state, "count": state["count"] + 1}, float(batch[1].mean())

    run = dlfb_lab.train((X, Y), step=step, state={"count": 0, "w": np.zeros(2)}, epochs=9, batch_size=8)
    assert run.status == "stopped" and run.state["count"] == run.record.step == 4
    assert f"--step `step` failed. {type(error).__name__}" in run.record.notices[-1].text


def test_an_evaluation_that_fails_late_loses_nothing() -> None:
    calls: list[int] = []

    def step(state: Any, batch: Any) -> Any:
        return {**state, "count": state["count"] + 1}, float(batch[1].mean())

    def evaluate(state: Any, batch: Any) -> Any:
        calls.append(int(state["count"]))
        return {"other": 1.0} if len(calls) > 2 else {"score": 1.0}

    run = dlfb_lab.train(
        (X, Y),
        **{"step": step, "eval_step": evaluate, "state": {"count": 0, "w": np.zeros(2)}, "steps": 9},
        **{"valid": (X[:8], Y[:8]), "batch_size": 8, "eval_every": 2, "early_stop": "score:5"},
    )
    assert run.status == "stopped" and 0 < run.record.step < 9
    assert "score" in run.record.notices[-1].text


def test_arguments_that_a_batch_filled_are_named() -> None:
    with pytest.raises(ModelError, match="No --state was given, so that s and b were filled from the batch"):
        dlfb_lab.train((X, Y), step=lambda s, b: (s, s["w"].sum()), epochs=1, batch_size=8)


def test_a_static_argument_that_is_an_array_is_told() -> None:
    @functools.partial(jax.jit, static_argnames="k")
    def step(state: Any, batch: Any, k: Any) -> Any:
        return state, batch[1].mean() * k

    with pytest.raises(ModelError, match="for an argument that it declares static"):
        dlfb_lab.train((X, Y), step=step, state=linear(), args={"k": jnp.ones(2)}, epochs=1, batch_size=8)


def test_a_mistake_in_the_options_is_said() -> None:
    for options, said in (
        ({"lr": 0.1}, r"--lr: the step of your own decides that"),
        ({"seeds": 3}, r"--sweep seed=0,1,2"),
        ({"metrics": "auc"}, "--metrics auc: the step is your own"),
        ({"groups": "patient", "valid": 0.2, "eval_step": plain_eval}, "--groups patient"),
        ({"devices": 2}, "--devices"),
        ({"early_stop": "loss:3"}, "--valid 0.2"),
        ({"state": None}, r"takes `state` before the batch\. .*--state state"),
        ({"batch_size": 100}, "--batch-size 100: there are only 40"),
    ):
        with pytest.raises((OptionError, DataError), match=said):
            dlfb_lab.train((X, Y), **{"step": plain_step, "state": linear(), **options})
    with pytest.raises(OptionError, match=r"--early-stop hits@20: it is not evaluated\. There are loss"):
        dlfb_lab.train((X, Y), step=plain_step, eval_step=plain_eval, state=linear(), valid=0.2, early_stop="hits@20:3")


def test_seeds_one_after_another_are_named_runs_and_the_best_is_handed_back() -> None:
    def step(state: TrainState, batch: Any, key: jax.Array) -> Any:
        x, y = batch
        return plain_step(state, (x + jax.random.normal(key, x.shape), y))

    best = dlfb_lab.train(
        (X, Y),
        step=step,
        eval_step=plain_eval,
        state=linear(),
        valid=(X[:8], Y[:8]),
        epochs=2,
        sweep="seed=0,1,2",
        name="noise",
    )
    assert [run.name for run in best.sweep] == ["noise seed 0", "noise seed 1", "noise seed 2"]
    last = [run.history["valid/loss"].min() for run in best.sweep]
    assert len(set(last)) == 3
    assert best is best.sweep[int(np.argmin(last))]


def test_a_sweep_over_an_argument_of_ones_own() -> None:
    def step(state: TrainState, batch: Any, noise: float, key: jax.Array) -> Any:
        x, y = batch
        return plain_step(state, (x + noise * jax.random.normal(key, x.shape), y))

    options: dict[str, Any] = dict(step=step, eval_step=plain_eval, state=linear(), valid=0.25, epochs=20)
    best = dlfb_lab.train((X, Y), sweep="noise=2.0,0.0,1.0", args={"noise": 0.5}, **options)
    assert [run.name for run in best.sweep] == ["noise 2.0", "noise 0.0", "noise 1.0"]
    assert best is best.sweep[1]
    assert len({run.record.started.split_hash for run in best.sweep if run.record.started}) == 1
    alone = dlfb_lab.train((X, Y), args={"noise": 0.0}, **options)
    np.testing.assert_array_equal(alone.history["train/loss"], best.history["train/loss"])
    with pytest.raises(OptionError, match="Did you mean `noise`"):
        dlfb_lab.train((X, Y), sweep="nois=1,2", args={"noise": 0.5}, **options)
