"""What NVIDIA's management library says of the GPUs, and for each figure that it does not give, why."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

RETRY_S = 30.0
"""Between two attempts to reach a driver that could not be reached."""

NO_PACKAGE = 'NVIDIA GPUs cannot be looked at: run `pip install "dlfb-lab[lab]"`, which brings the package nvidia-ml-py'
DIVIDED = "not available, because this GPU is divided into MIG slices"

REASONS = {
    "NVML_ERROR_UNINITIALIZED": "the connection to the NVIDIA driver was lost",
    "NVML_ERROR_INVALID_ARGUMENT": "the NVIDIA driver did not understand the question",
    "NVML_ERROR_NOT_SUPPORTED": "not supported by this GPU",
    "NVML_ERROR_NO_PERMISSION": "no permission: only the administrator of this machine may see it",
    "NVML_ERROR_NOT_FOUND": "the NVIDIA driver does not find it",
    "NVML_ERROR_INSUFFICIENT_POWER": "the GPU's power cables are not attached properly",
    "NVML_ERROR_DRIVER_NOT_LOADED": "the NVIDIA driver is installed and not loaded",
    "NVML_ERROR_TIMEOUT": "the NVIDIA driver did not answer in time",
    "NVML_ERROR_IRQ_ISSUE": "the NVIDIA driver has trouble with the GPU's interrupts",
    "NVML_ERROR_LIBRARY_NOT_FOUND": "no NVIDIA driver was found",
    "NVML_ERROR_FUNCTION_NOT_FOUND": "the NVIDIA driver is too old to tell",
    "NVML_ERROR_CORRUPTED_INFOROM": "the GPU's own memory of its data is damaged",
    "NVML_ERROR_GPU_IS_LOST": "the GPU does not answer any more; restarting the machine may bring it back",
    "NVML_ERROR_RESET_REQUIRED": "the GPU must be reset before it can be used again",
    "NVML_ERROR_OPERATING_SYSTEM": "the operating system did not allow it",
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": (
        "the NVIDIA driver was updated and the old one is still running: restart the machine"
    ),
    "NVML_ERROR_IN_USE": "the GPU is in use by something that does not share it",
    "NVML_ERROR_MEMORY": "there was not enough memory to ask the NVIDIA driver",
    "NVML_ERROR_NO_DATA": "the NVIDIA driver has no figure yet",
    "NVML_ERROR_INSUFFICIENT_RESOURCES": "the NVIDIA driver lacks the resources to tell",
    "NVML_ERROR_ARGUMENT_VERSION_MISMATCH": "the NVIDIA driver is too old to tell",
    "NVML_ERROR_DEPRECATED": "the NVIDIA driver does not tell it any more",
    "NVML_ERROR_NOT_READY": "the GPU is not ready yet",
    "NVML_ERROR_GPU_NOT_FOUND": "the GPU is not there any more",
    "NVML_ERROR_INVALID_STATE": "the GPU is in a state in which it cannot tell",
}
"""What the errors that are met in practice mean for people; others are told with the driver's own words."""


@dataclass(kw_only=True)
class Gpu:
    """One GPU at one moment. A figure that is None has its reason in `missing`, under its own name."""

    key: str
    index: int
    name: str
    memory_total_bytes: int | None = None
    power_limit_w: float | None = None
    utilisation_percent: float | None = None
    memory_used_bytes: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """All GPUs at one moment, and if there are none, why."""

    gpus: list[Gpu] = field(default_factory=list)
    reason: str = ""


