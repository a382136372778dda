"""What a value holds, in digits that are the same in another process: to know whether it is what it was then.

A fingerprint is the key of programs that are kept in this process, where what comes from an installed package counts
by identity. Here it counts by its name and by what it was made with: the numbers in the closures of an optimizer, the
configuration of a layer. What training changes in place does not count: parameters, and the state of an optimizer.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Set
from enum import Enum
from functools import partial
from pathlib import PurePath
from types import FunctionType, MethodType, ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xxhash

from dlfb_lab.models import keras_key
from dlfb_lab.models.fingerprint import code_key, globals_used, held, is_installed, own_members
from dlfb_lab.models.model import Identity

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis))
_SAID_BY_REPR = (np.generic, np.dtype, range, slice, bytearray, PurePath, re.Pattern)

MOST_DEPTH = 50
"""How far a value is followed; the closures of an optimizer with a schedule go twenty deep."""

MOST_PARTS = 10_000
"""Of a value that are looked at; of a longer list, items at equal distances."""

SAMPLE_BYTES = 1 << 24
"""Of an array that are compared; of a larger one, rows at equal distances."""

MODES = frozenset(("deterministic", "use_running_average", "training"))
"""Attributes of nnx modules that say whether this is training."""

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def digest(*values: Any) -> str:
    """Returns 16 hexadecimal digits that are others when what the values hold, or compute, is something else.

    Never raises: what cannot be looked at counts by its type.
    """
    walk = _Walk()
    return _hashed(walk.of(value) for value in values)


def sampled(array: np.ndarray[Any, Any]) -> bytes:
    """Returns the bytes of an array, or of a large one those of rows at equal distances."""
    while array.nbytes > SAMPLE_BYTES and array.ndim:
        array = array[0] if len(array) == 1 else array[:: -(-array.nbytes // SAMPLE_BYTES)]
    return array.tobytes()


class _Walk:
    """Goes through values, each once: what it was, by its `id`, with the object itself so that the id stays its own."""

    def __init__(self) -> None:
        self._said: dict[tuple[int, bool], tuple[Any, str]] = {}
        self._depth = 0
        # Tensors among the attributes of a module may be its state.
        self._tensors = True

    def of(self, value: Any) -> str:
        if issubclass(type(value), _PLAIN):
            return repr(value)
        key, name = (id(value), self._tensors), _name(type(value))
        if key in self._said:
            return self._said[key][1]
        if self._depth > MOST_DEPTH or len(self._said) > MOST_PARTS:
            return name
        # Where it holds itself.
        self._said[key] = value, name
        before = self._depth, self._tensors
        self._depth += 1
        try:
            said = _hashed(part if isinstance(part, str) else self.of(part[0]) for part in self._parts(value))
        except Exception:  # of an attribute of the user's own, or an array that is no more
            said = name
        self._depth, self._tensors = before
        self._said[key] = value, said
        return said

    def _parts(self, value: Any) -> Iterator[str | tuple[Any]]:
        """Yields what a value is made of: words, and further values in tuples of one."""
        if isinstance(value, Identity):
            yield (value.value,)
        elif isinstance(value, ModuleType):
            yield value.__name__
        elif _is_named(value):
            yield f"{value.__module__}.{value.__qualname__}"
        elif isinstance(value, type):
            yield _name(value)
            if not _is_known(value):
                yield (own_members(value),)
        elif isinstance(value, FunctionType):
            yield from self._of_function(value)
        else:
            yield (type(value),)
            yield from self._of_object(value)

    def _of_function(self, function: FunctionType) -> Iterator[str | tuple[Any]]:
        if _is_known(function):
            yield f"{function.__module__}.{function.__qualname__}"
        else:
            yield (code_key(function.__code__),)
            used = globals_used(function.__code__)
            yield ({name: function.__globals__[name] for name in used if name in function.__globals__},)
        yield ([held(cell) for cell in function.__closure__ or ()],)
        yield (function.__defaults__,)
        yield (function.__kwdefaults__,)

    def _of_object(self, value: Any) -> Iterator[str | tuple[Any]]:
        if isinstance(value, _SAID_BY_REPR):
            yield repr(value)
        elif isinstance(value, Enum):
            yield value.name
        elif isinstance(value, np.ndarray | jax.Array):
            yield from _of_array(value)
        elif isinstance(value, partial):
            yield from ((value.func,), (value.args,), (value.keywords,))
        elif isinstance(value, MethodType):
            yield from ((value.__self__,), (value.__func__,))
        elif isinstance(value, Mapping):
            yield str(len(value))
            yield from sorted(f"{self.of(key)}: {self.of(item)}" for key, item in _spread(list(value.items())))
        elif isinstance(value, tuple | list):
            yield str(len(value))
            yield from ((item,) for item in _spread(value))
        elif isinstance(value, Set):
            yield str(len(value))
            yield from sorted(map(self.of, value)) if len(value) <= MOST_PARTS else ()
        else:
            yield from self._of_guest(value) or _of_attributes(value)

    def _of_guest(self, value: Any) -> Iterable[str | tuple[Any]] | None:
        """Returns the parts of what belongs to a framework, or None."""
        torch, keras, nnx = (sys.modules.get(name) for name in ("torch", "keras", "flax.nnx"))
        if nnx is not None and isinstance(value, nnx.Variable):
            return [""]
        if nnx is not None and isinstance(value, nnx.Pytree):
            return _of_nnx(value)
        if torch is not None and hasattr(torch, "nn"):
            if isinstance(value, torch.dtype):
                return [repr(value)]
            if isinstance(value, torch.Tensor):
                return _of_tensor(value, self._tensors)
            if isinstance(value, torch.nn.Module):
                return self._of_torch(value)
            if isinstance(value, torch.optim.Optimizer):
                return [([{k: v for k, v in group.items() if k != "params"} for group in value.param_groups],)]
        if keras is not None and hasattr(keras, "layers"):
            if isinstance(value, keras.Variable):
                return [""]
            if isinstance(value, keras.layers.Layer):
                return [(keras_key.architecture(value),)]
            if hasattr(value, "get_config") and any(keras_key.is_of_keras(cls) for cls in type(value).__mro__):
                return [(keras_key.configured(value),)]
        return None

    def _of_torch(self, module: Any) -> Iterator[str | tuple[Any]]:
        """Yields classes and plain attributes; buffers where nothing is trained, as of a loss that has weights."""
        torch: Any = sys.modules["torch"]
        if next(module.parameters(), None) is None:
            for name, buffer in module.named_buffers():
                if name.rpartition(".")[2] not in _STATISTICS:
                    yield from (name, (buffer,))
        self._tensors = False
        for path, part in module.named_modules():
            yield from (path, (type(part),))
            for name, value in sorted(vars(part).items()):
                if not name.startswith("_") and name != "training" and not isinstance(value, torch.nn.Module):
                    yield from (name, (value,))


def _of_array(array: Any) -> Iterator[str | tuple[Any]]:
    yield str((array.shape, array.dtype))
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    array = np.asarray(array)
    yield (_spread(array.reshape(-1)).tolist(),) if array.dtype.hasobject else xxhash.xxh3_64_hexdigest(sampled(array))


def _of_tensor(tensor: Any, by_content: bool) -> Iterator[str]:
    yield str((tuple(tensor.shape), tensor.dtype))
    if by_content and not tensor.requires_grad:
        uint8 = sys.modules["torch"].uint8
        yield xxhash.xxh3_64_hexdigest(sampled(tensor.cpu().reshape(-1).contiguous().view(uint8).numpy()))


def _of_nnx(module: Any) -> Iterator[str | tuple[Any]]:
    nnx: Any = sys.modules["flax.nnx"]
    for path, node in nnx.iter_graph(module):
        if isinstance(node, nnx.Pytree):
            yield from (str(path), (type(node),), (_static(node),))


def _static(node: Any) -> dict[str, Any]:
    """Returns the attributes of an nnx module that are neither its parts nor of Flax, nor say in which mode it is."""
    nnx: Any = sys.modules["flax.nnx"]
    parts = nnx.Pytree | nnx.Variable
    return {
        name: value
        for name, value in vars(node).items()
        if name not in MODES
        and not name.startswith("_pytree__")
        and not any(
            isinstance(leaf, parts | jax.Array)
            for leaf in jax.tree.leaves(value, is_leaf=lambda part: isinstance(part, parts))
        )
    }


def _of_attributes(value: Any) -> Iterator[str | tuple[Any]]:
    """Yields the fields of a dataclass, and the attributes of the user's own objects and of Optax's."""
    # Of functions that are not Python's own: ufuncs, and those that are written in C.
    yield str(getattr(value, "__name__", ""))
    if callable(value) and hasattr(value, "__wrapped__"):
        yield (value.__wrapped__,)
    elif dataclasses.is_dataclass(value):
        # Of a linen module the rest of its attributes belongs to Flax.
        yield ({f.name: getattr(value, f.name, None) for f in dataclasses.fields(value) if f.name != "parent"},)
    elif hasattr(value, "__dict__") and (not _is_known(value) or type(value).__module__.startswith("optax.")):
        yield (vars(value),)


def _is_known(value: Any) -> bool:
    """Whether a function, a class or an object's class is of an installed package, or ours: its code is its name."""
    owner = value if isinstance(value, type | FunctionType) else type(value)
    return is_installed(value) or str(owner.__module__).startswith("dlfb_lab.")


def _is_named(value: Any) -> bool:
    """Whether a value is what an installed package has under the value's own name, which says all of it then."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value and is_installed(found, module)


def _spread(items: Any) -> Any:
    """Returns a sequence, or of a long one items at equal distances."""
    return items[:: -(-len(items) // MOST_PARTS)] if len(items) > MOST_PARTS else items


def _name(cls: type) -> str:
    """Returns a class's name; of the user's own without its module, which may be a notebook now."""
    return f"{cls.__module__}.{cls.__qualname__}" if _is_known(cls) else cls.__qualname__


def _hashed(parts: Iterable[str]) -> str:
    return xxhash.xxh3_64_hexdigest(repr(list(parts)).encode(errors="backslashreplace"))
