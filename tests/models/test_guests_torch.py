from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlfb_lab.engine import guest_losses, losses, optimizers
from dlfb_lab.engine.task import Task
from dlfb_lab.errors import ModelError, OptionError, StoreError
from dlfb_lab.models import torch as guests
from dlfb_lab.models.guest import USUAL_RATE
from dlfb_lab.models.torch_state import load_optimizer, optimizer_arrays
from tests.clouds import RATE, STEPS, Array, clouds, expected_losses, torch_model

torch = pytest.importorskip("torch")
nn = torch.nn
pytestmark = pytest.mark.guests

X = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(24, 2)).astype(np.float32)
CLASSES = np.random.default_rng(2).integers(0, 2, 24).astype(np.int32)
BINARY = Task("binary", ("no", "yes"), False, 2, (0, 1))


def linear(outputs: int = 2) -> Any:
    torch.manual_seed(0)
    return nn.Linear(3, outputs)


def guest(model: Any, **given: Any) -> guests.TorchGuest:
    factory = guests.adapt(model)
    assert factory is not None
    usual = {"loss": "mean_squared_error", "optimizer": "sgd", "lr": 0.1, "seed": 0, "sample": (X, Y)}
    return factory.make(**{**usual, **given})


def losses_of(trained: guests.TorchGuest, steps: int, batch: tuple[Any, Array] = (X, Y)) -> list[float]:
    return [trained.step(batch)["loss"] for _ in range(steps)]


def test_a_linear_classifier_has_the_losses_of_plain_numpy() -> None:
    model = torch_model()
    trained = guest(model, lr=RATE, sample=clouds())
    found = losses_of(trained, STEPS, clouds())
    np.testing.assert_allclose(found, expected_losses(), atol=1e-5, rtol=0)
    assert found[-1] < 0.035
    x, y = clouds()
    assert ((trained.outputs(x) > 0.5) == (y == 1)).mean() > 0.98


def test_what_is_known_before_training() -> None:
    factory = guests.adapt(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)))
    assert factory is not None
    assert (factory.kind, factory.name, factory.parameter_count) == ("torch", "Sequential", 21)
    assert (factory.loss, factory.link) == (None, None)
    assert factory.versions == {"torch": torch.__version__}
    assert factory.outputs(X, 0).shape == (24, 1)


@pytest.mark.parametrize("other", [lambda x: x, "model", None, 3])
def test_other_things_are_left_to_other_adapters(other: object) -> None:
    assert guests.adapt(other) is None


def test_a_class_is_no_model() -> None:
    with pytest.raises(ModelError, match=r"`Linear` is a class, not a model\. Make one: Linear"):
        guests.adapt(nn.Linear)


TARGETS: dict[str, Callable[[], Array]] = {
    "mean_squared_error": lambda: Y,
    "mean_absolute_error": lambda: Y,
    "huber": lambda: 4 * Y,
    "cosine_similarity": lambda: Y,
    "kl_divergence": lambda: np.stack([CLASSES * 0.75, 1 - CLASSES * 0.75], 1).astype(np.float32),
    "cross_entropy": lambda: CLASSES,
    "binary_crossentropy": lambda: np.stack([CLASSES, 1 - CLASSES], 1),
}


@pytest.mark.parametrize("name", TARGETS)
def test_losses_by_name_are_ours(name: str) -> None:
    targets = TARGETS[name]()
    trained = guest(linear(), loss=name, sample=(X, targets))
    outputs = trained.outputs(X)
    ours = {**losses.REGRESSION, "cross_entropy": (losses.softmax_cross_entropy, "softmax")}
    function = ours.get(name, (losses.sigmoid_cross_entropy, "sigmoid"))[0]
    expected = float(function(jnp.asarray(outputs), jnp.asarray(targets)).mean())
    assert trained.scores(outputs, targets) == {"loss": pytest.approx(expected, abs=1e-6)}
    assert trained.evaluate((X, targets)) == trained.scores(outputs, targets)
    assert trained.step((X, targets)) == {"loss": pytest.approx(expected, abs=1e-6)}


