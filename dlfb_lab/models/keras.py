"""Adapters for Keras models on the JAX backend, through Keras's stateless API.

A compiled model brings a training step of its own: its optimizer, loss and metrics. One that is not compiled is a
function of its variables, trained as any other model. Either way the Keras object holds the trained values at the end.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlfb_lab.errors import ModelError, OptionError, one_line
from dlfb_lab.models.keras_key import described, is_keras, plain_paths
from dlfb_lab.models.linen import train_flags
from dlfb_lab.models.model import Model, PyTree, Stepper, Values
from dlfb_lab.record import Record

SEED_STATE = "seed_generator_state"
"""The name of the variable in which Keras keeps what random numbers come next."""


class KerasModel:
    """A Keras model that is not compiled, trained with our loss and optimizer.

    It is built on the shape of one row if it is not built yet; Keras itself draws the initial values, from the seed
    of `keras.utils.set_random_seed`. Dropout takes our keys.
    """

    kind = "keras"
    in_place = True
    given = True
    optimizer = None

    def __init__(self, model: Any) -> None:
        self.model = model
        self.name = str(model.name)
        # Once: Keras adds to a model's description when it is built.
        self.key: Hashable = (self.kind, described(model))
        self.apply = partial(keras_apply, model, train_flags(model.call))

    def notices_on(self, x: PyTree) -> tuple[str, ...]:
        """Returns what the user should know about how the model is trained; `x` is inputs of a few rows."""
        penalized = any(
            getattr(layer, name, None) is not None
            for layer in self.model._flatten_layers()
            for name in ("kernel_regularizer", "bias_regularizer", "activity_regularizer", "embeddings_regularizer")
        )
        if not penalized:
            return ()
        return (
            f"The regularizers of {self.name} are no part of the loss here. Compile it (model.compile), and it is "
            "trained with Keras's own loss, which they are part of.",
        )

    def start(self, rng: jax.Array, x: PyTree) -> tuple[PyTree, PyTree, None]:
        """See `Model.start`. Copies, because training reuses the memory of what it is given."""
        _build(self.model, x)
        trainable, others = _named(self.model)
        if not trainable:
            raise ModelError(f"The model {self.name} has no trainable variables; there is nothing to train.")
        return _values(trainable), _values(others), None

    def finish(self, params: PyTree, extra: PyTree, opt_state: PyTree, step: int) -> Any:
        """Returns the user's own model, with the trained values in it."""
        for variables, values in zip(_named(self.model), (params, extra), strict=True):
            for name, variable in variables.items():
                variable.assign(jnp.array(values[name], copy=True))
        return self.model


def keras_apply(
    model: Any, flags: dict[str, bool], params: PyTree, extra: PyTree, x: PyTree, rng: jax.Array, train: bool
) -> tuple[Any, PyTree]:
    """Calls a Keras model with values for its variables; see `Apply`. Its random numbers come from `rng`."""
    seeds = (jax.random.fold_in(rng, i) for i in range(len(model.non_trainable_variables)))
    others = {id(variable): extra[name] for name, variable in _named(model)[1].items()}
    others_in_order = [
        jax.random.bits(seed, variable.shape, jnp.uint32) if id(variable) not in others else others[id(variable)]
        for seed, variable in zip(seeds, model.non_trainable_variables, strict=True)
    ]
    arguments = {name: value is train for name, value in flags.items()}
    trainable = [params[name] for name in _named(model)[0]]
    outputs, changed = model.stateless_call(trainable, others_in_order, x, **arguments)
    if not train:
        return outputs, extra
    after = {id(v): value for v, value in zip(model.non_trainable_variables, changed, strict=True)}
    return outputs, {name: after[id(variable)] for name, variable in _named(model)[1].items()}


