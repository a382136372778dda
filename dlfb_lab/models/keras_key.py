"""What makes two Keras models the same program, and names of variables that do not depend on what was made before.

Keras numbers layers through a session: of two equal models one has a layer "dense", the other "dense_1". Here they are
numbered through the model.
"""

from __future__ import annotations

import re
import weakref
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from dlfb_lab.models.fingerprint import fingerprint

WHEN_BUILT = {"build_config", "build_input_shape"}
"""Of a configuration: what changes when a model is built, and says no more than the shapes of its inputs."""

COMPILED_WITH = ("loss", "loss_weights", "metrics", "weighted_metrics")

KEPT_BY_KERAS = {
    *("activity_regularizer", "autocast", "build", "built", "call_signature_parameters", "compiled", "history"),
    *("loss", "metrics", "name", "optimizer", "predict_function", "quantize", "steps_per_execution", "stop_evaluating"),
    *("stop_predicting", "stop_training", "supports_jit", "test_function", "train_function"),
}
"""Attributes of every model or layer, which say nothing of what it computes."""


@dataclass(frozen=True)
class _Code:
    """A fingerprint: an attribute in it that is called as a layer is keeps its name."""

    key: Hashable


def described(model: Any) -> Hashable:
    """Returns a key that equal models have in common, compiled or not, whatever their variables hold."""
    # Input layers stand in the whole's configuration, where they matter.
    layers = [layer for layer in model._flatten_layers() if type(layer).__name__ != "InputLayer"]
    places = {id(layer): i for i, layer in enumerate(layers)}
    try:
        whole = _config(model, places) if is_keras(model) else None
        each = [_layer(layer, places) for layer in layers]
        compiled = _value(dict(model._compile_config.config), places) if model.compiled else None
    except (NotImplementedError, AttributeError):
        # Something in it has no configuration: then it is like no other.
        return weakref.ref(model), fingerprint(type(model))
    return _renamed((whole, each, compiled), {})


def architecture(model: Any) -> Hashable:
    """Returns how a model or a layer is built, and with which loss and metrics it is compiled; without its optimizer.

    What has no configuration is described by its layers alone.
    """
    layers = [layer for layer in model._flatten_layers() if type(layer).__name__ != "InputLayer"]
    places = {id(layer): i for i, layer in enumerate(layers)}
    try:
        whole = _config(model, places) if is_keras(model) else None
    except (NotImplementedError, AttributeError):
        whole = None
    each = []
    for layer in layers:
        try:
            # Those of Keras's own stand in the whole.
            each.append(_functions(layer) if whole is not None and is_keras(layer) else _layer(layer, places))
        except (NotImplementedError, AttributeError):
            each.append(_Code(fingerprint(type(layer))))
    given = model._compile_config.config if getattr(model, "compiled", False) else {}
    compiled = {name: _value(given.get(name), places) for name in COMPILED_WITH}
    return _renamed((whole, each, compiled), {})


def configured(value: Any, with_rate: bool = True) -> Hashable:
    """Returns what an optimizer, a loss or a metric is made with: its configuration, and attributes of the user's.

    Args:
        value: such an object.
        with_rate: whether a learning rate that is a number counts.
    """
    own = None if is_keras(value) else _Code(fingerprint(_shown(value)))
    rate = None
    try:
        config = _config(value, {})
        rate = value.get_config().get("learning_rate") if with_rate else None
    except (NotImplementedError, AttributeError):
        config = type(value).__name__
    return _renamed((config, own, rate if isinstance(rate, int | float) else None), {})


def plain_paths(model: Any) -> dict[int, str]:
    """Returns a name for each variable, by its `id`: "dense/kernel", numbered as if nothing else had been made."""
    counts: Counter[str] = Counter()
    names: dict[str, str] = {}
    for layer in model._flatten_layers(include_self=False):
        usual = _usual_name(type(layer).__name__)
        if _is_usual(layer.name, usual) and layer.name not in names:
            names[layer.name] = f"{usual}_{counts[usual]}" if counts[usual] else usual
            counts[usual] += 1
    paths: dict[int, str] = {}
    taken: Counter[str] = Counter()
    for variable in model.variables:
        parts = variable.path.split("/")
        inside = parts[1:] if parts[0] == model.name and len(parts) > 1 else parts
        path = "/".join(names.get(part, part) for part in inside)
        paths[id(variable)] = f"{path}_{taken[path]}" if taken[path] else path
        taken[path] += 1
    return paths


