"""Adapter for PyTorch modules: trained by PyTorch itself, its autograd and one of its optimizers."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from dlfb_lab.errors import DlfbLabError, ModelError, OptionError, one_line
from dlfb_lab.models.guest import USUAL_RATE, Array, Chosen, OwnLoss, optimizer_name, rate, rate_once, writable
from dlfb_lab.models.model import PyTree
from dlfb_lab.models.torch_random import Randomness
from dlfb_lab.models.torch_state import (
    load_module,
    load_optimizer,
    module_arrays,
    optimizer_arrays,
    to_array,
    to_tensor,
)

OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "adam": ("Adam", {}),
    "adamw": ("AdamW", {"weight_decay": 1e-4}),
    "sgd": ("SGD", {}),
    "rmsprop": ("RMSprop", {"alpha": 0.9}),
    "adagrad": ("Adagrad", {"initial_accumulator_value": 0.1, "eps": 1e-7}),
    "adadelta": ("Adadelta", {}),
    "adamax": ("Adamax", {}),
    "nadam": ("NAdam", {}),
    "radam": ("RAdam", {}),
}
"""PyTorch's optimizers that go by optax's names, with optax's defaults where PyTorch's differ."""

DIFFERENT = {
    "nadam": "PyTorch's nadam lets the momentum grow (Dozat 2016); optax's keeps it, so the losses differ.",
    "rmsprop": "PyTorch's rmsprop adds eps after the square root, optax's before it; the losses differ a little.",
}
FUSED = ("Adam", "AdamW", "SGD")
"""One kernel for all parameters: on a CPU, too, it saves a third of a small model's step."""

EXAMPLE = "an object such as torch.optim.SGD(model.parameters(), lr=0.1)"