def test_every_loss_of_ours_has_its_counterpart() -> None:
    assert set(guests._losses()) == {*losses.REGRESSION, "cross_entropy", "binary_crossentropy"}


@pytest.mark.parametrize("name", sorted(set(guests.OPTIMIZERS) - {"nadam"}))
def test_optimizers_by_name_are_those_of_optax(name: str) -> None:
    model = linear()
    params = tuple(jnp.asarray(p.detach().numpy().copy()) for p in model.parameters())
    found = losses_of(guest(model, optimizer=name, lr=0.05), 20)

    @jax.jit
    def value_and_grad(params: Any) -> Any:
        return jax.value_and_grad(lambda p: ((X @ p[0].T + p[1] - Y) ** 2).mean())(params)

    optimizer = getattr(optax, name)(0.05)
    state, expected = optimizer.init(params), []
    for _ in range(20):
        loss, gradients = value_and_grad(params)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        expected.append(float(loss))
    # optax computes radam's correction in float32, where it cancels.
    np.testing.assert_allclose(found, expected, atol=2e-4 if name == "radam" else 1e-5, rtol=0)


def test_an_optimizer_that_differs_says_so() -> None:
    factory = guests.adapt(linear())
    assert factory is not None
    assert "momentum" in factory.optimizer("nadam", None).notice
    assert factory.optimizer("adam", None).notice == ""


def test_usual_rates_are_those_of_our_own_optimizers() -> None:
    assert {name: optimizers.USUAL_RATE.get(name) for name in USUAL_RATE} == USUAL_RATE
    factory = guests.adapt(linear())
    assert factory is not None
    assert factory.optimizer(None, None)[:2] == ("adam", 1e-3)
    assert factory.optimizer("SGD", None)[:2] == ("sgd", 0.01)
    assert factory.optimizer(optax.adamw, 0.5)[:2] == ("adamw", 0.5)


def test_an_optimizer_object_is_used_as_it_is() -> None:
    model = linear()
    sgd = torch.optim.SGD(model.parameters(), lr=0.25, momentum=0.5)
    trained = guest(model, optimizer=sgd, lr=None)
    trained.step((X, Y))
    assert trained.optimizer is sgd and len(sgd.state) == 2
    factory = guests.adapt(model)
    assert factory is not None
    assert factory.optimizer(sgd, None)[:2] == ("the given torch.optim.SGD", 0.25)


