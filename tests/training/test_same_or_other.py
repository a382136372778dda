"""What counts as the same when a run is gone on with, and what as something else: both have to be told apart."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import dlfb_lab
from dlfb_lab.assemble import resume
from dlfb_lab.assemble.request import TrainRequest
from dlfb_lab.models.content import digest

X = np.linspace(-1, 1, 160, dtype=np.float32).reshape(40, 4)
Y = X[:, 0].copy()


class Net(nn.Module):
    rate: Any = 0.1

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(1)(x) * self.rate


class Own:
    """An object of the user's."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self, *given: Any) -> Any:
        return self.value

    def method(self, *given: Any) -> Any:
        return self.value


@dataclasses.dataclass
class Fields:
    value: Any


class Named(NamedTuple):
    value: Any


class Color(Enum):
    RED = 1
    BLUE = 2


class Part(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, keep: Any = None) -> None:
        self.dense, self.keep = nnx.Linear(4, 1, rngs=rngs), keep

    def __call__(self, x: Any) -> Any:
        return self.dense(x)


class Static(eqx.Module):
    dense: eqx.nn.Linear
    scale: float

    def __init__(self, scale: float) -> None:
        self.dense, self.scale = eqx.nn.Linear(4, 1, key=jax.random.key(0)), scale


def held(value: Any) -> Callable[..., Any]:
    """A loss, or a step, that has something in its closure."""
    return lambda *given: value


def using(value: Any) -> Callable[..., Any]:
    """One that has it among its globals."""
    space = {"given": value}
    exec("def function(*arguments):\n    return given", space)
    return space["function"]  # type: ignore[return-value]


def code(of: str) -> Callable[..., Any]:
    return eval(f"lambda x: {of}", {"jax": jax})  # type: ignore[no-any-return]


def with_code(cls: type, name: str, of: str) -> type:
    return type(cls)("Other", (cls,), {name: eval(f"lambda self, x: {of}"), "__module__": __name__})


def big(last: float) -> np.ndarray[Any, Any]:
    array = np.zeros(3 << 20, np.float32)
    array[-1] = array[0] = last
    return array


def train_state(rate: float, **options: Any) -> TrainState:
    module = Net()
    params = module.init(jax.random.key(0), X[:1])["params"]
    return TrainState.create(apply_fn=module.apply, params=params, tx=optax.adam(rate), **options)


def multi(every: int) -> Any:
    return optax.MultiSteps(optax.adam(0.1), every)


HELD: dict[str, tuple[Any, Any]] = {
    "jax array": (jnp.ones(2), 2 * jnp.ones(2)),
    "large array": (big(1.0), big(2.0)),
    "array of objects": (np.array(["a", None]), np.array(["b", None])),
    "float32": (np.float32(1), np.float32(2)),
    "int64": (np.int64(1), np.int64(2)),
    "set": ({"a", "b", "c"}, {"a", "b", "d"}),
    "range": (range(2), range(5)),
    "bytes": (b"a", b"b"),
    "key": (jax.random.key(0), jax.random.key(1)),
    "legacy key": (jax.random.PRNGKey(0), jax.random.PRNGKey(1)),
    "dtype": (np.dtype("f4"), np.dtype("f8")),
    "path": (Path("a"), Path("b")),
    "enum": (Color.RED, Color.BLUE),
    "enum of a library": (jax.lax.Precision.DEFAULT, jax.lax.Precision.HIGHEST),
    "ufunc": (np.add, np.multiply),
    "function of a library": (jax.nn.relu, jax.nn.gelu),
    "dataclass": (Fields(1.0), Fields(2.0)),
    "named tuple": (Named(1.0), Named(2.0)),
    "object": (Own(1.0), Own(2.0)),
    "method": (Own(1.0).method, Own(2.0).method),
    "dict": ({"a": {"b": 1}}, {"a": {"b": 2}}),
    "partial": (functools.partial(held, 1), functools.partial(held, 2)),
    "jitted": (jax.jit(code("x")), jax.jit(code("2 * x"))),
    "lambda": (code("x"), code("2 * x")),
    "optimizer": (optax.adam(0.1), optax.adam(0.2)),
    "linen": (Net(np.float32(0.1)), Net(np.float32(0.6))),
    "nnx optimizer": tuple(nnx.Optimizer(Part(nnx.Rngs(0)), optax.adam(rate), wrt=nnx.Param) for rate in (0.1, 0.2)),
}

