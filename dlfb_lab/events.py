"""The vocabulary of a run: one frozen dataclass per event, and its JSON codec.

Every event has a place on the run's step axis. Journals, widgets and the server
all speak this vocabulary; `labextension/core/events.ts` is generated from it by
`labextension/generate_events.py`.

NaN and infinity are encoded on purpose: scalars as the strings "NaN",
"Infinity" and "-Infinity", blocks of losses as base64 of their raw bits.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import math
import time
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt

SCHEMA = 1
"""Version of the vocabulary. A reader skips the kinds and fields that it does not know."""

State = Literal["compiling", "running", "paused", "finished", "stopped", "failed"]
ENDED: tuple[State, ...] = ("finished", "stopped", "failed")

FloatBlock = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a run.

    Attributes:
        step: updates applied when it happened; its place on the step axis.
        time_s: when it happened, Unix time in seconds.
    """

    kind: ClassVar[str] = ""
    step: int
    time_s: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """The plan of a run, every default made visible.

    Attributes:
        version: the vocabulary's version.
        run_id: the run's folder name, unique in its store.
        name: the user's name for the run.
        task: binary, multiclass, multilabel or regression.
        task_sentence: the task said aloud, for people.
        classes: names of the classes or labels; empty for regression.
        model: the model's name.
        model_kind: which adapter trains it, for example "linen".
        parameter_count: scalar parameters in the model.
        steps_total: updates planned.
        steps_per_epoch: updates per pass over the training rows.
        batch_size: rows per update.
        evaluations_total: evaluations planned.
        monitor: the history column whose best is kept, for example "valid/loss"; empty when there is none.
        monitor_mode: whether a small or a large monitored value is better.
        rows: rows per split part ("train", "valid", "test").
        split_hash: identifies which rows are in which part.
        settings: every option of the run, by name.
        versions: of Python and of the packages that matter.
        device: what the run is trained on.
        source: the cell that started it, when known.
        members: names of what is trained at once, for example "seed 1"; empty where it is one model.
        parent: the run whose checkpoint it began from; empty where it began anew.
        parent_step: updates applied to that checkpoint.
    """

    kind: ClassVar[str] = "run_started"
    version: int = SCHEMA
    run_id: str
    name: str
    task: str
    task_sentence: str
    classes: list[str]
    model: str
    model_kind: str
    parameter_count: int
    steps_total: int
    steps_per_epoch: int
    batch_size: int
    evaluations_total: int
    monitor: str
    monitor_mode: Literal["min", "max"]
    rows: dict[str, int]
    split_hash: str
    settings: dict[str, Any]
    versions: dict[str, str]
    device: str
    source: str = ""
    members: list[str] = field(default_factory=list)
    parent: str = ""
    parent_step: int = 0


@dataclass(frozen=True, kw_only=True)
class Baseline(Event):
    """The scores of a simple method: a horizontal line on the charts of a split.

    Attributes:
        name: for example "majority class".
        split: the part it was scored on.
        metrics: scores by metric name, "loss" among them.
    """

    kind: ClassVar[str] = "baseline"
    name: str
    split: str
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Losses(Event):
    """The training losses of one or more dispatches.

    Attributes:
        first_step: step of the first value. The loss at step s was computed with s updates applied.
        losses: shape [count]; float32 or float64. With several members, their mean.
        stride: 1 in a journal; in a shortened copy each value is the mean of this many steps.
        duration_s: wall time spent training these steps, without evaluation, pauses or compilation.
        dispatches: dispatches of one or more steps that they came from.
        parts: other scalars of each step by name, for example the parts of a loss; each of shape [count].
        members: the loss of each member, of shape [count], in the order of `RunStarted.members`.
    """

    kind: ClassVar[str] = "losses"
    first_step: int
    losses: FloatBlock
    stride: int = 1
    duration_s: float
    dispatches: int = 1
    parts: dict[str, FloatBlock] = field(default_factory=dict)
    members: list[FloatBlock] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Evaluation(Event):
    """The scores of the model, at a step, on one part of the data.

    Attributes:
        split: "train", "valid", "test", or "data" for other data.
        metrics: scores by metric name, "loss" among them. With several members, their mean.
        rows: rows that were scored.
        duration_s: wall time it took.
        look: how many times the test part has now been looked at; 0 for other parts.
        members: the scores of each member, in the order of `RunStarted.members`.
    """

    kind: ClassVar[str] = "evaluation"
    split: str
    metrics: dict[str, float]
    rows: int
    duration_s: float
    look: int = 0
    members: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Compilation(Event):
    """A program was compiled.

    Attributes:
        program: which one, for example "train step".
        trace_s: Python tracing, seconds.
        lower_s: lowering to StableHLO, seconds.
        compile_s: XLA, seconds.
        planned: whether the plan foresaw it.
        cause: why, for people.
    """

    kind: ClassVar[str] = "compilation"
    program: str
    trace_s: float
    lower_s: float
    compile_s: float
    planned: bool
    cause: str


