"""Adapter for Keras models on another backend than JAX: trained by Keras's own step."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import jax
import numpy as np

from dlfb_lab.errors import DlfbLabError, ModelError, OptionError, StoreError, one_line
from dlfb_lab.models.guest import (
    USUAL_RATE,
    Array,
    Chosen,
    Link,
    OwnLoss,
    optimizer_name,
    rate,
    rate_once,
    writable,
)
from dlfb_lab.models.model import PyTree
from dlfb_lab.models.paths import shown
from dlfb_lab.models.torch_random import Randomness
from dlfb_lab.models.torch_state import to_array, to_tensor

OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "adam": ("Adam", {"epsilon": 1e-8}),
    "adamw": ("AdamW", {"epsilon": 1e-8, "weight_decay": 1e-4}),
    "sgd": ("SGD", {}),
    "rmsprop": ("RMSprop", {"epsilon": 1e-8}),
    "adagrad": ("Adagrad", {}),
    "adadelta": ("Adadelta", {"rho": 0.9, "epsilon": 1e-6}),
    "adamax": ("Adamax", {"epsilon": 1e-8}),
    "nadam": ("Nadam", {"epsilon": 1e-8}),
    "lion": ("Lion", {"weight_decay": 1e-3}),
}
"""Keras's optimizers that go by optax's names, with optax's defaults where Keras's differ."""

DIFFERENT = {"nadam": "Keras's nadam lets the momentum grow (Dozat 2016); optax's keeps it, so the losses differ."}
REGRESSION = (
    "mean_squared_error",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_logarithmic_error",
    "huber",
    "log_cosh",
    "poisson",
    "kl_divergence",
    "cosine_similarity",
)
"""Keras's losses that take predictions as they are."""

BACKENDS = ("torch", "tensorflow")
EXAMPLE = "an object such as keras.optimizers.SGD(0.1)"


