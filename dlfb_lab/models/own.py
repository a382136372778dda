"""Adapter for a training step of the user's own, with a state that is theirs alone."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlfb_lab.errors import FAILURES, DlfbLabError, ModelError, OptionError, one_line
from dlfb_lab.models.calls import Call, by_name, check_taken, raw
from dlfb_lab.models.fingerprint import fingerprint
from dlfb_lab.models.forms import Form, is_array, is_number, is_weak, settled, strong
from dlfb_lab.models.model import PyTree, Values, hashable
from dlfb_lab.models.returns import FORMS, is_scalar, kind, losses, number, scores

NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


class Carried(NamedTuple):
    """What a step is handed by the one before. All arrays.

    Attributes:
        state: the user's state, with None in the place of all that is no array.
        arguments: the arrays among the further arguments, which no step changes.
    """

    state: PyTree
    arguments: PyTree


@dataclass(frozen=True)
class Way:
    """How a step is called. Holds no arrays.

    Attributes:
        call: the user's function, and what its arguments stand for.
        state: the form of the state.
        arguments: the form of the further arguments.
        raw_keys: whether keys are given in the old style, as uint32 numbers.
        traces: whether the function can be compiled.
        notice: why it cannot, for people; "" where it can.
    """

    call: Call
    state: Form
    arguments: Form
    raw_keys: bool
    traces: bool = True
    notice: str = ""

    @property
    def key(self) -> Hashable:
        """What the compiled function depends on."""
        return hashable(self.call.function), fingerprint(self.call.function), self.raw_keys, self.traces


class OwnStep:
    """A user's `train_step` and the state it starts from; and their `eval_step`, if they give one.

    Attributes:
        notices: what people should know about how it is called.
    """

    kind = "own step"

    def __init__(self, train: Way, evaluation: Way | None, given: Carried) -> None:
        self._train, self._evaluation, self._given = train, evaluation, given
        self.name = train.call.name
        self.traces = train.traces
        self.evaluates = evaluation is not None
        self.evaluation_traces = evaluation is None or evaluation.traces
        self.notices = tuple(way.notice for way in (train, evaluation) if way is not None and way.notice)

    @property
    def key(self) -> Hashable:
        """Both functions, and the forms of the state and of the arguments."""
        evaluation = self._evaluation.key if self._evaluation is not None else None
        return self.kind, self._train.key, evaluation, self._train.state.key, self._train.arguments.key

    @property
    def step(self) -> Callable[[Carried, PyTree, jax.Array, Any], tuple[Carried, Values]]:
        """See `Stepper.step`. A function without arrays, unlike this object."""
        return partial(_advanced, self._train)

    @property
    def evaluate(self) -> Callable[[Carried, PyTree, jax.Array], Values]:
        """See `Stepper.evaluate`.

        Raises:
            OptionError: there is no evaluation step.
        """
        if self._evaluation is None:
            raise OptionError(f"The step `{self.name}` came without an evaluation step. Say --eval-step.")
        return partial(_scored, self._evaluation)

    def start(self, rng: jax.Array, batch: PyTree) -> Carried:
        """See `Stepper.start`. Copies what the user gave."""
        copies: Carried = jax.tree.map(lambda a: a.copy(), self._given)
        return copies

    def outputs(self, state: Carried, x: PyTree) -> Any:
        """Refuses.

        Raises:
            OptionError: always: a step says how to train, not how to predict.
        """
        raise OptionError(
            f"A step of your own, such as `{self.name}`, says how to train and not how to predict. "
            "Call your model with run.state."
        )

    def parameter_count(self, state: Carried) -> int:
        """See `Stepper.parameter_count`. Counts the state's `params`, or else all floats but for optax's states."""
        whole = self._train.state.whole(state.state)
        params = _entry(whole, "params")
        params = whole if params is None else _entry(params, "params") or params
        leaves = jax.tree.leaves(params, is_leaf=lambda node: type(node).__module__.partition(".")[0] == "optax")
        return sum(int(np.size(a)) for a in leaves if is_array(a) and jnp.issubdtype(a.dtype, jnp.inexact))

    def finish(self, state: Carried, step: int) -> Any:
        """Returns the state as the user's step returned it last."""
        return self._train.state.whole(state.state)


