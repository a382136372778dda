"""What PyTorch's modules and optimizers hold, as NumPy arrays by name: what is saved needs no pickle to be read."""

from __future__ import annotations

import copy
import json
import sys
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from dlfb_lab.errors import StoreError
from dlfb_lab.models.paths import shown

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]

NUMBER = ":number"
"""Ends the name of what is a plain number, or several, and no tensor."""

LIST = ":list"
"""Ends the name of a list, within which its items have their numbers."""

STRUCTURE = "optimizer/structure"
"""Names the JSON text, as bytes, that says how an optimizer's state is built where names cannot say it.

Numbers, texts and null are themselves there; {"tensor": NAME}, {"list": […]}, {"tuple": […]}, {"dict": [[KEY, …], …]};
and {"object": NAME, "type": …} for what cannot be saved.
"""


class Kept(dict[str, Array]):
    """Arrays by name, and what they cannot say, which is lost when they are saved.

    Attributes:
        objects: copies of objects by name.
    """

    objects: Mapping[str, Any] = {}


def module_arrays(module: Any) -> dict[str, Array]:
    """Returns copies of a module's parameters and buffers; of buffers that it does not save itself as "buffers/…"."""
    state = module.state_dict()
    others = {name: value for name, value in module.named_buffers() if name not in state}
    return {
        **{f"model/{name}": to_array(value) for name, value in state.items() if isinstance(value, _torch().Tensor)},
        **{f"buffers/{name}": to_array(value) for name, value in others.items()},
    }


def load_module(module: Any, arrays: Arrays) -> None:
    """Puts parameters and buffers back.

    Raises:
        StoreError: they are those of another module; says which differ.
    """
    state = module.state_dict()
    given = {name.removeprefix("model/"): array for name, array in arrays.items() if name.startswith("model/")}
    needed = {name: tuple(value.shape) for name, value in state.items() if isinstance(value, _torch().Tensor)}
    wrong = [f"{name} is missing" for name in needed if name not in given]
    wrong += [f"{name} is not needed" for name in given if name not in needed]
    wrong += [
        f"{name} has shape {given[name].shape}, not {shape}"
        for name, shape in needed.items()
        if name in given and given[name].shape != shape
    ]
    if wrong:
        raise StoreError(f"The model is not the one that was saved: {shown(wrong)}.")
    module.load_state_dict({name: to_tensor(array) for name, array in given.items()}, strict=False)
    for name, buffer in module.named_buffers():
        if f"buffers/{name}" in arrays:
            buffer.copy_(to_tensor(arrays[f"buffers/{name}"]))


def optimizer_arrays(optimizer: Any) -> Kept:
    """Returns copies of an optimizer's state, and its groups' numbers as "hyper/<group>/<name>:number"."""
    state = optimizer.state_dict()
    if all(type(key) is int and type(value) is dict and _is_plain(value) for key, value in state["state"].items()):
        found = Kept(_flat(state["state"], "optimizer"))
    else:
        found = _structured(state["state"], type(optimizer).__name__)
    for i, group in enumerate(state["param_groups"]):
        numbers = {name: value for name, value in group.items() if name != "params" and _is_number(value)}
        found |= {f"hyper/{i}/{name}{NUMBER}": np.asarray(value) for name, value in numbers.items()}
    return found


def load_optimizer(optimizer: Any, arrays: Arrays) -> None:
    """Puts an optimizer's state back, and those of its groups' numbers that are given.

    Raises:
        StoreError: it is that of another optimizer, or was not saved whole.
    """
    groups = optimizer.state_dict()["param_groups"]
    state: dict[Any, Any] = _built(arrays) if STRUCTURE in arrays else _nested(arrays)
    for name, array in arrays.items():
        kind, _, rest = name.partition("/")
        number, _, key = rest.partition("/")
        if kind == "hyper" and int(number) < len(groups):
            groups[int(number)][key.removesuffix(NUMBER)] = _value(name, array)
    # PyTorch would make other texts and objects of those that it is given.
    known = {
        number: {key: value for key, value in values.items() if isinstance(value, _torch().Tensor | bool | int | float)}
        for number, values in state.items()
        if type(number) is int and isinstance(values, dict)
    }
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    try:
        optimizer.load_state_dict({"state": known, "param_groups": groups})
        wrong = [number for number in known if number >= len(parameters)]
    except (ValueError, RuntimeError, KeyError) as error:
        raise StoreError(f"The optimizer is not the one that was saved: {error}") from error
    if wrong:
        raise StoreError(f"The optimizer is not the one that was saved: it has {len(parameters)} parameters.")
    for number, values in state.items():
        if number not in known:
            optimizer.state[number] = values
            continue
        # PyTorch has converted them to their parameters' dtypes.
        held, device = optimizer.state[parameters[number]], parameters[number].device
        optimizer.state[parameters[number]] = {
            key: _placed(value, held[key].device if isinstance(held.get(key), _torch().Tensor) else device)
            if key not in known[number] or (isinstance(value, _torch().Tensor) and held[key].dtype != value.dtype)
            else held[key]
            for key, value in values.items()
        }


def _nested(arrays: Arrays) -> dict[Any, Any]:
    """Returns the state that names alone tell."""
    state: dict[int, dict[str, Any]] = {}
    for name, array in arrays.items():
        kind, _, rest = name.partition("/")
        if kind == "optimizer":
            number, _, key = rest.partition("/")
            *within, last = key.removesuffix(NUMBER).split("/")
            held = state.setdefault(int(number), {})
            for part in within:
                held = held.setdefault(part, {})
            held[last] = _value(name, array)
    return {number: _with_lists(values) for number, values in state.items()}