class KerasFactory:
    """A Keras model, before its loss and optimizer are known, unless it is compiled. See `GuestFactory`."""

    in_place = True

    def __init__(self, model: Any) -> None:
        keras = _keras()
        backend = str(keras.config.backend())
        if backend not in BACKENDS:
            raise ModelError(
                f"Keras runs on the backend `{backend}` here, which cannot train. "
                "Set KERAS_BACKEND to jax, torch or tensorflow before Keras is imported."
            )
        self.model = model
        self.kind = f"keras on {backend}"
        self.name = str(model.name)
        self.versions = {"keras": str(keras.__version__), backend: str(sys.modules[backend].__version__)}

    @property
    def parameter_count(self) -> int | None:
        """See `GuestFactory.parameter_count`."""
        if not self.model.built:
            return None
        return int(sum(math.prod(v.shape) for v in self.model.trainable_variables))

    @property
    def loss(self) -> str | None:
        """See `GuestFactory.loss`; "its own" where it cannot be told, as for a `train_step` that is overridden."""
        return self._own_loss()[0] if self.model.compiled else None

    @property
    def link(self) -> Link | None:
        """See `GuestFactory.link`."""
        return self._own_loss()[1] if self.model.compiled else None

    def optimizer(self, optimizer: Any, lr: float | None) -> Chosen:
        """See `GuestFactory.optimizer`."""
        keras, own = _keras(), getattr(self.model, "optimizer", None)
        if self.model.compiled:
            if optimizer is not None or lr is not None:
                option = "--optimizer" if optimizer is not None else "--lr"
                raise OptionError(f"{option}: the Keras model is compiled with an optimizer. Leave {option} out.")
            return Chosen(f"the model's own {type(own).__name__}", _rate_of(own))
        if isinstance(optimizer, keras.optimizers.Optimizer):
            what = f"the given keras.optimizers.{type(optimizer).__name__}"
            rate_once(lr, what)
            return Chosen(what, _rate_of(optimizer))
        if isinstance(optimizer, type) and issubclass(optimizer, keras.optimizers.Optimizer):
            return Chosen(f"keras.optimizers.{optimizer.__name__}", None if lr is None else rate(lr))
        name = optimizer_name(optimizer, OPTIMIZERS, "Keras", EXAMPLE)
        return Chosen(name, USUAL_RATE.get(name, 1e-3) if lr is None else rate(lr), DIFFERENT.get(name, ""))

    def outputs(self, x: PyTree, seed: int) -> Array:
        """See `GuestFactory.outputs`; initial parameters come from Keras's random numbers, whatever the seed."""
        return self.single(self.forward(x), x)

    def arrays(self) -> dict[str, Array]:
        """See `GuestFactory.arrays`."""
        if not self.model.built:
            raise ModelError(f"The model {self.name} has no weights yet. Build it, or call it once.")
        to_numpy = _keras().ops.convert_to_numpy
        return {name: np.array(to_numpy(variable.value)) for name, variable in _weights(self.model).items()}

    def load(self, arrays: Mapping[str, Array]) -> None:
        """See `GuestFactory.load`."""
        _assign(_weights(self.model), {name: a for name, a in arrays.items() if name.startswith("model/")})

    def make(
        self,
        *,
        loss: str | OwnLoss | None,
        optimizer: Any,
        lr: float | None,
        seed: int,
        sample: tuple[PyTree, Any],
        clip: float | None = None,
    ) -> KerasGuest:
        """See `GuestFactory.make`. A model that is not compiled is compiled here, and stays so.

        The seed sets the layers' random numbers, but for those that the user gave a seed.
        """
        outputs = self.forward(sample[0])
        if not self.model.trainable_variables:
            raise ModelError(f"The model {self.name} has no trainable weights; nothing can be trained.")
        if self.model.compiled:
            self._refuse(loss, clip)
            self.optimizer(optimizer, lr)
        else:
            function = _keras_loss(loss)
            self.model.compile(optimizer=self._made(optimizer, lr, clip), loss=function)
        try:
            if not self.model.optimizer.built:
                self.model.optimizer.build(self.model.trainable_variables)
        except Exception as error:
            raise OptionError(f"--optimizer: Keras cannot use it for {self.name}: {one_line(error)}") from error
        _seed(self.model, seed)
        randomness = None
        if self.kind.endswith("torch"):
            # There, a dropout without a seed of its own draws from PyTorch's random numbers, not from Keras's.
            randomness = Randomness(self.model.trainable_variables[0].value.device, seed)
        return KerasGuest(self, _targets(str(self._own_loss()[0]), outputs, sample[1]), randomness)

    def forward(self, x: PyTree) -> Any:
        """Returns what the model returns in evaluation mode, as NumPy arrays.

        Raises:
            ModelError: it fails.
        """
        try:
            return self.model.predict_on_batch(jax.tree.map(self.ready, x))
        except Exception as error:
            raise ModelError(f"The model failed on inputs of {_described(x)}: {one_line(error)}") from error

    def ready(self, a: Any) -> Array:
        """Returns an array as the backend takes it: PyTorch warns of memory that must not be written to."""
        return writable(a) if self.kind.endswith("torch") else np.asarray(a)

    def single(self, outputs: Any, x: PyTree) -> Array:
        """Returns outputs that are one array with one row each.

        Raises:
            ModelError: they are not.
        """
        rows = len(jax.tree.leaves(x)[0])
        if not isinstance(outputs, np.ndarray) or outputs.shape[:1] != (rows,):
            shape = f" of shape {outputs.shape}" if isinstance(outputs, np.ndarray) else ""
            raise ModelError(
                f"The model returned a {type(outputs).__name__}{shape} for {rows} rows; "
                "it must return one array with one row each."
            )
        return outputs

    def _own_loss(self) -> tuple[str, Link | None]:
        try:
            loss = _keras().losses.get(getattr(self.model, "loss", None))
        except Exception:
            loss = None
        if loss is None:
            return "its own", None
        name = str(getattr(getattr(loss, "fn", loss), "__name__", type(loss).__name__))
        if name in REGRESSION:
            return name, "identity"
        if "crossentropy" not in name:
            return name, None
        logits: Link = "sigmoid" if name.startswith("binary") else "softmax"
        return name, logits if getattr(loss, "from_logits", False) else "probability"

    def _refuse(self, loss: Any, clip: float | None) -> None:
        if loss is not None:
            raise OptionError("--loss: the Keras model is compiled with a loss. Leave --loss out.")
        if clip is not None:
            raise OptionError(
                f"--clip {clip:g}: the Keras model is compiled with an optimizer. Give that global_clipnorm={clip:g}."
            )

    def _made(self, optimizer: Any, lr: float | None, clip: float | None) -> Any:
        keras = _keras()
        chosen = self.optimizer(optimizer, lr)
        if isinstance(optimizer, keras.optimizers.Optimizer):
            if clip is not None:
                raise OptionError(f"--clip {clip:g}: give the Keras optimizer global_clipnorm={clip:g} in its place.")
            return optimizer
        given = {} if chosen.lr is None else {"learning_rate": chosen.lr}
        if isinstance(optimizer, type):
            return optimizer(**given, global_clipnorm=clip)
        name, settings = OPTIMIZERS[chosen.name]
        return getattr(keras.optimizers, name)(**given, **settings, global_clipnorm=clip)