@pytest.mark.parametrize("made_by", [torch.optim.SGD, partial(torch.optim.SGD, momentum=0.0)])
def test_an_optimizer_class_is_made(made_by: Any) -> None:
    assert losses_of(guest(linear(), optimizer=made_by), 3) == pytest.approx(losses_of(guest(linear()), 3), abs=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "lr", "message"),
    [
        ("admaw", None, r"admaw: PyTorch has no optimizer that optax calls so\. Did you mean `adamw`\?"),
        (optax.adam(0.1), None, r"an optax optimizer updates JAX arrays, but this model is trained by PyTorch"),
        (3, None, r"a int is no optimizer of PyTorch"),
        ("adam", -1.0, r"--lr -1\.0: give a number above zero"),
        (torch.optim.LBFGS, None, r"calls the loss several times a step"),
        (partial(torch.optim.SGD, momentun=0.9), None, r"could not be made: TypeError.*momentun"),
        (torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1), None, r"holds none of the parameters of Linear"),
        (torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1), 0.1, r"--lr 0\.1: .* has its rate already"),
    ],
)
def test_optimizers_that_cannot_be_used(optimizer: Any, lr: float | None, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        guest(linear(), optimizer=optimizer, lr=lr)


def target_first(y_true: Any, y_pred: Any) -> Any:
    return ((y_true - 2 * y_pred) ** 2).mean(dim=1)


def output_first(logits: Any, labels: Any) -> Any:
    return ((labels - 2 * logits) ** 2).mean()


@pytest.mark.parametrize("function", [target_first, output_first])
def test_a_loss_of_the_users_own(function: Any) -> None:
    chosen = guest_losses.choose(function, Task("regression", (), False, 2), (24, 2))
    trained = guest(linear(), loss=guest_losses.given(chosen))
    outputs = trained.outputs(X)
    assert chosen.name == function.__name__ and chosen.own and chosen.link == "identity"
    assert trained.step((X, Y))["loss"] == pytest.approx(float(((Y - 2 * outputs) ** 2).mean()), abs=1e-5)


@pytest.mark.parametrize(
    ("loss", "outputs", "name", "link"),
    [
        (nn.CrossEntropyLoss(), 2, "cross_entropy", "softmax"),
        (nn.BCEWithLogitsLoss(), 1, "binary_crossentropy", "sigmoid"),
        (nn.functional.cross_entropy, 2, "cross_entropy", "softmax"),
    ],
)
def test_torch_losses_take_class_numbers_as_torch_wants_them(loss: Any, outputs: int, name: str, link: str) -> None:
    shape = (24, outputs)
    chosen = guest_losses.choose(loss, BINARY, shape)
    targets = CLASSES.reshape(losses.target_shape(BINARY, chosen.link, shape, CLASSES.shape))
    found = losses_of(guest(linear(outputs), loss=guest_losses.given(chosen), sample=(X, targets)), 3, (X, targets))
    named = losses_of(guest(linear(outputs), loss=name, sample=(X, targets)), 3, (X, targets))
    assert chosen.link == link and found == named


def test_a_loss_by_name_is_given_by_name() -> None:
    chosen = guest_losses.choose("mse", Task("regression", (), False, 2), (24, 2))
    assert guest_losses.given(chosen) == "mean_squared_error"
    assert guest_losses.given(guest_losses.choose(None, BINARY, (24, 1))) == "binary_crossentropy"


def test_a_loss_that_a_guest_brings_is_its_own_affair() -> None:
    loss = guest_losses.brought("focal", "probability", BINARY, (24, 1))
    assert (loss.name, loss.link, loss.own) == ("focal", "probability", True)
    assert guest_losses.brought("focal", None, BINARY, (24, 1)).link == "sigmoid"
    with pytest.raises(TypeError, match="belongs to the guest"):
        loss.function(jnp.zeros(1), jnp.zeros(1))


def test_losses_that_only_regression_takes() -> None:
    assert guest_losses.regression_only(nn.MSELoss()) and guest_losses.regression_only("mse")
    assert not guest_losses.regression_only(nn.CrossEntropyLoss()) and not guest_losses.regression_only(None)


def test_losses_that_cannot_be_used() -> None:
    with pytest.raises(OptionError, match=r"`MSELoss` is a class, not a loss\. Make one: MSELoss\(\)"):
        guest_losses.choose(nn.MSELoss, BINARY, (24, 1))
    with pytest.raises(OptionError, match="which argument is the target cannot be told"):
        guest_losses.choose(lambda a, b: a - b, BINARY, (24, 1))
    with pytest.raises(OptionError, match=r"--loss hinge: PyTorch models have no such loss here"):
        guest(linear(), loss="hinge")
    with pytest.raises(ModelError, match="The loss returned a float; for a PyTorch model it must return a tensor"):
        guest(linear(), loss=lambda outputs, targets: 0.5).step((X, Y))
    with pytest.raises(ModelError, match=r"step failed on shape \(24, 3\), float32: ZeroDivisionError"):
        guest(linear(), loss=lambda outputs, targets: outputs.sum() * (1 / 0)).step((X, Y))
    with pytest.raises(ModelError, match="The loss failed on outputs of shape"):
        guest(linear(), loss=lambda outputs, targets: outputs @ targets).scores(Y, Y)


class Dropping(nn.Module):
    """Draws random numbers in evaluation, too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.drop = nn.Linear(3, 2), nn.Dropout(0.5)

    def forward(self, x: Any) -> Any:
        return self.linear(self.drop(x)) + 0.1 * torch.rand(len(x), 2)


def test_random_numbers_follow_the_seed_and_nothing_else() -> None:
    expected = losses_of(guest(Dropping()), 6)
    disturbed, found = guest(Dropping()), []
    for _ in range(6):
        torch.rand(5)
        first = disturbed.outputs(X)
        assert (disturbed.outputs(X) == first).all()
        found += losses_of(disturbed, 1)
    assert found == expected
    assert losses_of(guest(Dropping(), seed=1), 6) != expected


def test_the_users_random_numbers_are_left_alone() -> None:
    trained = guest(Dropping())
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    trained.step((X, Y))
    trained.outputs(X)
    trained.finish()
    assert (torch.rand(4) == expected).all()
    torch.manual_seed(5)
    with pytest.raises(ModelError):
        trained.step((X[:, :2], Y))
    assert (torch.rand(4) == expected).all()


def test_modes_and_running_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    trained = guest(model)
    before = model[0].running_mean.clone()
    trained.outputs(X)
    assert (model[0].running_mean == before).all()
    trained.step((X, Y))
    assert model.training and (model[0].running_mean != before).all()
    assert trained.finish() is model
    assert not model.training and not model[0].training
    assert all(p.grad is None for p in model.parameters())


def test_a_part_in_evaluation_mode_stays_there() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    model[0].eval()
    factory = guests.adapt(model)
    assert factory is not None
    factory.outputs(X, 0)
    trained = factory.make(loss="mean_squared_error", optimizer=None, lr=None, seed=0, sample=(X, Y))
    trained.outputs(X)
    trained.step((X, Y))
    assert model[1].training and not model[0].training
    assert (model[0].running_mean == 0).all()


def test_a_model_given_in_evaluation_mode_is_trained_whole() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
    guest(model).step((X, Y))
    assert (model[0].running_mean != 0).all()


def test_frozen_parameters_stay() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    before = model[0].weight.clone(), model[1].weight.clone()
    trained = guest(model)
    trained.step((X, Y))
    assert (model[0].weight == before[0]).all() and (model[1].weight != before[1]).any()
    assert trained.parameter_count == 10
    with pytest.raises(ModelError, match="no parameters that require gradients"):
        guest(model.requires_grad_(False))


class Changing(nn.Module):
    """Writes to its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Any) -> Any:
        x *= 2
        return self.linear(x)


