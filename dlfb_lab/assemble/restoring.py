"""Putting a saved state into an object of the user's: parameters, a TrainState, a module, a state of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlfb_lab import models
from dlfb_lab.checkpoints.fit import Leaf, Problem
from dlfb_lab.checkpoints.selection import Selection
from dlfb_lab.data.source import Array
from dlfb_lab.errors import ModelError, OptionError, StoreError
from dlfb_lab.models.forms import is_number
from dlfb_lab.models.model import PyTree
from dlfb_lab.models.paths import unique_names

AT_ONCE_BYTES = 1 << 27
"""Of arrays that are read at once, before they are put where they belong."""

MOST_NAMED = 12
"""Leaves that do not fit and are named in a message; a dry run names all."""


class Target(NamedTuple):
    """An object of the user's that a state is put into.

    Attributes:
        tree: its leaves, of which arrays and numbers are restored.
        names: for each leaf in the order of `jax.tree.leaves` its name in the state; "" for one that stays.
        steps: for each leaf whether it counts the updates.
        extra: names in the state that it should have, by what they are called in it.
        put: makes the object of the tree with the new leaves.
    """

    tree: PyTree
    names: list[str]
    steps: list[bool]
    extra: dict[str, str]
    put: Callable[[PyTree], Any]


def fit(selection: Selection, into: Any) -> tuple[Target, list[Leaf]]:
    """Compares a state with an object of the user's, leaf by leaf; changes nothing.

    Raises:
        OptionError: it is nothing that a state could be put into.
    """
    target = _target(selection, into)
    saved, found = selection.shapes, []
    own = unique_names(target.tree)
    for name, key, counts, leaf in zip(own, target.names, target.steps, jax.tree.leaves(target.tree), strict=True):
        if counts or not key:
            continue
        given = _described(leaf)
        problem: Problem = ""
        if key not in saved:
            problem = "missing"
        elif saved[key][0] != given[0]:
            problem = "shape"
        elif saved[key][1] != given[1] and not _number_of_python(leaf, saved[key][1]):
            problem = "dtype"
        found.append(Leaf(name=name or "the state", problem=problem, saved=saved.get(key), given=given))
    found += [Leaf(name=name, problem="extra", saved=saved[key], given=None) for name, key in target.extra.items()]
    return target, found


def restored(selection: Selection, into: Any, cast: bool) -> tuple[Any, str]:
    """Returns an object like the user's with the saved values; modules of nnx, Keras and PyTorch are changed in place.

    Args:
        selection: the state.
        into: the user's object; what is no array or number in it stays.
        cast: whether values are converted to the dtypes of the user's object.

    Returns:
        The object, and what was converted in a sentence, "" for nothing.

    Raises:
        OptionError: a leaf does not fit; names all that do not, and nothing has been changed.
    """
    target, found = fit(selection, into)
    wrong = [leaf for leaf in found if leaf.problem and not (cast and leaf.problem == "dtype")]
    if wrong:
        raise OptionError(_refusal(selection, wrong))
    converted = [leaf for leaf in found if leaf.problem == "dtype"]
    leaves = jax.tree.leaves(target.tree)
    places: dict[str, list[int]] = {}
    for i, key in enumerate(target.names):
        if key and not target.steps[i]:
            places.setdefault(key, []).append(i)
    for key, array in selection.arrays(places, AT_ONCE_BYTES):
        for i in places[key]:
            leaves[i] = _placed(array, leaves[i])
    for i, counts in enumerate(target.steps):
        if counts:
            leaves[i] = _placed(np.asarray(selection.source.step, np.int32), leaves[i])
    tree = jax.tree.unflatten(jax.tree.structure(target.tree), leaves)
    kinds = sorted({f"{leaf.saved[1]} to {leaf.given[1]}" for leaf in converted if leaf.saved and leaf.given})
    said = f"{len(converted):,} arrays were converted from {', '.join(kinds)}." if converted else ""
    return target.put(tree), said


def nested(selection: Selection) -> dict[str, Any]:
    """Returns the parameters as nested dicts of NumPy arrays; all of the state where they cannot be told from it."""
    begin = selection.parameters or ("state/" if any(n.startswith("state/") for n in selection.shapes) else "")
    names = [name for name in selection.shapes if name.startswith(begin)]
    found: dict[str, Any] = {}
    for name, array in selection.arrays(names):
        *outer, last = name.removeprefix(begin).split("/")
        place = found
        for word in outer:
            inner = place.setdefault(word, {})
            if not isinstance(inner, dict):
                raise StoreError(f"restore: {name} and {word} are both arrays in {selection.found.name}. Give into=.")
            place = inner
        place[last] = np.array(array)
    return found


def _refusal(selection: Selection, wrong: list[Leaf]) -> str:
    said = f"restore: {selection.found.name} does not fit: {_listed([leaf.said for leaf in wrong])}. "
    if all(leaf.problem == "dtype" for leaf in wrong):
        return f"{said}Nothing was changed. To convert them: --cast (cast=True)."
    if any(leaf.name.startswith("opt_state/") for leaf in wrong) and not any(
        leaf.problem and leaf.name.startswith("params/") for leaf in wrong
    ):
        said += "The optimizer is another; to take the parameters alone, give those. "
    return f"{said}Nothing was changed. All leaves: --dry-run (dry_run=True)."


def _listed(said: list[str]) -> str:
    more = f"; and {len(said) - MOST_NAMED:,} more" if len(said) > MOST_NAMED else ""
    return "; ".join(said[:MOST_NAMED]) + more


def _target(selection: Selection, into: Any) -> Target:
    nnx, eqx = sys.modules.get("flax.nnx"), sys.modules.get("equinox")
    linen, keras, torch = (sys.modules.get(name) for name in ("flax.linen", "keras", "torch"))
    if (torch is not None and isinstance(into, torch.nn.Module)) or (
        keras is not None and isinstance(into, keras.Model) and keras.config.backend() != "jax"
    ):
        return _of_guest(selection, into)
    if not selection.of_model:
        if keras is not None and isinstance(into, keras.Model):
            return _of_compiled(selection, into)
        return _of_own_state(selection, into)
    if linen is not None and isinstance(into, linen.Module):
        raise OptionError(
            f"restore: {type(into).__name__} is a linen module, which holds no arrays. Give its parameters, or its "
            "variables; to predict with it: dlfb_lab.open_run(RUN, model=module)."
        )
    first = into[0] if isinstance(into, tuple) and into else into
    if (
        (nnx is not None and isinstance(into, nnx.Module))
        or (eqx is not None and isinstance(first, eqx.Module))
        or (keras is not None and isinstance(into, keras.Model))
    ):
        return _of_module(selection, into)
    return _of_tree(selection, into)


def _of_module(selection: Selection, module: Any) -> Target:
    """Takes a module's parameters and other variables as its adapter names them."""
    try:
        adapted: Any = models.adapt(module)
        params, extra, _ = adapted.start(jax.random.key(0), None)
    except ModelError as error:
        raise OptionError(f"restore: {error}") from error
    tree = {"params": params, "extra": extra}
    names = unique_names(tree)
    begins = tuple({f"{name.split('/')[0]}/" for name in names} | {"params/", "extra/"})
    others = {name: name for name in selection.shapes if name.startswith(begins) and name not in set(names)}

    def put(tree: PyTree) -> Any:
        return adapted.finish(tree["params"], tree["extra"], None, selection.source.step)

    return Target(tree, names, [False] * len(names), others, put)