def own_step(
    step: Any,
    state: PyTree,
    batch: PyTree,
    eval_step: Any = None,
    arguments: Mapping[str, Any] | None = None,
    eval_batch: PyTree | None = None,
) -> OwnStep:
    """Adapts a user's step. Traces it abstractly on a batch, so that what does not fit is said before training.

    Args:
        step: (state, batch[, key]) to (state, loss), (state, (loss, parts)) or (state, metrics).
        state: what the step starts from: any pytree.
        batch: one batch, as the steps will get them.
        eval_step: (state, batch[, key]) to a loss, a dict of metrics, or (loss, metrics).
        arguments: further arguments of both, by name. Arrays in them are carried along, and all else is fixed.
        eval_batch: one batch, as the evaluation steps will get them; None for `batch`.

    Raises:
        OptionError: an argument cannot be filled.
        ModelError: the state cannot be carried, or a step fails, or returns something else.
    """
    arguments = by_name(arguments)
    call = Call("--step", step, arguments)
    evaluation = Call("--eval-step", eval_step, arguments) if eval_step is not None else None
    check_taken(arguments, call, evaluation)
    _check_state(state)
    form = Form(state, is_number)
    further = Form(arguments, is_array)
    # Not copied yet: `start` does that, and nothing holds a second copy for as long as a run.
    given = Carried(jax.tree.map(jnp.asarray, form.arrays(state)), jax.tree.map(jnp.asarray, further.arrays(arguments)))
    train, given = _settled(call, form, further, given, batch)
    if not train.traces:
        given = Carried(jax.tree.map(settled, form.arrays(state)), further.arrays(arguments))
    scored = batch if eval_batch is None else eval_batch
    way = _tried(evaluation, form, further, _scored, given, scored)[0] if evaluation is not None else None
    return OwnStep(train, way, given)


def _check_state(state: PyTree) -> None:
    nnx: Any = sys.modules.get("flax.nnx")
    if nnx is not None:
        mutable = (nnx.Module, nnx.Optimizer, nnx.Rngs)
        for node in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, mutable)):
            if isinstance(node, mutable):
                raise ModelError(
                    f"--state holds a {type(node).__name__} of Flax nnx, which a step changes in place. Split it: "
                    "graphdef, state = nnx.split((model, optimizer)); let the step begin with "
                    "nnx.merge(graphdef, state) and return nnx.state((model, optimizer)); and give that state."
                )
    if not any(is_array(leaf) for leaf in jax.tree.leaves(state)):
        raise ModelError(
            f"--state is {kind(state)} and holds no arrays. Give what your step takes first and returns first; "
            "a step that keeps its state to itself is given without --state."
        )


def _settled(call: Call, form: Form, further: Form, given: Carried, batch: PyTree) -> tuple[Way, Carried]:
    """Finds how the training step is called, and the dtypes at which its state stays as it is.

    A number of Python's, such as `step=0`, comes back from some steps as one whose dtype no longer gives way. It
    starts like that then: or the second step would be another program than the first.
    """
    while True:
        way, shapes = _tried(call, form, further, _advanced, given, batch)
        if not way.traces:
            return way, given
        changes = jax.tree.map(lambda a, b: is_weak(a) and not is_weak(b), given.state, shapes[0].state)
        if not any(jax.tree.leaves(changes)):
            return way, given
        given = given._replace(state=jax.tree.map(lambda a, change: strong(a) if change else a, given.state, changes))