class TorchFactory:
    """A PyTorch module, before the loss and the optimizer are known. See `GuestFactory`."""

    kind = "torch"
    in_place = True
    loss = None
    link = None

    def __init__(self, module: Any) -> None:
        self.module = module
        self.name = type(getattr(module, "_orig_mod", module)).__name__
        self.versions = {"torch": str(_torch().__version__)}
        # Parts that the user put into evaluation mode inside a model that trains stay there: frozen batch norms.
        self.frozen = [part for part in module.modules() if not part.training] if module.training else []

    @property
    def parameter_count(self) -> int | None:
        """See `GuestFactory.parameter_count`."""
        lazy = _torch().nn.parameter.UninitializedParameter
        trained = [p for p in self.module.parameters() if p.requires_grad]
        return None if any(isinstance(p, lazy) for p in trained) else sum(p.numel() for p in trained)

    def optimizer(self, optimizer: Any, lr: float | None) -> Chosen:
        """See `GuestFactory.optimizer`."""
        optim = _torch().optim
        if isinstance(optimizer, optim.LBFGS) or optimizer is optim.LBFGS:
            raise OptionError(
                "--optimizer LBFGS: it calls the loss several times a step, which training here does not do. "
                "Take another, such as adam."
            )
        if isinstance(optimizer, optim.Optimizer):
            rate_once(lr, f"the given torch.optim.{type(optimizer).__name__}")
            rates = {float(group["lr"]) for group in optimizer.param_groups}
            return Chosen(f"the given torch.optim.{type(optimizer).__name__}", rates.pop() if len(rates) == 1 else None)
        if _makes_optimizers(optimizer):
            name = getattr(getattr(optimizer, "func", optimizer), "__name__", type(optimizer).__name__)
            return Chosen(f"torch.optim.{name}", None if lr is None else rate(lr))
        name = optimizer_name(optimizer, OPTIMIZERS, "PyTorch", EXAMPLE)
        return Chosen(name, USUAL_RATE.get(name, 1e-3) if lr is None else rate(lr), DIFFERENT.get(name, ""))

    def outputs(self, x: PyTree, seed: int) -> Array:
        """See `GuestFactory.outputs`; the parameters of lazy modules come from the seed."""
        return Forward(self, seed).outputs(x)

    def arrays(self) -> dict[str, Array]:
        """See `GuestFactory.arrays`."""
        if self.parameter_count is None:
            raise ModelError(f"Parameters of {self.name} have no shape yet. Call it once with inputs of a few rows.")
        return module_arrays(self.module)

    def load(self, arrays: Mapping[str, Array]) -> None:
        """See `GuestFactory.load`."""
        load_module(self.module, arrays)

    def make(
        self,
        *,
        loss: str | OwnLoss | None,
        optimizer: Any,
        lr: float | None,
        seed: int,
        sample: tuple[PyTree, Array],
        clip: float | None = None,
    ) -> TorchGuest:
        """See `GuestFactory.make`."""
        forward = Forward(self, seed)
        outputs = forward.outputs(sample[0])
        trained = [p for p in self.module.parameters() if p.requires_grad]
        if not trained:
            raise ModelError(f"The model {self.name} has no parameters that require gradients; nothing can be trained.")
        function = loss if callable(loss) else _losses().get(str(loss))
        if function is None:
            raise OptionError(f"--loss {loss}: PyTorch models have no such loss here. Known: {', '.join(_losses())}.")
        integers = np.issubdtype(np.asarray(sample[1]).dtype, np.integer)
        fits = np.shape(sample[1]) == outputs.shape
        if not callable(loss) and not fits and loss != "cross_entropy":
            raise ModelError(
                f"The model's outputs have shape {outputs.shape}, but the targets {np.shape(sample[1])}. "
                "Let it return one number for each target."
            )
        return TorchGuest(
            self,
            forward,
            loss=function,
            optimizer=self._made(optimizer, lr, trained),
            class_targets=bool(integers and not fits),
            clip=(clip, trained),
        )

    def _made(self, optimizer: Any, lr: float | None, trained: list[Any]) -> Any:
        torch = _torch()
        chosen = self.optimizer(optimizer, lr)
        if isinstance(optimizer, torch.optim.Optimizer):
            held = {id(p) for group in optimizer.param_groups for p in group["params"]}
            if held.isdisjoint(id(p) for p in trained):
                raise OptionError(
                    f"--optimizer: the given torch.optim.{type(optimizer).__name__} holds none of the parameters of "
                    f"{self.name}. Make it of this model's: torch.optim.{type(optimizer).__name__}(model.parameters())."
                )
            return optimizer
        if _makes_optimizers(optimizer):
            try:
                return optimizer(trained, **({} if lr is None else {"lr": chosen.lr}))
            except Exception as error:
                raise OptionError(f"--optimizer: {chosen.name} could not be made: {one_line(error)}") from error
        name, settings = OPTIMIZERS[chosen.name]
        if name in FUSED and _can_be_fused(self.module, trained):
            settings = {**settings, "fused": True}
        return getattr(torch.optim, name)(trained, lr=chosen.lr, **settings)