def _of_guest(selection: Selection, model: Any) -> Target:
    """Takes the parameters and other variables of a model of another framework; it is changed in place."""
    try:
        factory: Any = models.adapt(model)
        keys = {name.removeprefix("model/"): (name, array) for name, array in factory.arrays().items()}
    except ModelError as error:
        raise OptionError(f"restore: {error}") from error
    tree = {name: array for name, (_, array) in sorted(keys.items())}
    names = [keys[name][0] for name in tree]
    saved = [name for name in selection.shapes if name.startswith(("model/", "buffers/")) and name not in set(names)]

    def put(tree: PyTree) -> Any:
        factory.load({keys[name][0]: array for name, array in tree.items()})
        return model

    return Target(tree, names, [False] * len(names), {name.removeprefix("model/"): name for name in saved}, put)


def _of_compiled(selection: Selection, model: Any) -> Target:
    """Takes the weights of a compiled Keras model; it is changed in place, its optimizer stays as it is."""
    if not model.built:
        raise OptionError(f"restore: The model {model.name} has no weights yet. Build it, or call it once.")
    variables = {"trainable": model.trainable_variables, "non_trainable": model.non_trainable_variables}
    tree = {kind: [np.asarray(v.value) for v in each] for kind, each in variables.items()}
    names = unique_names(tree)
    others = {n: n for n in selection.shapes if n.startswith(("trainable/", "non_trainable/")) and n not in set(names)}

    def put(tree: PyTree) -> Any:
        for kind, each in variables.items():
            for variable, value in zip(each, tree[kind], strict=True):
                variable.assign(jnp.array(value))
        return model

    return Target(tree, names, [False] * len(names), others, put)