def _structured(state: Any, optimizer: str) -> Kept:
    """Returns an optimizer's state with the text that says how it is built."""
    found = Kept()
    objects: dict[str, Any] = {}

    def free(name: str) -> str:
        each, number = name, 1
        while each in found or each in objects or each == STRUCTURE:
            number += 1
            each = f"{name}#{number}"
        return each

    def node(value: Any, name: str) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, int | float):
            return float(value) if isinstance(value, float) else int(value)
        if isinstance(value, _torch().Tensor):
            name = free(name)
            found[name] = to_array(value)
            return {"tensor": name}
        if type(value) in (list, tuple):
            return {type(value).__name__: [node(item, f"{name}/{i}") for i, item in enumerate(value)]}
        if type(value) in (dict, OrderedDict):
            pairs = [[node(key, f"{name}/key"), node(item, f"{name}/{key}")] for key, item in value.items()]
            return {"dict": pairs}
        name = free(name)
        try:
            objects[name] = copy.deepcopy(value)
        except Exception:  # such as an open file: then the object itself
            objects[name] = value
        return {"object": name, "type": type(value).__name__}

    text = json.dumps(node(state, "optimizer"))
    found[STRUCTURE] = np.frombuffer(text.encode(), np.uint8).copy()
    found.objects = objects
    if objects:
        first = next(iter(objects))
        warnings.warn(
            f"The state of the optimizer {optimizer} cannot be saved whole, since {first} is a "
            f"{type(objects[first]).__name__}: training cannot go on from a checkpoint, which keeps the parameters.",
            stacklevel=2,
        )
    return found


def _built(arrays: Arrays) -> Any:
    objects = getattr(arrays, "objects", {})

    def value(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        (kind, content), *more = node.items()
        if kind in ("list", "tuple"):
            items = [value(item) for item in content]
            return items if kind == "list" else tuple(items)
        if kind == "dict":
            return {value(key): value(item) for key, item in content}
        if kind == "tensor" and content in arrays:
            return to_tensor(arrays[content])
        if kind == "object" and content in objects:
            return copy.deepcopy(objects[content])
        what = f", which is a {more[0][1]} and cannot be saved" if more else ""
        raise StoreError(f"The optimizer's state was not saved whole: it lacks {content}{what}.")

    return value(json.loads(arrays[STRUCTURE].tobytes()))


def _placed(value: Any, device: Any) -> Any:
    if isinstance(value, _torch().Tensor):
        return value.to(device)
    if type(value) in (list, tuple):
        return type(value)(_placed(item, device) for item in value)
    return {key: _placed(item, device) for key, item in value.items()} if type(value) is dict else value


def _is_plain(value: Any) -> bool:
    """Whether names alone can say what it is."""
    if type(value) is dict:
        names = all(type(key) is str and key and "/" not in key and not key.endswith((NUMBER, LIST)) for key in value)
        return bool(value) and names and all(map(_is_plain, value.values()))
    if type(value) is list:
        return bool(value) and all(map(_is_plain, value))
    if type(value) is tuple:
        return len({type(item) for item in value}) == 1 and all(type(i) is not tuple and _is_number(i) for i in value)
    if type(value) is int:
        return -(2**63) <= value < 2**63
    return isinstance(value, _torch().Tensor) or type(value) in (bool, float)


def to_array(tensor: Any) -> Array:
    """Returns a copy of a tensor of any dtype that NumPy knows, or bfloat16."""
    host = tensor.detach().cpu()
    if host.dtype == _torch().bfloat16:
        return np.array(host.view(_torch().int16).numpy().view(ml_dtypes.bfloat16))
    return np.array(host.numpy())


def to_tensor(array: Array) -> Any:
    """Returns a tensor on the host that holds a copy of an array."""
    if array.dtype == ml_dtypes.bfloat16:
        return _torch().tensor(array.view(np.int16)).view(_torch().bfloat16)
    return _torch().tensor(array)


def _flat(tree: Any, within: str) -> Iterator[tuple[str, Array]]:
    for key, value in tree.items():
        name = f"{within}/{key}"
        if isinstance(value, _torch().Tensor):
            yield name, to_array(value)
        elif isinstance(value, Mapping):
            yield from _flat(value, name)
        elif isinstance(value, list):
            yield from _flat(dict(enumerate(value)), f"{name}{LIST}")
        elif _is_number(value):
            yield f"{name}{NUMBER}", np.asarray(value)


def _with_lists(tree: Any) -> Any:
    """Returns nested dicts with lists in the place of those that `_flat` made of them."""
    if not isinstance(tree, dict):
        return tree
    found = {name: _with_lists(value) for name, value in tree.items()}
    return {
        name.removesuffix(LIST): [value[i] for i in sorted(value, key=int)] if name.endswith(LIST) else value
        for name, value in found.items()
    }


def _is_number(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(_is_number(one) for one in value)
    return isinstance(value, bool | int | float)


def _value(name: str, array: Array) -> Any:
    if not name.endswith(NUMBER):
        return to_tensor(array)
    return tuple(array.tolist()) if array.ndim else array.item()


def _torch() -> Any:
    return sys.modules["torch"]