def test_data_are_not_written_to() -> None:
    trained = guest(Changing())
    x = X.copy()
    trained.step((x, Y))
    trained.step((x[4:], Y[4:]))
    trained.outputs(x)
    assert (x == X).all()


def test_arrays_are_not_copied_where_the_model_does_not_write_to_them() -> None:
    forward = guests.Forward(guests.TorchFactory(linear()), 0)
    x = X.copy()
    assert not np.shares_memory(forward.inputs(x).numpy(), x)
    forward.outputs(x)
    assert np.shares_memory(forward.inputs(x).numpy(), x)
    assert np.shares_memory(forward.inputs(x[4:]).numpy(), x)


def test_arrays_that_cannot_be_shared_are_copied() -> None:
    trained = guest(linear())
    x = X.copy()
    x.setflags(write=False)
    trained.step((x, Y))
    trained.step((x[::-1], Y[::-1]))
    assert (x == X).all()


def test_coming_back_to_what_was_kept() -> None:
    trained = guest(Dropping(), optimizer="adam", lr=0.05)
    losses_of(trained, 3)
    kept = trained.keep()
    expected = losses_of(trained, 4)
    for _ in range(2):
        trained.restore(kept)
        assert losses_of(trained, 4) == expected


def test_a_lazy_model_is_initialised_from_the_seed() -> None:
    def made(seed: int) -> tuple[guests.TorchGuest, Any]:
        model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2))
        factory = guests.adapt(model)
        assert factory is not None and factory.parameter_count is None
        factory.outputs(X, seed)
        assert factory.parameter_count == 26
        return guest(model, seed=seed), model

    torch.rand(3)
    first, again, other = (losses_of(made(seed)[0], 3) for seed in (0, 0, 1))
    assert first == again and first != other


