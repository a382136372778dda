"""What PyTorch's modules and optimizers hold, as NumPy arrays by name: what is saved needs no pickle to be read."""

from __future__ import annotations

import sys
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


def optimizer_arrays(optimizer: Any) -> dict[str, Array]:
    """Returns copies of an optimizer's state, and its groups' numbers as "hyper/<group>/<name>:number"."""
    state = optimizer.state_dict()
    found = dict(_flat(state["state"], "optimizer"))
    for i, group in enumerate(state["param_groups"]):
        numbers = {name: value for name, value in group.items() if name != "params" and _is_number(value)}
        found |= {f"hyper/{i}/{name}{NUMBER}": np.asarray(value) for name, value in numbers.items()}
    return found


def load_optimizer(optimizer: Any, arrays: Arrays) -> None:
    """Puts an optimizer's state back, and those of its groups' numbers that are given.

    Raises:
        StoreError: it is that of another optimizer.
    """
    groups = optimizer.state_dict()["param_groups"]
    state: dict[int, dict[str, Any]] = {}
    for name, array in arrays.items():
        kind, _, rest = name.partition("/")
        number, _, key = rest.partition("/")
        if kind == "optimizer":
            *within, last = key.removesuffix(NUMBER).split("/")
            held = state.setdefault(int(number), {})
            for part in within:
                held = held.setdefault(part, {})
            held[last] = _value(name, array)
        elif kind == "hyper" and int(number) < len(groups):
            groups[int(number)][key.removesuffix(NUMBER)] = _value(name, array)
    state = {number: _with_lists(values) for number, values in state.items()}
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except (ValueError, RuntimeError, KeyError) as error:
        raise StoreError(f"The optimizer is not the one that was saved: {error}") from error
    # PyTorch has converted them to their parameters' dtypes.
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for i, values in state.items():
        held = optimizer.state[parameters[i]]
        for key, value in values.items():
            if isinstance(value, _torch().Tensor) and held[key].dtype != value.dtype:
                held[key] = value.to(held[key].device)


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