class KerasStepper:
    """A compiled Keras model: its own train step, with its own optimizer, loss, metrics and random numbers.

    Its state is a dict of lists, in the order of Keras's own: "trainable", "non_trainable", "optimizer", "metrics".
    """

    kind = "compiled keras"
    in_place = True
    accumulates = True
    """Metrics such as AUC cannot be averaged over batches."""
    evaluates = True

    def __init__(self, model: Any) -> None:
        self.model = model
        self.name = str(model.name)
        self.key: Hashable = (self.kind, described(model))

    @property
    def traces(self) -> bool:
        """Whether Keras itself would compile the step."""
        return bool(self.model.jit_compile and not self.model.run_eagerly)

    @property
    def evaluation_traces(self) -> bool:
        """As `traces`."""
        return self.traces

    def start(self, rng: jax.Array, batch: PyTree) -> PyTree:
        """See `Stepper.start`. Builds what is not built yet; the values are Keras's own, not drawn from `rng`."""
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), _data(batch))
        try:
            with jax.ensure_compile_time_eval():
                self.model._symbolic_build(data_batch=shapes)
        except Exception as error:
            raise self._failed("could not be built for this data", error) from error
        if self._has_no_loss():
            raise ModelError(f"The Keras model {self.name} was compiled without a loss. Say model.compile(loss=…).")
        return {name: [jnp.array(v.value, copy=True) for v in variables] for name, variables in self._variables()}

    def _has_no_loss(self) -> bool:
        # On JAX, Keras would minimise nothing, and say nothing.
        model, usual = self.model, sys.modules["keras"].Model
        own = [getattr(type(model), name) is not getattr(usual, name) for name in ("train_step", "compute_loss")]
        layers = model._flatten_layers()
        adds = any(not is_keras(layer) or getattr(layer, "activity_regularizer", None) is not None for layer in layers)
        return model.loss is None and not model.losses and not any(own) and not adds

    def _variables(self) -> list[tuple[str, list[Any]]]:
        m = self.model
        return [
            ("trainable", m.trainable_variables),
            ("non_trainable", m.non_trainable_variables),
            ("optimizer", m.optimizer.variables),
            ("metrics", m.metrics_variables),
        ]

    def step(self, state: PyTree, batch: PyTree, rng: jax.Array, epoch_begins: jax.Array) -> tuple[PyTree, Values]:
        """See `Stepper.step`. "loss" is the loss of this batch; metrics run from the beginning of the epoch."""
        fresh = self._fresh_metrics(state["metrics"])
        metrics = [jnp.where(epoch_begins, new, old) for new, old in zip(fresh, state["metrics"], strict=True)]
        tracked = self._loss_variables()
        # Without what came before, Keras's running mean of the loss is the loss of this batch.
        given = [new if i in tracked else old for i, (new, old) in enumerate(zip(fresh, metrics, strict=True))]
        values = state["trainable"], state["non_trainable"], state["optimizer"], given
        try:
            logs, (trainable, others, optimizer, after) = self.model.train_step(values, _data(batch))
        except Exception as error:
            raise self._failed("failed in its train step", error) from error
        summed = [old + new if i in tracked else new for i, (old, new) in enumerate(zip(metrics, after, strict=True))]
        changed = {"trainable": trainable, "non_trainable": others, "optimizer": optimizer, "metrics": summed}
        return {name: list(changed[name]) for name in state}, self._scalars(logs, "train_step")

    def evaluate(self, state: PyTree, batch: PyTree, rng: jax.Array) -> Values:
        """See `Stepper.evaluate`."""
        values = state["trainable"], state["non_trainable"], self._fresh_metrics(state["metrics"])
        try:
            logs, _ = self.model.test_step(values, _data(batch))
        except Exception as error:
            raise self._failed("failed in its test step", error) from error
        return self._scalars(logs, "test_step")

    def outputs(self, state: PyTree, x: PyTree) -> Any:
        """See `Stepper.outputs`."""
        outputs, _ = self.model.predict_step((state["trainable"], state["non_trainable"]), (x,))
        if len(jax.tree.leaves(outputs)) != 1:
            names = ", ".join(str(name) for name in getattr(self.model, "output_names", []) or ["several"])
            raise OptionError(
                f"The model {self.name} has several outputs ({names}). Predict with Keras: model.predict."
            )
        return jax.tree.leaves(outputs)[0]

    def parameter_count(self, state: PyTree) -> int:
        """See `Stepper.parameter_count`."""
        return sum(int(np.prod(jnp.shape(leaf))) for leaf in state["trainable"])

    def finish(self, state: PyTree, step: int) -> Any:
        """Returns the user's own model, with the trained values in it, and in its optimizer and metrics."""
        for name, variables in self._variables():
            for variable, value in zip(variables, state[name], strict=True):
                variable.assign(jnp.array(value, copy=True))
        self.model.optimizer.finalize_variable_values(self.model.trainable_weights)
        return self.model

    def _fresh_metrics(self, values: list[Any]) -> list[Any]:
        """Returns what the metrics' variables hold after a reset."""
        variables = self.model.metrics_variables
        with sys.modules["keras"].StatelessScope(list(zip(variables, values, strict=True))) as scope:
            self.model.reset_metrics()
            return [jnp.asarray(scope.get_current_value(variable)) for variable in variables]

    def _loss_variables(self) -> set[int]:
        """Returns which of the metrics' variables make up the running mean of the loss."""
        mean = sys.modules["keras"].metrics.Mean
        means = [m for m in self.model.metrics if m.name == "loss" and isinstance(m, mean)]
        tracked = {id(variable) for metric in means for variable in metric.variables}
        return {i for i, variable in enumerate(self.model.metrics_variables) if id(variable) in tracked}

    def _scalars(self, logs: Any, called: str) -> Values:
        if not isinstance(logs, dict) or "loss" not in logs:
            shown = ", ".join(str(name) for name in logs) if isinstance(logs, dict) else type(logs).__name__
            raise ModelError(f"The {called} of {self.name} returned {shown or 'nothing'}; it must return a `loss` too.")
        values: Values = {}
        for name, value in sorted(logs.items(), key=lambda item: item[0] != "loss"):
            array = jnp.asarray(value)
            # Such as a score for each class.
            several = {f"{name}_{i}": one for i, one in enumerate(array.reshape(-1))} if array.ndim else {name: array}
            values |= several
        return values

    def _failed(self, what: str, error: Exception) -> ModelError:
        return ModelError(f"The compiled Keras model {self.name} {what}: {one_line(error)}")