def test_a_compiled_model_is_trained_as_it_is() -> None:
    plain = losses_of(guest(linear()), 4)
    compiled = torch.compile(linear(), backend="eager")
    trained = guest(compiled)
    assert trained.name == "Linear"
    assert losses_of(trained, 4) == pytest.approx(plain, abs=1e-6)
    trained.restore(trained.keep())
    assert trained.finish() is compiled and not compiled.training


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-6), ("bfloat16", 0.02)])
def test_inputs_take_the_dtype_of_the_model(dtype: str, tolerance: float) -> None:
    model = linear().to(getattr(torch, dtype))
    trained = guest(model)
    assert losses_of(trained, 4) == pytest.approx(losses_of(guest(linear()), 4), abs=tolerance)
    assert next(model.parameters()).dtype == getattr(torch, dtype)
    assert trained.outputs(X).dtype == ("float64" if dtype == "float64" else "float32")


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(2, 4, sparse=True), nn.Linear(7, 2)

    def forward(self, x: dict[str, Any]) -> Any:
        assert x["who"].dtype == torch.int64 and x["mask"].dtype == torch.bool
        return self.linear(torch.cat([self.embedding(x["who"]), x["what"]], 1))


def test_inputs_by_name_and_whole_numbers() -> None:
    x = {"who": CLASSES.astype(np.uint8), "what": X.astype(np.float64), "mask": CLASSES == 1}
    trained = guest(Embedding(), sample=(x, Y))
    found = losses_of(trained, 5, (x, Y))
    assert found[-1] < found[0]
    assert trained.outputs(x).shape == (24, 2)