OPTIMIZERS: dict[str, tuple[Any, Any]] = {
    "schedule": (optax.cosine_decay_schedule(0.1, 10), optax.cosine_decay_schedule(0.1, 2000)),
    "warmup": (
        optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 100),
        optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 200),
    ),
    "function": (code("0.1 * 0.9**x"), code("0.1 * 0.8**x")),
    "jitted function": (jax.jit(code("0.1 * 0.9**x")), jax.jit(code("0.1 * 0.8**x"))),
    "object": (Own(0.1), Own(0.2)),
    "scalar": (np.float32(0.1), np.float32(0.2)),
}

MASKS = (
    code("jax.tree.map(lambda a: a.ndim > 1, x)"),
    code("jax.tree.map(lambda a: a.ndim > 2, x)"),
)

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    **{f"loss holds {what}": ({"loss": held(a)}, {"loss": held(b)}, "code") for what, (a, b) in HELD.items()},
    **{f"loss uses {what}": ({"loss": using(a)}, {"loss": using(b)}, "code") for what, (a, b) in HELD.items()},
    **{f"--args {what}": ({"args": {"k": a}}, {"args": {"k": b}}, "arguments") for what, (a, b) in HELD.items()},
    **{
        f"optimizer with {what}": ({"optimizer": optax.adam(a)}, {"optimizer": optax.adam(b)}, "optimizer")
        for what, (a, b) in OPTIMIZERS.items()
    },
    "rate by a function": ({"lr": code("0.1 * 0.9**x")}, {"lr": code("0.1 * 0.8**x")}, "optimizer"),
    "decay mask": ({"decay_mask": MASKS[0]}, {"decay_mask": MASKS[1]}, "optimizer"),
    "masked": (*({"optimizer": optax.masked(optax.sgd(0.1), mask)} for mask in MASKS), "optimizer"),
    "steps together": ({"optimizer": multi(2)}, {"optimizer": multi(4)}, "optimizer"),
    "lbfgs": ({"optimizer": optax.lbfgs(memory_size=3)}, {"optimizer": optax.lbfgs(memory_size=9)}, "optimizer"),
    "injected": (
        *({"optimizer": optax.inject_hyperparams(optax.adam)(learning_rate=rate)} for rate in (0.1, 0.2)),
        "optimizer",
    ),
    "train state's optimizer": ({"model": train_state(1e-3)}, {"model": train_state(1e-1)}, "optimizer"),
    "state's optimizer": ({"state": train_state(1e-3)}, {"state": train_state(1e-1)}, "code"),
    "linen field": ({"model": Net(np.float32(0.1))}, {"model": Net(np.float32(0.6))}, "code"),
    "nnx attribute": (*({"model": Part(nnx.Rngs(0), keep)} for keep in (0.1, 0.2)), "code"),
    "nnx code": (
        *(
            {"model": nnx.Sequential(with_code(Part, "__call__", of)(nnx.Rngs(0)))}
            for of in ("self.dense(x)", "3 * self.dense(x)")
        ),
        "code",
    ),
    "equinox field": ({"model": Static(1.0)}, {"model": Static(2.0)}, "code"),
    "function": ({"model": (jax.jit(code("x")), {})}, {"model": (jax.jit(code("2 * x")), {})}, "code"),
}


class Stub:
    """What `fingerprints` asks of an experiment."""

    split_hash, train, valid, settings = "", None, None, {"lr": 0.1}


def prints(**given: Any) -> dict[str, str]:
    return resume.fingerprints(TrainRequest(**given), Stub())  # type: ignore[arg-type]


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [name for name in before if before[name] != after[name]]


@pytest.mark.parametrize("case", CASES)
def test_a_difference_is_seen_and_where_it_is(case: str) -> None:
    one, other, where = CASES[case]
    assert changed(prints(**one), prints(**one)) == []
    assert changed(prints(**one), prints(**other)) == [where]


def made() -> list[dict[str, Any]]:
    """All kinds of things, made anew: parameters are others each time."""
    seed = int.from_bytes(os.urandom(2), "big")
    ring: list[Any] = []
    ring.append(ring)
    own = Own(1.0)
    own.value = own.method
    return [
        {"model": Net(), "loss": held(jnp.ones(3)), "optimizer": optax.adamw(optax.linear_schedule(0.1, 0.0, 9))},
        {"model": nnx.Sequential(Part(nnx.Rngs(seed)), nnx.BatchNorm(1, rngs=nnx.Rngs(seed)))},
        {"model": train_state(0.1)},
        {"model": Static(1.0), "metrics": [held({"a", "b", "c", "d"})]},
        {"state": train_state(0.1), "step": using(optax.adam(optax.cosine_decay_schedule(0.1, 10)))},
        {
            "state": {"model": Part(nnx.Rngs(seed)), "step": seed, "w": np.full(3, seed)},
            "args": {"ring": ring, "own": own},
        },
        {"args": {"b": frozenset({"x", "y", "z"}), "a": np.arange(3), "c": object(), "d": iter([seed]), "e": held}},
        {"args": {"k": [jax.random.key(1), jax.nn.relu, np.tanh, jnp.float32, Color.RED, Own(Fields({"a", "b"}))]}},
    ]