@dataclass(frozen=True, kw_only=True)
class Status(Event):
    """The run entered a state.

    Attributes:
        state: the state entered.
        reason: why, for people; may be empty.
    """

    kind: ClassVar[str] = "status"
    state: State
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Notice(Event):
    """Something the user should know.

    Attributes:
        level: "info", or "warning" where the result may suffer.
        text: one or two sentences: what, the value seen, what to do.
    """

    kind: ClassVar[str] = "notice"
    level: Literal["info", "warning"]
    text: str


@dataclass(frozen=True, kw_only=True)
class PlanChosen(Event):
    """How steps are run from here on, and why.

    Attributes:
        plan: "one by one" (a dispatch a step), "fused" (many steps in a dispatch), "streamed" (batches from the host),
            or "as it is" (another framework's step, or one that cannot be compiled).
        reason: why, for people.
        step_s: measured time of a step one by one, seconds; NaN where it was not measured.
        fused_step_s: measured time of a fused step, seconds; NaN where it was not measured.
    """

    kind: ClassVar[str] = "plan_chosen"
    plan: str
    reason: str
    step_s: float = math.nan
    fused_step_s: float = math.nan


@dataclass(frozen=True, kw_only=True)
class RateTest(Event):
    """Losses at learning rates that rise step by step, tried before training to choose one.

    Attributes:
        rates: learning rates, ascending, shape [count].
        losses: the training loss at each, shape [count]; not finite where training broke down.
        chosen: the rate that was chosen.
        duration_s: wall time it took.
    """

    kind: ClassVar[str] = "rate_test"
    rates: FloatBlock
    losses: FloatBlock
    chosen: float
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved(Event):
    """The state at a step is on the disk.

    Attributes:
        bytes: its size there.
        duration_s: wall time it took, while training went on.
        stall_s: wall time for which training waited.
        state: "complete", or "not finite" where an array has a NaN or an infinity.
        kept: steps of all checkpoints that the run has since then.
    """

    kind: ClassVar[str] = "checkpoint_saved"
    bytes: int
    duration_s: float
    stall_s: float
    state: str
    kept: list[int]


@dataclass(frozen=True, kw_only=True)
class DeviceMemory(Event):
    """What JAX's allocator holds of one device's memory. NaN is what the backend does not report.

    Attributes:
        device: as JAX names it, for example "cuda:0".
        device_kind: the hardware, for example "NVIDIA H100".
        in_use_bytes: held by arrays and programs.
        peak_bytes: the most that was in use since the process began.
        limit_bytes: the most that it may take.
        pool_bytes: what it has taken from the device, whether or not it is in use.
        preallocated: whether it takes its pool at the start, so that the device looks full from then on.
        reason: why there are no figures; empty where there are.
    """

    kind: ClassVar[str] = "device_memory"
    device: str
    device_kind: str
    in_use_bytes: float = math.nan
    peak_bytes: float = math.nan
    limit_bytes: float = math.nan
    pool_bytes: float = math.nan
    preallocated: bool = False
    reason: str = ""


KINDS: dict[str, type[Event]] = {
    cls.kind: cls
    for cls in (
        RunStarted,
        Baseline,
        Losses,
        Evaluation,
        Compilation,
        Status,
        Notice,
        PlanChosen,
        RateTest,
        CheckpointSaved,
        DeviceMemory,
    )
}