class Forward:
    """A module's calls, with its device, its dtype, its modes, and random numbers of its own.

    Args:
        factory: what holds the user's module.
        seed: of the random numbers.
    """

    def __init__(self, factory: TorchFactory, seed: int) -> None:
        torch = _torch()
        self.module, self._frozen = factory.module, factory.frozen
        first = next(self.module.parameters(), torch.empty(0))
        self.device = first.device
        if self.device.type == "meta":
            raise ModelError(
                f"The parameters of {factory.name} are on the device `meta`: they have shapes but no values. "
                "Call model.to_empty(device='cpu') and initialise them."
            )
        self.dtype = first.dtype if first.is_floating_point() else torch.float32
        self._host_dtype = np.float64 if self.dtype == torch.float64 else np.float32
        self.randomness = Randomness(self.device, seed)
        self._copies = True

    def train(self) -> None:
        """Puts the module into training mode, but for what the user froze."""
        if not self.module.training:
            self.module.train()
            for part in self._frozen:
                part.training = False

    def inputs(self, x: PyTree) -> PyTree:
        """Returns tensors on the module's device: numbers of its dtype, whole numbers int64."""
        if isinstance(x, np.ndarray):
            return self.tensor(x)
        return jax.tree.map(self.tensor, x)

    def tensor(self, a: Any, whole: bool | None = None) -> Any:
        """Returns one array as a tensor. It shares the array's memory where nothing need change, and nobody writes.

        Args:
            a: an array, any shape.
            whole: whether it becomes int64; None if it holds whole numbers.
        """
        kind = np.asarray(a).dtype.kind
        whole = kind in "iu" if whole is None else whole
        host = np.int64 if whole else np.bool_ if kind == "b" else self._host_dtype
        tensor = _torch().from_numpy(np.array(a, host, order="C") if self._copies else writable(a, host))
        return tensor.to(self.device, self.dtype) if host is self._host_dtype else tensor.to(self.device)

    def outputs(self, x: PyTree) -> Array:
        """Returns the raw outputs in evaluation mode, shape [rows, ...]; the same random numbers are drawn each time.

        Raises:
            ModelError: the module fails, or returns something else than one tensor.
        """
        torch = _torch()
        if self.module.training:
            self.module.eval()
        try:
            with torch.no_grad(), self.randomness.evaluation():
                inputs = self.inputs(x)
                outputs = self.module(inputs)
            # A module that writes to its inputs is given copies. Whether it does is seen on a copy, at the first call.
            self._copies = any(tensor._version > 0 for tensor in jax.tree.leaves(inputs))
        except DlfbLabError:
            raise
        except Exception as error:
            raise ModelError(f"The model failed on inputs of {_described(x)}: {one_line(error)}") from error
        rows = len(jax.tree.leaves(x)[0])
        if not isinstance(outputs, torch.Tensor) or outputs.shape[:1] != (rows,):
            shape = f" of shape {tuple(outputs.shape)}" if isinstance(outputs, torch.Tensor) else ""
            raise ModelError(
                f"The model returned a {type(outputs).__name__}{shape} for {rows} rows; "
                "it must return one tensor with one row each."
            )
        if outputs.dtype in (torch.bfloat16, torch.float16):
            outputs = outputs.float()
        return np.asarray(outputs.cpu().numpy())


class TorchGuest:
    """A PyTorch module that is being trained. See `Guest`.

    Args:
        factory: what it comes from.
        forward: the module's calls.
        loss: (outputs, targets) to one number, or one a row.
        optimizer: a torch optimizer.
        class_targets: whether targets are class numbers.
        clip: largest norm of the gradients or None, and the parameters that it is taken over.
    """

    kind = "torch"
    keeps_arrays = True

    def __init__(
        self,
        factory: TorchFactory,
        forward: Forward,
        *,
        loss: OwnLoss,
        optimizer: Any,
        class_targets: bool,
        clip: tuple[float | None, list[Any]],
    ) -> None:
        self.name, self.versions = factory.name, factory.versions
        self.parameter_count = factory.parameter_count or 0
        self.optimizer = optimizer
        self._module, self._forward, self._loss = factory.module, forward, loss
        self._class_targets = class_targets
        self._clip, self._clipped = clip
        self._clip_gradients = _torch().nn.utils.clip_grad_norm_

    def step(self, batch: PyTree) -> dict[str, float]:
        """See `Guest.step`."""
        x, y = batch
        forward = self._forward
        forward.train()
        try:
            with forward.randomness.training():
                self.optimizer.zero_grad()
                loss = self._value(self._module(forward.inputs(x)), y)
                loss.backward()
                if self._clip is not None:
                    self._clip_gradients(self._clipped, self._clip)
                self.optimizer.step()
                return {"loss": loss.item()}
        except DlfbLabError:
            raise
        except Exception as error:
            raise ModelError(f"PyTorch's training step failed on {_described(x)}: {one_line(error)}") from error

    def outputs(self, x: PyTree) -> Array:
        """See `Guest.outputs`. All rows in one call."""
        return self._forward.outputs(x)

    def evaluate(self, batch: PyTree) -> dict[str, float]:
        """Returns the loss of one batch, `(x, y)`, in evaluation mode."""
        x, y = batch
        return self.scores(self.outputs(x), y)

    def scores(self, outputs: Array, y: Array) -> dict[str, float]:
        """Returns the loss of outputs beside encoded targets, shape [rows, ...]."""
        torch = _torch()
        try:
            with torch.no_grad():
                return {"loss": self._value(self._forward.tensor(outputs, whole=False), y).item()}
        except DlfbLabError:
            raise
        except Exception as error:
            raise ModelError(f"The loss failed on outputs of {_described(outputs)}: {one_line(error)}") from error

    def keep(self) -> dict[str, Array]:
        """See `Guest.keep`: parameters, buffers, the optimizer's state and random states."""
        found = optimizer_arrays(self.optimizer)
        found |= module_arrays(self._module)
        found |= {f"random/{i}": to_array(state) for i, state in enumerate(self._forward.randomness.states)}
        return found

    def restore(self, kept: Mapping[str, Array]) -> None:
        """See `Guest.restore`."""
        load_module(self._module, kept)
        load_optimizer(self.optimizer, kept)
        randomness = self._forward.randomness
        randomness.states = [
            to_tensor(kept[f"random/{i}"]) if f"random/{i}" in kept else state
            for i, state in enumerate(randomness.states)
        ]

    def finish(self) -> Any:
        """Returns the user's own module, trained, in evaluation mode and without gradients."""
        self.optimizer.zero_grad()
        return self._module.eval()

    def _value(self, outputs: Any, y: Array) -> Any:
        targets = self._forward.tensor(y, whole=self._class_targets)
        value = self._loss(outputs, targets)
        if not isinstance(value, _torch().Tensor):
            raise ModelError(
                f"The loss returned a {type(value).__name__}; for a PyTorch model it must return a tensor: one number, "
                "or one a row, computed with PyTorch's functions."
            )
        return value.mean() if value.ndim else value