def test_what_is_made_again_is_the_same() -> None:
    for one, other in zip(made(), made(), strict=True):
        assert changed(prints(**one), prints(**other)) == [], one


def test_it_is_the_same_in_another_process() -> None:
    script = (
        "import importlib.util, json, sys\n"
        f"spec = importlib.util.spec_from_file_location({__name__!r}, {__file__!r})\n"
        "module = importlib.util.module_from_spec(spec); sys.modules[spec.name] = module\n"
        "spec.loader.exec_module(module)\n"
        "print(json.dumps([module.prints(**one) for one in module.made()]\n"
        " + [module.prints(**CASE[0]) for CASE in module.CASES.values()]))"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert found[0] == found[1] and len(found[0]) > 1000


def test_what_cannot_be_looked_at_counts_by_its_type() -> None:
    class Shy:
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(name)

    gone = jnp.ones(3)
    gone.delete()
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    for value in (gone, deep, [0] * 1_000_000, set(range(20_000)), Shy()):
        assert digest(value) == digest(value)


def test_the_order_of_a_mapping_says_nothing() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest([1, 2]) != digest([2, 1])
    assert digest((1, 2)) != digest([1, 2])


@pytest.mark.guests("torch")
def test_a_torch_module_is_its_classes_and_attributes(tmp_path: Path) -> None:
    import torch

    class Scaled(torch.nn.Module):
        def __init__(self, scale: Any) -> None:
            super().__init__()
            self.dense, self.norm, self.scale = torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), scale

        def forward(self, x: Any) -> Any:
            return self.norm(self.dense(x)) * self.scale

    for make, change in (
        (lambda: Scaled(1.0), lambda: Scaled(3.0)),
        (lambda: Scaled(code("x")), lambda: Scaled(code("2 * x"))),
        (lambda: torch.nn.Dropout(0.1), lambda: torch.nn.Dropout(0.2)),
        (
            lambda: torch.nn.Sequential(Scaled(1.0)),
            lambda: torch.nn.Sequential(with_code(Scaled, "forward", "3 * self.dense(x)")(1.0)),
        ),
    ):
        assert changed(prints(model=make()), prints(model=make())) == []
        assert changed(prints(model=make()), prints(model=change())) == ["code"]
    model = Scaled(1.0)
    before = prints(model=model, step=held(model))
    optimizer = torch.optim.Adam(model.parameters())
    model.train()(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    model.eval()
    assert changed(before, prints(model=model, step=held(model))) == []
    given = [prints(optimizer=torch.optim.SGD(model.parameters(), lr=rate)) for rate in (0.1, 0.1, 0.2)]
    assert (changed(given[0], given[1]), changed(given[0], given[2])) == ([], ["optimizer"])
    loss = torch.nn.BCEWithLogitsLoss
    losses = [prints(loss=loss(pos_weight=torch.tensor([weight]))) for weight in (1.0, 1.0, 5.0)]
    assert (changed(losses[0], losses[1]), changed(losses[0], losses[2])) == ([], ["code"])
    smooth = [prints(loss=torch.nn.CrossEntropyLoss(label_smoothing=by)) for by in (0.1, 0.1, 0.5)]
    assert (changed(smooth[0], smooth[1]), changed(smooth[0], smooth[2])) == ([], ["code"])
    tensors = [prints(loss=held(torch.full((2,), value, dtype=torch.bfloat16))) for value in (1.0, 1.0, 2.0)]
    assert (changed(tensors[0], tensors[1]), changed(tensors[0], tensors[2])) == ([], ["code"])


KERAS = """
import os, sys
os.environ["KERAS_BACKEND"] = "jax"
import keras
from tests.training.test_same_or_other import changed, held, prints

class Sub(keras.layers.Layer):
    def __init__(self, scale):
        super().__init__()
        self.dense, self.scale = keras.layers.Dense(1), scale
    def call(self, x):
        return self.dense(x) * self.scale

def sequential(width=8, scale=1.0, **compiled):
    model = keras.Sequential([keras.layers.Dense(width), keras.layers.Dropout(0.1), Sub(scale)])
    if compiled:
        model.compile(**compiled)
    return model

def functional(first):
    x = keras.Input((4,))
    both = [keras.layers.Dense(3)(x), keras.layers.Dense(3, activation="relu")(x)]
    return keras.Model(x, keras.layers.Dense(1)(both[first]))

def own(of):
    return lambda a, b: of * (a - b)

adam, sgd = keras.optimizers.Adam, keras.optimizers.SGD
cosine = keras.optimizers.schedules.CosineDecay
same = lambda **given: given
for make, change, where in (
    (lambda: dict(model=sequential()), lambda: dict(model=sequential(9)), ["code"]),
    (lambda: dict(model=sequential()), lambda: dict(model=sequential(8, 2.0)), ["code"]),
    (lambda: dict(model=functional(1)), lambda: dict(model=functional(0)), ["code"]),
    (
        lambda: dict(model=sequential(optimizer="adam", loss="mse")),
        lambda: dict(model=sequential(optimizer="adam", loss="mae")),
        ["code"],
    ),
    (
        lambda: dict(model=sequential(optimizer=adam(0.1), loss=own(1))),
        lambda: dict(model=sequential(optimizer=adam(0.2), loss=own(1))),
        [],  # it stands among the settings
    ),
    (
        lambda: dict(model=sequential(optimizer=adam(0.1), loss=own(1))),
        lambda: dict(model=sequential(optimizer=adam(0.1, beta_1=0.5), loss=own(2))),
        ["code", "optimizer"],
    ),
    (lambda: dict(optimizer=sgd(0.1)), lambda: dict(optimizer=sgd(0.2)), ["optimizer"]),
    (lambda: dict(optimizer=sgd(cosine(0.1, 9))), lambda: dict(optimizer=sgd(cosine(0.1, 10))), ["optimizer"]),
    (
        lambda: dict(loss=keras.losses.Huber(delta=1.0)),
        lambda: dict(loss=keras.losses.Huber(delta=2.0)),
        ["code"],
    ),
):
    first = prints(**make())
    assert changed(first, prints(**make())) == [], make()
    assert changed(first, prints(**change())) == where, (make(), where, changed(first, prints(**change())))
model = sequential(optimizer="sgd", loss="mse")
model.build((None, 4))
before = prints(model=model, step=held(model))
import numpy as np
model.fit(np.ones((8, 4)), np.ones(8), verbose=0)
assert changed(before, prints(model=model, step=held(model))) == []
"""


@pytest.mark.guests("keras")
def test_a_keras_model_made_again_is_the_same() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", KERAS], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def options(tmp_path: Path) -> dict[str, Any]:
    return {"epochs": 2, "batch_size": 20, "store": tmp_path, "checkpoint": "every=2,keep=3"}


def said(run: Any) -> str:
    return " ".join(event.text for event in run.record.notices)


def test_a_train_states_other_optimizer_makes_a_fork(tmp_path: Path) -> None:
    run = dlfb_lab.train(train_state(1e-3), (X, Y), **options(tmp_path))
    again = dlfb_lab.train(train_state(1e-3), (X, Y), **options(tmp_path), resume=run)
    assert again.id == run.id
    fork = dlfb_lab.train(train_state(1e-1), (X, Y), **options(tmp_path), resume=run)
    assert fork.id != run.id and "Changed: the optimizer's own numbers." in said(fork)


def test_a_memory_map_with_other_rows_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    np.save(file, X)
    run = dlfb_lab.train(Net(), (np.load(file, mmap_mode="r"), Y), **options(tmp_path))
    again = dlfb_lab.train(Net(), (np.load(file, mmap_mode="r"), Y), **options(tmp_path), resume=run)
    assert again.id == run.id
    np.save(file, 9 * X)
    with pytest.raises(dlfb_lab.errors.StoreError, match="the data are not those"):
        dlfb_lab.train(Net(), (np.load(file, mmap_mode="r"), Y), **options(tmp_path), resume=run)


def test_another_function_that_brings_the_data_makes_a_fork(tmp_path: Path) -> None:
    def stream(scale: float) -> Callable[[], Iterator[Any]]:
        def epoch() -> Iterator[Any]:
            yield scale * X[:20], Y[:20]
            yield scale * X[20:], Y[20:]

        return epoch

    run = dlfb_lab.train(Net(), stream(1.0), **options(tmp_path))
    again = dlfb_lab.train(Net(), stream(1.0), **options(tmp_path), resume=run)
    assert again.id == run.id
    fork = dlfb_lab.train(Net(), stream(9.0), **options(tmp_path), resume=run)
    assert fork.id != run.id and "Changed: the function that the data come from." in said(fork)