def joined(earlier: Losses, later: Losses) -> Losses | None:
    """Returns one block in the place of two, or None where the second does not follow the first."""
    follows = earlier.first_step + earlier.stride * len(earlier.losses) == later.first_step
    if not follows or earlier.stride != later.stride or _series(earlier) != _series(later):
        return None
    return Losses(
        step=later.step,
        time_s=later.time_s,
        first_step=earlier.first_step,
        losses=np.concatenate([earlier.losses, later.losses]),
        stride=earlier.stride,
        duration_s=earlier.duration_s + later.duration_s,
        dispatches=earlier.dispatches + later.dispatches,
        parts={name: np.concatenate([block, later.parts[name]]) for name, block in earlier.parts.items()},
        members=[np.concatenate(pair) for pair in zip(earlier.members, later.members, strict=True)],
    )


def _series(event: Losses) -> tuple[Any, ...]:
    """Returns what two blocks must have in common to be joined."""
    parts = {name: block.dtype for name, block in event.parts.items()}
    return event.losses.dtype, parts, [block.dtype for block in event.members]


class Sink(Protocol):
    """Whoever listens to a run."""

    def put(self, event: Event) -> None:
        """Takes one event. May raise: the run reports it once and lets the sink go."""

    def close(self) -> None:
        """Called once, after the last event."""


def to_json(event: Event) -> dict[str, Any]:
    """Returns the event as JSON values that every strict parser reads."""
    values = {f.name: _encode(getattr(event, f.name)) for f in dataclasses.fields(event)}
    return {"kind": event.kind, **values}


def from_json(values: dict[str, Any]) -> Event | None:
    """Returns the event that `to_json` wrote, or None for a kind of a newer vocabulary.

    Raises:
        KeyError, TypeError, ValueError: the values are not an event.
    """
    cls = KINDS.get(values["kind"])
    if cls is None:
        return None
    known: Any = cls
    names, decoders = _codec(known)
    fields = {name: value for name, value in values.items() if name in names}
    for name, decode in decoders:
        if name in fields:
            fields[name] = decode(fields[name])
    return cls(**fields)


_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_BLOCK_TYPES: dict[str, np.dtype[np.floating[Any]]] = {"f4": np.dtype("<f4"), "f8": np.dtype("<f8")}


def _encode(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        number = float(value)
        if math.isfinite(number):
            return number
        return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    if isinstance(value, np.ndarray):
        code = "f8" if value.dtype.itemsize > 4 else "f4"
        return f"{code}:{base64.b64encode(value.astype(_BLOCK_TYPES[code]).tobytes()).decode('ascii')}"
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, dict):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    return value


@cache
def _codec(cls: Any) -> tuple[frozenset[str], list[tuple[str, Callable[[Any], Any]]]]:
    """Returns a kind's fields, and what reads those that JSON does not hold as they are.

    Worked out once, because a long journal has many events.
    """
    hints = typing.get_type_hints(cls)
    found = [(f.name, _decoder(hints[f.name])) for f in dataclasses.fields(cls)]
    return frozenset(name for name, _ in found), [(name, decode) for name, decode in found if decode is not None]


def _decoder(hint: Any) -> Callable[[Any], Any] | None:
    if hint is float:
        return _decode_float
    if hint == FloatBlock:
        return _decode_block
    if typing.get_origin(hint) is dict:
        item = _decoder(typing.get_args(hint)[1]) or _as_is
        return lambda value: {key: item(v) for key, v in dict(value).items()}
    if typing.get_origin(hint) is list:
        item = _decoder(typing.get_args(hint)[0]) or _as_is
        return lambda value: [item(v) for v in value]
    return None


def _as_is(value: Any) -> Any:
    return value


def _decode_float(value: Any) -> float:
    return _NON_FINITE[value] if isinstance(value, str) else float(value)


def _decode_block(value: Any) -> FloatBlock:
    code, _, text = str(value).partition(":")
    return np.frombuffer(binascii.a2b_base64(text, strict_mode=True), _BLOCK_TYPES[code])