def _losses() -> dict[str, Callable[[Any, Any], Any]]:
    """Returns (outputs, targets) to the mean over the rows, by the names of our losses."""
    functions = _torch().nn.functional
    return {
        "mean_squared_error": functions.mse_loss,
        "mean_absolute_error": functions.l1_loss,
        "huber": functions.huber_loss,
        "cross_entropy": functions.cross_entropy,
        "binary_crossentropy": functions.binary_cross_entropy_with_logits,
        "kl_divergence": _kl_divergence,
        "cosine_similarity": _cosine_similarity,
    }


def _kl_divergence(outputs: Any, targets: Any) -> Any:
    functions = _torch().nn.functional
    return functions.kl_div(functions.log_softmax(outputs, dim=-1), targets, reduction="none").sum(-1).mean()


def _cosine_similarity(outputs: Any, targets: Any) -> Any:
    return -_torch().nn.functional.cosine_similarity(outputs, targets, dim=-1, eps=1e-7).mean()


def _makes_optimizers(optimizer: Any) -> bool:
    """Whether it is a class of optimizers, or a `functools.partial` of one."""
    made = getattr(optimizer, "func", optimizer)
    return inspect.isclass(made) and issubclass(made, _torch().optim.Optimizer)


def _can_be_fused(module: Any, trained: list[Any]) -> bool:
    plain = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in trained)
    return plain and not any(getattr(m, "sparse", False) for m in module.modules())


def _described(x: PyTree) -> str:
    return ", ".join(f"shape {tuple(a.shape)}, {a.dtype}" for a in jax.tree.leaves(x))


def _torch() -> Any:
    return sys.modules["torch"]


def adapt(model: Any) -> TorchFactory | None:
    """Adapts a PyTorch module, or returns None. PyTorch is looked at only when it has been imported.

    Raises:
        ModelError: the class was given in place of a module.
    """
    nn = getattr(sys.modules.get("torch"), "nn", None)
    if nn is None:
        return None
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise ModelError(f"`{model.__name__}` is a class, not a model. Make one: {model.__name__}(…).")
    # On the PyTorch backend, Keras's layers are PyTorch modules.
    layer = getattr(getattr(sys.modules.get("keras"), "layers", None), "Layer", None)
    if not isinstance(model, nn.Module) or (layer is not None and isinstance(model, layer)):
        return None
    return TorchFactory(model)