def _layer(layer: Any, places: dict[int, int]) -> Any:
    """Returns what is known of one layer: Keras's own by their configuration, the user's by code and attributes."""
    if is_keras(layer):
        return _config(layer, places), _functions(layer)
    own = {name: _value(value, places) for name, value in _shown(layer).items() if name not in KEPT_BY_KERAS}
    return "own", _Code(fingerprint(type(layer))), layer.dtype_policy.name, own


def _functions(layer: Any) -> list[Any]:
    """Returns the user's functions in a layer of Keras's own, of which its configuration says the names."""
    kept = (value for name, value in _shown(layer).items() if name not in KEPT_BY_KERAS)
    return [_Code(fingerprint(value)) for value in kept if isinstance(value, FunctionType)]


def _shown(value: Any) -> dict[str, Any]:
    return {name: held for name, held in sorted(vars(value).items()) if not name.startswith("_")}


def _config(value: Any, places: dict[int, int]) -> Any:
    """Returns the configuration of one of Keras's own objects, as Keras writes that of an object within another."""
    name = type(value).__name__
    # Of a seed generator it is a random number.
    config = value.get_config() if hasattr(value, "get_config") and name != "SeedGenerator" else {}
    # Of losses and metrics the configuration leaves out the function and its arguments.
    function = [getattr(value, attribute, None) for attribute in ("fn", "_fn", "_fn_kwargs")]
    return {"class_name": name, "config": _value(config, places), "function": _value(function, places)}


def _value(value: Any, places: dict[int, int]) -> Any:
    if id(value) in places:
        return "layer", places[id(value)]
    if isinstance(value, dict):
        return {str(k): _value(v, places) for k, v in value.items() if not _says_nothing(k, v)}
    if isinstance(value, list | tuple):
        return [_value(item, places) for item in value if not _is_usual_input(item)]
    if isinstance(value, str):
        return value
    is_object = is_keras(value) and not isinstance(value, type | FunctionType)
    return _config(value, places) if is_object else _Code(fingerprint(value))


def _says_nothing(key: Any, value: Any) -> bool:
    # A learning rate is a variable of Keras's optimizer, and no part of the program.
    return key in WHEN_BUILT or (key == "learning_rate" and isinstance(value, int | float))


def _is_usual_input(item: Any) -> bool:
    """Whether an item is the input layer that a Sequential gets when it is built."""
    if not isinstance(item, dict) or item.get("class_name") != "InputLayer" or "inbound_nodes" in item:
        return False
    return bool(item["config"].get("dtype") == "float32")


def _renamed(value: Any, names: dict[str, str]) -> Hashable:
    """Returns a value that can be hashed, with the names that Keras gave replaced by their number in the model."""
    if isinstance(value, dict):
        inner = value.get("config")
        usual = _usual_name(str(value.get("class_name")))
        if isinstance(inner, dict) and _is_usual(str(inner.get("name")), usual):
            names.setdefault(str(inner["name"]), f"#{len(names)}")
        return tuple((key, _renamed(item, names)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(_renamed(item, names) for item in value)
    return names.get(value, value) if isinstance(value, str) else value


def _usual_name(class_name: str) -> str:
    """Returns the name that Keras gives to the first layer of a class."""
    parted = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", class_name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", parted).lower()


def _is_usual(name: str, usual: str) -> bool:
    return re.fullmatch(re.escape(usual) + r"(_\d+)?", name) is not None


def is_keras(value: Any) -> bool:
    """Whether an object is of a class of Keras's own."""
    return is_of_keras(type(value))


def is_of_keras(cls: type) -> bool:
    """Whether a class is Keras's own."""
    return cls.__module__.partition(".")[0] == "keras"