class KerasGuest:
    """A compiled Keras model that is being trained by its own step. See `Guest`.

    Args:
        factory: what it comes from.
        targets: brings encoded targets, shape [rows, ...], into the form that the model's loss takes.
        randomness: PyTorch's random numbers, where the model draws from them.
    """

    keeps_arrays = True

    def __init__(self, factory: KerasFactory, targets: Callable[[Any], Any], randomness: Randomness | None) -> None:
        self.kind, self.name, self.versions = factory.kind, factory.name, factory.versions
        self.parameter_count = factory.parameter_count or 0
        self._factory, self._model, self._targets = factory, factory.model, targets
        self._randomness = randomness

    def step(self, batch: PyTree) -> dict[str, float]:
        """See `Guest.step`: the batch's own loss, with what else Keras minimises, and the model's metrics on it.

        The batch may hold row weights, too: `(x, y, weights)`, or no targets: `(x,)`.
        """
        with self._randomness.training() if self._randomness else nullcontext():
            return self._called(self._model.train_on_batch, "train_step", batch)

    def evaluate(self, batch: PyTree) -> dict[str, float]:
        """Returns the loss and the model's own metrics of one batch in evaluation mode."""
        with self._randomness.evaluation() if self._randomness else nullcontext():
            return self._called(self._model.test_on_batch, "test_step", batch)

    def outputs(self, x: PyTree) -> Array:
        """See `Guest.outputs`. All rows in one call."""
        with self._randomness.evaluation() if self._randomness else nullcontext():
            return self._factory.single(self._factory.forward(x), x)

    def scores(self, outputs: Array, y: Array) -> dict[str, float]:
        """Returns the loss and the model's own metrics of outputs beside encoded targets, shape [rows, ...]."""
        model, convert = self._model, _keras().ops.convert_to_tensor
        try:
            truth, predicted = convert(self._factory.ready(self._targets(y))), convert(self._factory.ready(outputs))
            loss = model.compute_loss(x=None, y=truth, y_pred=predicted)
            model.reset_metrics()
            return _scalars(loss, model.compute_metrics(None, truth, predicted))
        except DlfbLabError:
            raise
        except Exception as error:
            raise ModelError(f"Keras could not score outputs of {_described(outputs)}: {one_line(error)}") from error

    def keep(self) -> dict[str, Array]:
        """See `Guest.keep`: weights, what the optimizer holds, and random states."""
        self._build()
        to_numpy = _keras().ops.convert_to_numpy
        states = enumerate(self._randomness.states if self._randomness else [])
        return {
            **{name: np.array(to_numpy(variable.value)) for name, variable in self._variables().items()},
            **{f"random/{i}": to_array(state) for i, state in states},
        }

    def restore(self, kept: Mapping[str, Array]) -> None:
        """See `Guest.restore`."""
        self._build()
        variables = self._variables()
        _assign(variables, {name: array for name, array in kept.items() if not name.startswith("random/")})
        if self._randomness:
            self._randomness.states = [to_tensor(kept[f"random/{i}"]) for i in range(len(self._randomness.states))]

    def finish(self) -> Any:
        """Returns the user's own model, trained."""
        self._model.reset_metrics()
        return self._model

    def _called(self, step: Callable[..., dict[str, Any]], name: str, batch: PyTree) -> dict[str, float]:
        x, y, weights = (*batch, None, None)[:3]
        targets, ready = self._targets(y), self._factory.ready
        try:
            found = step(*jax.tree.map(ready, (x, targets, weights)), return_dict=True)
        except Exception as error:
            raise ModelError(f"Keras's {name} failed on {_described(x)}: {one_line(error)}") from error
        if "loss" not in found:
            raise ModelError(f"The `{name}` of {self.name} returned {sorted(found)}; it must return a `loss`, too.")
        return _scalars(found["loss"], found)

    def _build(self) -> None:
        if not self._model.optimizer.built:
            self._model.optimizer.build(self._model.trainable_variables)

    def _variables(self) -> dict[str, Any]:
        """Returns weights, states of random numbers, and what the optimizer holds, by name."""
        optimizer = self._model.optimizer
        rate = getattr(optimizer, "_learning_rate", None)
        return {
            **_weights(self._model),
            **{"hyper/learning_rate" if v is rate else f"optimizer/{i}": v for i, v in enumerate(optimizer.variables)},
        }


def _weights(model: Any) -> dict[str, Any]:
    """Returns a model's variables by name; by number too, since Keras counts on and layers may share a name."""
    return {f"model/{i}/{v.name}": v for i, v in enumerate(model.variables)}


def _assign(variables: dict[str, Any], arrays: Mapping[str, Array]) -> None:
    needed = {name for name in (*variables, *arrays) if not name.startswith("hyper/")}
    wrong = [
        f"{name} is {'missing' if name in variables else 'not needed'}"
        for name in sorted(needed)
        if name not in arrays or name not in variables
    ]
    wrong += [
        f"{name} has shape {arrays[name].shape}, not {tuple(variable.shape)}"
        for name, variable in variables.items()
        if name in arrays and arrays[name].shape != tuple(variable.shape)
    ]
    if wrong:
        raise StoreError(f"The model or its optimizer is not the one that was saved: {shown(wrong)}.")
    for name, variable in variables.items():
        if name in arrays:
            variable.assign(arrays[name].copy())