def keras_history(record: Record, steps_per_epoch: int) -> dict[str, list[float]]:
    """Returns what Keras's `History.history` would hold of a run: for each name a value per epoch.

    `loss` is the mean over the rows of an epoch, a metric its running value at the end of it, and `val_<name>` the
    last evaluation in it: fewer values, where not every epoch was evaluated. A last epoch that is not over counts.

    Args:
        record: what the run's events say.
        steps_per_epoch: updates per pass over the training rows.
    """
    whole = record.whole()
    if whole is None or not steps_per_epoch:
        return {}
    started = record.started
    batch = started.batch_size if started is not None else 1
    rest = (started.rows.get("train", 0) if started is not None else 0) - (steps_per_epoch - 1) * batch
    # The last batch of an epoch counts by its rows, as in Keras.
    last = whole.steps % steps_per_epoch == steps_per_epoch - 1
    weights = np.where(last & (0 < rest < batch), rest, batch)
    epochs = whole.steps // steps_per_epoch
    history: dict[str, list[float]] = {
        "loss": [float(np.average(whole.losses[at].astype(float), weights=weights[at])) for at in _each(epochs)]
    }
    for name, values in whole.parts.items():
        history[name] = [float(values[at][-1]) for at in _each(epochs)]
    scored = {-(-e.step // steps_per_epoch): e.metrics for e in record.evaluated("valid") if e.step}
    for name in dict.fromkeys(name for metrics in scored.values() for name in metrics):
        history[f"val_{name}"] = [metrics[name] for metrics in scored.values() if name in metrics]
    return history


def _each(epochs: np.ndarray[Any, Any]) -> list[slice]:
    """Returns the places of each epoch's steps."""
    starts = [0, *(np.flatnonzero(np.diff(epochs)) + 1).tolist(), len(epochs)]
    return [slice(a, b) for a, b in pairwise(starts)]


def _build(model: Any, x: PyTree) -> None:
    if all(layer.built for layer in model._flatten_layers()):
        return
    tensor = sys.modules["keras"].KerasTensor
    symbolic = jax.tree.map(lambda a: tensor((None, *a.shape[1:]), dtype=str(a.dtype)), x)
    # Its variables get values, not tracers, where this happens while something is traced.
    with jax.ensure_compile_time_eval():
        model(symbolic)


def _named(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the trainable variables by name, and the others but for the states of random numbers."""
    paths = plain_paths(model)
    trainable = {paths[id(v)]: v for v in model.trainable_variables}
    return trainable, {paths[id(v)]: v for v in model.non_trainable_variables if v.name != SEED_STATE}


def _values(variables: dict[str, Any]) -> dict[str, jax.Array]:
    return {name: jnp.array(variable.value, copy=True) for name, variable in variables.items()}


def _data(batch: PyTree) -> PyTree:
    """Returns a batch as Keras takes it: x, or a tuple of x, y and weights."""
    return tuple(batch) if isinstance(batch, list) else batch


def adapt(model: Any) -> Model | Stepper | None:
    """Adapts a Keras model, where Keras runs on JAX; or returns None. Looked at only when Keras was imported.

    Raises:
        ModelError: a class or a layer was given in place of a model.
    """
    keras: Any = sys.modules.get("keras")
    if not hasattr(keras, "Model") or keras.config.backend() != "jax":
        return None
    if isinstance(model, type) and issubclass(model, keras.layers.Layer):
        raise ModelError(f"`{model.__name__}` is a class, not a model. Make one: {model.__name__}(…).")
    if not isinstance(model, keras.layers.Layer):
        return None
    if not isinstance(model, keras.Model):
        raise ModelError(
            f"`{model.name}` is a layer of Keras. Make a model of it: keras.Sequential([{type(model).__name__}(…)])."
        )
    return KerasStepper(model) if model.compiled else KerasModel(model)