def _tried(
    call: Call, form: Form, further: Form, program: Callable[..., Any], given: Carried, batch: PyTree
) -> tuple[Way, Any]:
    """Traces a step abstractly, with a key of the new style and then, should that fail, of the old.

    Returns:
        How to call it, and the shapes that it returns; None where it cannot be traced.

    Raises:
        ModelError: it fails for another reason than that it needs numbers.
    """
    failed: list[tuple[Way, Exception]] = []
    for raw_keys in (False, True) if call.keys else (False,):
        way = Way(call, form, further, raw_keys)
        before = np.random.get_state(), random.getstate()
        try:
            shapes = jax.eval_shape(partial(program, way), given, batch, jax.random.key(0))
            drawn = str(np.random.get_state()) != str(before[0]) or random.getstate() != before[1]
        except Exception as error:
            failed.append((way, error))
            continue
        finally:
            np.random.set_state(before[0])
            random.setstate(before[1])
        if drawn:
            return _plain(way, "draws NumPy's or Python's random numbers, which a program would do only once"), None
        return way, shapes
    for way, why in failed:
        if _needs_values(why):
            return _plain(way, f"needs numbers while it runs ({one_line(why.__cause__ or why)})"), None
    first = failed[0][1]
    raise first if isinstance(first, DlfbLabError) else ModelError(f"{call.who}: {one_line(first)}") from first


def _plain(way: Way, why: str) -> Way:
    notice = f"{way.call.who} {why}. So it is called as it is, once for every batch, and not compiled."
    return replace(way, traces=False, notice=notice)


def _needs_values(error: BaseException | None) -> bool:
    """Whether a step failed because it was traced: it wanted a number, or handed arrays to another framework."""
    while error is not None:
        if isinstance(error, NEEDS_VALUES) or "Tracer" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _called(way: Way, carried: Carried, batch: PyTree, rng: jax.Array) -> Any:
    call = way.call
    key = raw(rng, way.raw_keys) if call.keys else rng
    try:
        return call(way.state.whole(carried.state), batch, key, way.arguments.whole(carried.arguments))
    except DlfbLabError:
        raise
    except FAILURES as error:
        if "Non-hashable static" in str(error):
            raise ModelError(
                f"{call.who} was given an array or a list for an argument that it declares static. Give Python's "
                "numbers, texts or tuples: --args dict(NAME=…)."
            ) from error
        raise ModelError(f"{call.who} failed. {one_line(error)}") from error


def _advanced(
    way: Way, carried: Carried, batch: PyTree, rng: jax.Array, epoch_begins: Any = False
) -> tuple[Carried, Values]:
    who = way.call.who
    returned = _called(way, carried, batch, rng)
    if way.state.fits(returned):
        raise ModelError(f"{who} returned the state alone. {FORMS}.")
    if not isinstance(returned, tuple | list) or len(returned) < 2:
        raise ModelError(f"{who} returned {kind(returned)}. {FORMS}.")
    if way.state.fits(returned[-1]) and not way.state.fits(returned[0]):
        raise ModelError(f"{who} returned the state last. {FORMS}.")
    state = way.state.follow(carried.state, returned[0], who)
    values = losses(returned[1] if len(returned) == 2 else tuple(returned[1:]), who)
    return Carried(state, carried.arguments), _read(way, values)


def _scored(way: Way, carried: Carried, batch: PyTree, rng: jax.Array) -> Values:
    returned = _called(way, carried, batch, rng)
    pair = isinstance(returned, tuple | list) and len(returned) == 2
    if pair and way.state.fits(returned[0]) and not is_scalar(returned[0]):
        returned = returned[1]
    return _read(way, scores(returned, way.call.who))


def _read(way: Way, values: dict[str, Any]) -> Values:
    read: Callable[[Any], Any] = jnp.asarray if way.traces else lambda value: np.asarray(number(value))
    return {name: read(value) for name, value in values.items()}


def _entry(tree: PyTree, name: str) -> PyTree | None:
    return tree.get(name) if isinstance(tree, Mapping) else getattr(tree, name, None)