def _targets(loss: str, outputs: Any, sample: Any) -> Callable[[Any], Any]:
    """Returns what brings encoded targets into the form that a loss of Keras takes beside these outputs."""
    if not isinstance(outputs, np.ndarray) or not isinstance(sample, np.ndarray):
        return lambda y: y
    if loss.startswith("categorical") and sample.dtype.kind in "iu" and sample.shape == outputs.shape[:-1]:
        one_hot = np.eye(outputs.shape[-1], dtype=np.float32)
        return lambda y: one_hot[y]
    if sample.size == outputs.size and not loss.startswith("sparse"):
        shape = outputs.shape[1:]
        return lambda y: np.asarray(y, np.float32).reshape(len(y), *shape)
    if loss in REGRESSION and sample.size != outputs.size:
        raise ModelError(
            f"The model's outputs have shape {outputs.shape}, but the targets {sample.shape}. "
            "Let it return one number for each target."
        )
    return lambda y: y


def _keras_loss(loss: str | OwnLoss | None) -> Any:
    """Returns one of our losses by name, or the user's own, as Keras takes it."""
    losses = _keras().losses
    if callable(loss):
        own = loss

        def loss_of_the_user(y_true: Any, y_pred: Any) -> Any:
            return own(y_pred, y_true)

        return loss_of_the_user
    known: dict[str | None, Callable[[], Any]] = {
        "mean_squared_error": losses.MeanSquaredError,
        "mean_absolute_error": losses.MeanAbsoluteError,
        "huber": losses.Huber,
        "cross_entropy": lambda: losses.SparseCategoricalCrossentropy(from_logits=True),
        "binary_crossentropy": lambda: losses.BinaryCrossentropy(from_logits=True),
        "kl_divergence": lambda: _kl_divergence,
        "cosine_similarity": losses.CosineSimilarity,
    }
    if loss not in known:
        raise OptionError(f"--loss {loss}: Keras models have no such loss here. Known: {', '.join(map(str, known))}.")
    return known[loss]()


def _kl_divergence(y_true: Any, y_pred: Any) -> Any:
    """KL(y_true || softmax(y_pred)) a row: Keras's own takes probabilities in place of logits."""
    ops = _keras().ops
    logs = ops.log(ops.where(y_true > 0, y_true, ops.ones_like(y_true)))
    return ops.sum(y_true * (logs - ops.log_softmax(y_pred, axis=-1)), axis=-1)


def _seed(model: Any, seed: int) -> None:
    generators = [g for layer in model._flatten_layers() for g in getattr(layer, "_seed_generators", ())]
    for i, generator in enumerate(generators):
        if generator.get_config()["seed"] is None:
            first = np.random.SeedSequence([seed, i]).generate_state(1)[0] >> 1
            generator.state.assign(np.array([first, 0], generator.state.dtype))


def _scalars(loss: Any, found: dict[str, Any]) -> dict[str, float]:
    values = {"loss": loss, **{name: value for name, value in found.items() if name != "loss"}}
    numbers = {name: _number(value) for name, value in values.items()}
    return {name: number for name, number in numbers.items() if number is not None}


def _number(value: Any) -> float | None:
    if isinstance(value, int | float):
        return float(value)
    array = np.asarray(_keras().ops.convert_to_numpy(value))
    return float(array.item()) if array.size == 1 else None


def _rate_of(optimizer: Any) -> float | None:
    try:
        return float(np.asarray(_keras().ops.convert_to_numpy(optimizer.learning_rate)))
    except Exception:
        return None


def _described(x: PyTree) -> str:
    return ", ".join(f"shape {tuple(a.shape)}, {a.dtype}" for a in jax.tree.leaves(x))


def _keras() -> Any:
    return sys.modules["keras"]


def adapt(model: Any) -> KerasFactory | None:
    """Adapts a Keras model on a backend other than JAX, or returns None. Keras is looked at only when imported.

    Raises:
        ModelError: a layer or a class was given in place of a model, or Keras's backend cannot train.
    """
    keras = sys.modules.get("keras")
    layer = getattr(getattr(keras, "layers", None), "Layer", None)
    if layer is None or keras is None or keras.config.backend() == "jax":
        return None
    if isinstance(model, type) and issubclass(model, layer):
        raise ModelError(f"`{model.__name__}` is a class, not a model. Make one: {model.__name__}(…).")
    if isinstance(model, layer) and not isinstance(model, keras.Model):
        raise ModelError(f"`{model.name}` is a Keras layer. Make a model of it: keras.Sequential([{model.name}]).")
    return KerasFactory(model) if isinstance(model, keras.Model) else None