def test_gradients_are_clipped_by_their_global_norm() -> None:
    model = linear()
    before = [p.detach().clone() for p in model.parameters()]
    guest(model, lr=1.0, clip=0.01).step((X, Y))
    moved = sum(float(((p.detach() - b) ** 2).sum()) for p, b in zip(model.parameters(), before, strict=True)) ** 0.5
    assert moved == pytest.approx(0.01, rel=1e-3)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Any) -> Any:
        return self.linear(x), x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(5, 2), r"failed on inputs of shape \(24, 3\), float32: RuntimeError: mat1 and mat2"),
        (Pair(), "returned a tuple for 24 rows; it must return one tensor"),
        (nn.Flatten(0), r"returned a Tensor of shape \(72,\) for 24 rows"),
        (nn.Linear(3, 1), r"outputs have shape \(24, 1\), but the targets \(24, 2\)"),
        (nn.Linear(3, 2, device="meta"), "on the device `meta`"),
    ],
)
def test_models_that_do_not_fit(model: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        guest(model)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_model_on_a_gpu_stays_there() -> None:
    expected = losses_of(guest(linear()), 5)
    model = linear().cuda()
    trained = guest(model)
    torch.cuda.manual_seed(5)
    before = torch.cuda.get_rng_state()
    assert losses_of(trained, 5) == pytest.approx(expected, abs=1e-5)
    assert (torch.cuda.get_rng_state() == before).all()
    assert trained.outputs(X).shape == (24, 2)
    assert next(model.parameters()).is_cuda


def test_what_an_optimizer_keeps_in_lists_and_dicts_comes_back() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    held = {"factors": [torch.ones(2) * i for i in range(12)], "of": {"mean": torch.arange(3.0)}, "count": 7}
    optimizer.state[parameter] = held
    arrays = optimizer_arrays(optimizer)
    optimizer.state.clear()
    load_optimizer(optimizer, dict(sorted(arrays.items())))
    found = optimizer.state[parameter]
    assert [float(factor[0]) for factor in found["factors"]] == list(range(12))
    assert found["of"]["mean"].tolist() == [0, 1, 2] and found["count"] == 7


def returned(state: dict[str, Any]) -> Any:
    """Returns what becomes of the state of one parameter when arrays are kept of it, and put back in another order."""
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    optimizer.state[parameter] = state
    arrays = dict(sorted(optimizer_arrays(optimizer).items()))
    assert all(isinstance(array, np.ndarray) and array.dtype != object for array in arrays.values())
    optimizer.state.clear()
    load_optimizer(optimizer, arrays)
    return optimizer.state[parameter]


@pytest.mark.guests("torch")
def test_whatever_is_built_of_tensors_numbers_and_texts_comes_back() -> None:
    state = {
        **{"mode": "warm", "nothing": None, "none": [], "empty": {}, "also": (), "big": 2**70, "mixed": (1, 2.5, True)},
        **{"of/parts": 1, "named:number": 2.0, "in:list": "x", "nested": ((1, 2), (3,)), "limits": (float("inf"),)},
        **{"keys": {1: "one", "1": "text", (2, "b"): None, 2.5: [{}]}, "flag": False, "ü": "ä\n"},
    }
    found = returned({**state, "pair": (torch.ones(2), [torch.zeros(1, dtype=torch.int64)])})
    first, (second,) = found.pop("pair")
    assert repr(found) == repr(state)
    assert torch.equal(first, torch.ones(2)) and second.dtype == torch.int64 and list(second) == [0]
    tensors = {"a": {"b": torch.ones(1)}, "a/b": torch.zeros(1), "half": (torch.ones(1, dtype=torch.bfloat16),)}
    found = returned(tensors)
    assert found["a"]["b"] == 1 and found["a/b"] == 0 and found["half"][0].dtype == torch.bfloat16


@pytest.mark.guests("torch")
def test_names_alone_say_what_they_can() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    optimizer.state[parameter] = {"mean": torch.ones(3), "range": (1.0, 2.0), "all": [3, 4]}
    names = {"optimizer/0/mean", "optimizer/0/range:number", "optimizer/0/all:list/0:number"}
    found = {name for name in optimizer_arrays(optimizer) if name.startswith("optimizer/")}
    assert found == names | {"optimizer/0/all:list/1:number"}
    optimizer.state[parameter]["mode"] = "warm"
    found = {name for name in optimizer_arrays(optimizer) if name.startswith("optimizer/")}
    assert found == {"optimizer/0/mean", "optimizer/structure"}


@pytest.mark.guests("torch")
def test_what_cannot_be_saved_is_said_and_comes_back_in_this_process() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    optimizer.state[parameter] = {"mean": torch.ones(3), "seen": {3}}
    with pytest.warns(UserWarning, match=r"optimizer SGD cannot be saved whole, since optimizer/0/seen is a set"):
        kept = optimizer_arrays(optimizer)
    optimizer.state[parameter]["seen"].add(4)
    load_optimizer(optimizer, kept)
    assert optimizer.state[parameter]["seen"] == {3}
    with pytest.raises(StoreError, match=r"not saved whole: it lacks optimizer/0/seen, which is a set"):
        load_optimizer(optimizer, dict(kept))


class Warming(torch.optim.Optimizer):  # type: ignore[misc, name-defined, unused-ignore]
    """Keeps the last gradients, a pair of tensors, and what it does now."""

    def __init__(self, params: Any, lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()  # type: ignore[untyped-decorator, unused-ignore]
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(last=[], pair=(torch.zeros_like(p), torch.ones_like(p)), mode="warm", n=0)
                state["n"] += 1
                state["last"] = [*state["last"], p.grad.clone()][-3:]
                state["mode"] = "hot" if state["n"] > 2 else "warm"
                state["pair"] = (state["pair"][0] * 0.9 + p.grad, state["pair"][1])
                p.sub_(group["lr"] * state["pair"][0] * (0.5 if state["mode"] == "hot" else 1.0))


@pytest.mark.guests("torch")
def test_an_optimizer_of_the_users_own_goes_on_as_it_would_have() -> None:
    trained = guest(linear(), optimizer=Warming, lr=0.05)
    losses_of(trained, 2)
    kept = dict(trained.keep())
    expected = losses_of(trained, 5)
    other = guest(linear(), optimizer=Warming, lr=0.05)
    other.restore(kept)
    assert losses_of(other, 5) == expected