def _of_tree(selection: Selection, tree: PyTree) -> Target:
    """Takes a pytree: parameters alone; variables, "params" beside other collections; or a state that has "params"."""
    own = unique_names(tree)
    if not any(_takes_values(leaf) for leaf in jax.tree.leaves(tree)):
        raise OptionError(f"restore: the {type(tree).__name__} that was given holds no arrays to restore.")
    tops = {name.partition("/")[0] for name in own}
    saved = selection.shapes
    whole = "params" in tops and (isinstance(tree, Mapping) or hasattr(tree, "params"))
    names, steps = [], []
    for name, leaf in zip(own, jax.tree.leaves(tree), strict=True):
        steps.append(whole and name == "step")
        if not _takes_values(leaf):
            names.append("")
        elif not whole:
            # Of an nnx module, parameters and other variables stand in one tree.
            names.append(
                f"extra/{name}" if f"params/{name}" not in saved and f"extra/{name}" in saved else f"params/{name}"
            )
        else:
            known = name.startswith(("params/", "opt_state/", "extra/")) or name == "params"
            names.append(name if known else f"extra/{name}")
    begins = ["params/"]
    if whole:
        begins += [f"{top}/" if top in ("opt_state", "extra") else f"extra/{top}/" for top in tops - {"params", "step"}]
    mine = set(names)
    others = {
        name.removeprefix("extra/" if whole and "extra" not in tops else "" if whole else "params/"): name
        for name in saved
        if name.startswith(tuple(begins)) and name not in mine
    }
    return Target(tree, names, steps, others, lambda tree: tree)


def _of_own_state(selection: Selection, tree: PyTree) -> Target:
    """Takes the state of a step of the user's own, or its entry "params"."""
    own, saved = unique_names(tree), selection.shapes
    values = [_takes_values(leaf) for leaf in jax.tree.leaves(tree)]
    if not any(values):
        raise OptionError(f"restore: the {type(tree).__name__} that was given holds no arrays to restore.")

    def within(begin: str) -> list[str]:
        return [(begin + name).rstrip("/") if value else "" for name, value in zip(own, values, strict=True)]

    begin = "state/" if any(name == "state" or name.startswith("state/") for name in saved) else ""
    names = within(begin)
    inner = f"{begin}params/"
    if not any(name in saved for name in names) and any(name in saved for name in within(inner)):
        begin, names = inner, within(inner)
    mine = set(names)
    others = {
        name.removeprefix(begin): name
        for name in saved
        if name.startswith(begin) and name not in mine and (begin or not name.startswith("arguments/"))
    }
    return Target(tree, names, [False] * len(names), others, lambda tree: tree)


def _takes_values(leaf: Any) -> bool:
    return is_number(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _described(leaf: Any) -> tuple[tuple[int, ...], str]:
    """Returns shape and dtype as they are saved: of a typed key those of the numbers that it consists of."""
    if _is_key(leaf):
        data = jax.eval_shape(jax.random.key_data, leaf)
        return tuple(data.shape), str(data.dtype)
    return tuple(np.shape(leaf)), np.dtype(getattr(leaf, "dtype", type(leaf))).name


def _number_of_python(leaf: Any, dtype: str) -> bool:
    """Whether a leaf is a number of Python's, and a saved one is of its kind: it has no dtype of its own."""
    if not isinstance(leaf, bool | int | float | complex) or isinstance(leaf, np.generic):
        return False
    kinds = {bool: "b", int: "iu", float: "fV", complex: "c"}
    return jnp.dtype(dtype).kind in kinds[type(leaf)]


def _placed(array: Array, leaf: Any) -> Any:
    """Returns a saved array as what the user had: of NumPy, Python or JAX, and on the same devices."""
    if _is_key(leaf):
        keys = jnp.asarray(array)
        return jax.random.wrap_key_data(keys, impl=jax.random.key_impl(leaf))
    if isinstance(leaf, np.generic):
        return array.astype(leaf.dtype)[()]
    if isinstance(leaf, np.ndarray):
        return np.array(array, leaf.dtype)
    if isinstance(leaf, bool | int | float | complex):
        return type(leaf)(array.item())
    value = array.astype(leaf.dtype, copy=False)
    sharding = getattr(leaf, "sharding", None)
    if sharding is not None and getattr(leaf, "committed", True):
        return jax.device_put(value, sharding)
    return jnp.array(value)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