# What is asked of each GPU: the figure's name, the question, and its unit in the driver's.
FIGURES: tuple[tuple[str, Callable[[Any, Any], int], float], ...] = (
    ("utilisation_percent", lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu, 1),
    ("memory_used_bytes", lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used, 1),
    ("memory_total_bytes", lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).total, 1),
    ("temperature_c", lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU), 1),
    ("power_w", lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu), 1e-3),
    ("power_limit_w", lambda nvml, gpu: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu), 1e-3),
)
NOT_AVAILABLE = (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
"""What the driver puts in the place of some figures."""


class Nvml:
    """A connection to the NVIDIA driver, made when it is first needed."""

    def __init__(self) -> None:
        self._library: Any = None
        self._connected = False
        self._reason = ""
        self._tried_s = float("-inf")
        self._incomplete = False
        self._known: dict[int, tuple[str, str]] = {}

    def sample(self) -> Gpus:
        """Returns what the GPUs are doing. Never raises; may take as long as the driver does."""
        if self._incomplete and monotonic() - self._tried_s >= RETRY_S:
            # Which GPUs there are is settled when the library starts.
            self.close()
        if not self._connected and not self._connect():
            return Gpus(reason=self._reason)
        try:
            try:
                return self._look(has_tried=False)
            except self._library.NVMLError as error:
                if error.value != self._library.NVML_ERROR_UNINITIALIZED:
                    raise
                # Something else in this process has shut the library down.
                self._library.nvmlInit()
                return self._look(has_tried=True)
        except Exception as error:
            self._reason = self._why(error)
            self.close()
            return Gpus(reason=self._reason)

    def close(self) -> None:
        """Lets the driver go. The next sample connects again, at most every `RETRY_S`."""
        if self._connected:
            self._connected = False
            with contextlib.suppress(Exception):
                self._library.nvmlShutdown()

    def _connect(self) -> bool:
        now_s = monotonic()
        if now_s - self._tried_s < RETRY_S:
            return False
        self._tried_s = now_s
        try:
            self._library = importlib.import_module("pynvml")
            self._library.nvmlInit()
        except ImportError:
            self._reason = NO_PACKAGE
        except Exception as error:
            self._reason = self._why(error)
        else:
            self._connected = True
            self._incomplete = False
            self._known.clear()
        return self._connected

    def _look(self, *, has_tried: bool) -> Gpus:
        count = self._library.nvmlDeviceGetCount()
        if not count:
            self._incomplete = True
            return Gpus(reason="the NVIDIA driver shows no GPU to this machine or container")
        return Gpus(gpus=[self._gpu(index, has_tried=has_tried) for index in range(count)])

    def _gpu(self, index: int, *, has_tried: bool) -> Gpu:
        key, name = self._known.get(index, (f"GPU {index}", f"GPU {index}"))
        gpu = Gpu(key=key, index=index, name=name)
        nvml = self._library
        lost = (nvml.NVML_ERROR_GPU_IS_LOST, getattr(nvml, "NVML_ERROR_GPU_NOT_FOUND", None))
        handle = None
        for figure, ask, unit in FIGURES:
            try:
                if handle is None:
                    handle = nvml.nvmlDeviceGetHandleByIndex(index)
                    self._name(gpu, handle)
                value = ask(nvml, handle)
            except Exception as error:
                code = getattr(error, "value", None)
                if code == nvml.NVML_ERROR_UNINITIALIZED and not has_tried:
                    raise
                self._incomplete |= handle is None or code in lost
                gpu.missing[figure] = self._why(error, handle)
                continue
            if value in NOT_AVAILABLE or (value == 0 and figure in ("memory_total_bytes", "power_limit_w")):
                gpu.missing[figure] = "the NVIDIA driver gives no figure"
            else:
                setattr(gpu, figure, value if unit == 1 else round(value * unit, 1))
        return gpu

    def _name(self, gpu: Gpu, handle: Any) -> None:
        if gpu.index not in self._known:
            try:
                gpu.key, gpu.name = self._library.nvmlDeviceGetUUID(handle), self._library.nvmlDeviceGetName(handle)
            except Exception:
                # It goes by its number, and is asked again with the next sample.
                return
            self._known[gpu.index] = gpu.key, gpu.name

    def _why(self, error: Exception, handle: Any = None) -> str:
        nvml = self._library
        if isinstance(error, AttributeError):
            return "the installed package nvidia-ml-py is too old to ask for it"
        if nvml is None or not isinstance(error, nvml.NVMLError):
            return f"asking the NVIDIA driver failed ({type(error).__name__}: {error})"
        if (
            error.value in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_NO_PERMISSION)
            and handle is not None
            and self._is_divided(handle)
        ):
            return DIVIDED
        reasons = {getattr(nvml, name, None): text for name, text in REASONS.items()}
        return reasons.get(error.value) or f"the NVIDIA driver answered “{error}”"

    def _is_divided(self, handle: Any) -> bool:
        try:
            return bool(self._library.nvmlDeviceGetMigMode(handle)[0])
        except Exception:
            return False
