from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pynvml
import pytest

from dlfb_lab.devices import nvml
from dlfb_lab.devices.nvml import DIVIDED, NO_PACKAGE, Gpu, Nvml

ERRORS = {name: value for name, value in vars(pynvml).items() if name.startswith("NVML_ERROR_")}
FIGURES = tuple(name for name, _, _ in nvml.FIGURES)
CALLS = {
    "nvmlDeviceGetUtilizationRates": {"utilisation_percent"},
    "nvmlDeviceGetMemoryInfo": {"memory_used_bytes", "memory_total_bytes"},
    "nvmlDeviceGetTemperature": {"temperature_c"},
    "nvmlDeviceGetPowerUsage": {"power_w"},
    "nvmlDeviceGetEnforcedPowerLimit": {"power_limit_w"},
}


@dataclass
class Driver:
    """A driver with GPUs, which fails in the calls of `fails`, and records all calls."""

    gpus: list[str] = field(default_factory=lambda: ["a"])
    fails: dict[str, Exception] = field(default_factory=dict)
    divided: bool = False
    is_up: bool = False
    calls: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def module(self) -> ModuleType:
        """Returns what the package `pynvml` looks like over this driver."""
        module = ModuleType("pynvml")
        for name in ("NVMLError", "NVML_TEMPERATURE_GPU", *ERRORS):
            setattr(module, name, getattr(pynvml, name))
        for name, answer in self.answers().items():
            setattr(module, name, self.call(name, answer))
        return module

    def answers(self) -> dict[str, Callable[..., Any]]:
        return {
            "nvmlInit": lambda: setattr(self, "is_up", True),
            "nvmlShutdown": lambda: setattr(self, "is_up", False),
            "nvmlDeviceGetCount": lambda: len(self.gpus),
            "nvmlDeviceGetHandleByIndex": lambda index: self.gpus[index],
            "nvmlDeviceGetUUID": lambda gpu: f"uuid {gpu}",
            "nvmlDeviceGetName": lambda gpu: f"NVIDIA {gpu}",
            "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=37, memory=5),
            "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(total=80 * 2**30, used=2**30, free=79 * 2**30),
            "nvmlDeviceGetTemperature": lambda gpu, sensor: 41,
            "nvmlDeviceGetPowerUsage": lambda gpu: 71_460,
            "nvmlDeviceGetEnforcedPowerLimit": lambda gpu: 700_000,
            "nvmlDeviceGetMigMode": lambda gpu: [int(self.divided), int(self.divided)],
        }

    def call(self, name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            self.calls.append(name)
            if name in self.fails:
                raise self.fails[name]
            if name not in ("nvmlInit", "nvmlShutdown") and not self.is_up:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
            return self.values.get(name, answer(*arguments))

        return called


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", driver.module())
    return driver


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr(nvml, "monotonic", lambda: clock.now_s)
    return clock


def only(gpus: list[Gpu]) -> Gpu:
    (gpu,) = gpus
    return gpu


def is_plain(reason: str) -> bool:
    """Whether a reason is a sentence for people, or where there is none yet, the driver's own words."""
    words = reason.removeprefix("the NVIDIA driver answered “")
    return len(words) > 10 and (words != reason or ("NVML" not in reason and "Error" not in reason))


def test_all_figures_are_read(driver: Driver) -> None:
    found = Nvml().sample()
    assert found.reason == ""
    assert only(found.gpus) == Gpu(
        key="uuid a",
        index=0,
        name="NVIDIA a",
        memory_total_bytes=80 * 2**30,
        power_limit_w=700.0,
        utilisation_percent=37,
        memory_used_bytes=2**30,
        temperature_c=41,
        power_w=71.5,
    )


def test_a_figure_that_is_zero_is_zero(driver: Driver) -> None:
    driver.values["nvmlDeviceGetUtilizationRates"] = SimpleNamespace(gpu=0)
    gpu = only(Nvml().sample().gpus)
    assert gpu.utilisation_percent == 0 and gpu.missing == {}


def test_nothing_is_touched_before_the_first_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pynvml")
    Nvml()
    assert "pynvml" not in sys.modules


@pytest.mark.parametrize("code", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("call", CALLS)
def test_each_error_of_each_call_is_a_reason_and_never_a_figure(driver: Driver, call: str, code: int) -> None:
    driver.fails[call] = pynvml.NVMLError(code)
    gpu = only(Nvml().sample().gpus)
    assert set(gpu.missing) == CALLS[call]
    for figure in FIGURES:
        value = getattr(gpu, figure)
        if figure in CALLS[call]:
            assert value is None
            assert is_plain(gpu.missing[figure])
        else:
            assert value, "the others are there"


@pytest.mark.parametrize("code", ERRORS.values(), ids=ERRORS)
def test_each_error_of_finding_a_gpu_is_a_reason(driver: Driver, code: int) -> None:
    driver.gpus = ["a", "b"]
    driver.fails["nvmlDeviceGetHandleByIndex"] = pynvml.NVMLError(code)
    gpus = Nvml().sample().gpus
    assert [(gpu.index, gpu.name) for gpu in gpus] == [(0, "GPU 0"), (1, "GPU 1")]
    for gpu in gpus:
        assert all(getattr(gpu, figure) is None for figure in FIGURES)
        assert set(gpu.missing) == set(FIGURES)
        assert all(is_plain(reason) for reason in gpu.missing.values())


@pytest.mark.parametrize("code", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetCount"])
def test_each_error_of_reaching_the_driver_is_a_reason(driver: Driver, call: str, code: int) -> None:
    driver.fails[call] = pynvml.NVMLError(code)
    found = Nvml().sample()
    assert found.gpus == []
    assert is_plain(found.reason)


@pytest.mark.parametrize("code", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("call", ["nvmlDeviceGetName", "nvmlDeviceGetUUID"])
def test_a_gpu_without_a_name_goes_by_its_number(driver: Driver, call: str, code: int) -> None:
    driver.fails[call] = pynvml.NVMLError(code)
    gpu = only(Nvml().sample().gpus)
    assert (gpu.key, gpu.name, gpu.missing) == ("GPU 0", "GPU 0", {})
    assert gpu.power_w == 71.5


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("LIBRARY_NOT_FOUND", "no NVIDIA driver was found"),
        ("DRIVER_NOT_LOADED", "not loaded"),
        ("LIB_RM_VERSION_MISMATCH", "restart the machine"),
        ("NO_PERMISSION", "no permission"),
        ("UNKNOWN", "answered “Unknown Error”"),
    ],
)
def test_what_happens_often_is_said_with_what_to_do(driver: Driver, name: str, words: str) -> None:
    driver.fails["nvmlInit"] = pynvml.NVMLError(ERRORS[f"NVML_ERROR_{name}"])
    assert words in Nvml().sample().reason


def test_a_code_that_is_not_known_yet_is_told(driver: Driver) -> None:
    driver.fails["nvmlDeviceGetPowerUsage"] = pynvml.NVMLError(12345)
    assert "12345" in only(Nvml().sample().gpus).missing["power_w"]


@pytest.mark.parametrize("error", [OSError("broken pipe"), ValueError("odd"), RuntimeError()])
def test_what_is_no_error_of_the_driver_is_told_too(driver: Driver, error: Exception) -> None:
    driver.fails["nvmlDeviceGetPowerUsage"] = error
    reason = only(Nvml().sample().gpus).missing["power_w"]
    assert type(error).__name__ in reason and str(error) in reason
    driver.fails = {"nvmlInit": error}
    assert type(error).__name__ in Nvml().sample().reason


@pytest.mark.parametrize("name", ["NOT_SUPPORTED", "NO_PERMISSION"])
def test_in_a_divided_gpu_the_slices_are_the_reason(driver: Driver, name: str) -> None:
    driver.divided = True
    driver.fails["nvmlDeviceGetUtilizationRates"] = pynvml.NVMLError(ERRORS[f"NVML_ERROR_{name}"])
    assert only(Nvml().sample().gpus).missing == {"utilisation_percent": DIVIDED}


def test_an_old_package_is_told(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    module = driver.module()
    del module.nvmlDeviceGetEnforcedPowerLimit
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert "too old" in only(Nvml().sample().gpus).missing["power_limit_w"]


@pytest.mark.parametrize("nothing", [0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF])
def test_what_stands_for_no_figure_is_none(driver: Driver, nothing: int) -> None:
    driver.values = {
        "nvmlDeviceGetPowerUsage": nothing,
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=nothing),
        "nvmlDeviceGetEnforcedPowerLimit": 0,
    }
    gpu = only(Nvml().sample().gpus)
    assert (gpu.power_w, gpu.utilisation_percent, gpu.power_limit_w) == (None, None, None)
    assert set(gpu.missing) == {"power_w", "utilisation_percent", "power_limit_w"}


def test_a_missing_package_is_named_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace, driver: Driver
) -> None:
    module = sys.modules["pynvml"]
    monkeypatch.setitem(sys.modules, "pynvml", None)
    source = Nvml()
    assert source.sample().reason == NO_PACKAGE
    assert "dlfb-lab[lab]" in NO_PACKAGE
    monkeypatch.setitem(sys.modules, "pynvml", module)
    clock.now_s += nvml.RETRY_S
    assert source.sample().gpus, "it was installed meanwhile"


def test_a_driver_that_cannot_be_reached_is_tried_again_only_after_a_while(
    driver: Driver, clock: SimpleNamespace
) -> None:
    driver.fails["nvmlInit"] = pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    source = Nvml()
    reasons = set()
    for _ in range(30):
        reasons.add(source.sample().reason)
        clock.now_s += 0.99
    assert driver.calls == ["nvmlInit"]
    assert len(reasons) == 1
    driver.fails.clear()
    clock.now_s += 1
    assert source.sample().gpus


def test_a_connection_that_somebody_else_closed_is_made_again_at_once(driver: Driver) -> None:
    source = Nvml()
    assert source.sample().gpus
    driver.is_up = False
    assert only(source.sample().gpus).missing == {}
    assert driver.calls.count("nvmlInit") == 2


def test_a_gpu_that_is_lost_keeps_its_name_and_the_driver_is_asked_anew(driver: Driver, clock: SimpleNamespace) -> None:
    driver.gpus = ["a", "b"]
    source = Nvml()
    assert len(source.sample().gpus) == 2
    lost = pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
    driver.fails = {"nvmlDeviceGetHandleByIndex": lost}
    clock.now_s += 1
    gone = source.sample().gpus
    assert [gpu.key for gpu in gone] == ["uuid a", "uuid b"]
    assert all("does not answer any more" in gpu.missing["power_w"] for gpu in gone)
    driver.fails = {}
    driver.gpus = ["b"]
    clock.now_s += nvml.RETRY_S
    assert [(gpu.key, gpu.index) for gpu in source.sample().gpus] == [("uuid b", 0)]
    assert driver.calls.count("nvmlInit") == 2


def test_a_gpu_that_appears_is_found(driver: Driver, clock: SimpleNamespace) -> None:
    driver.gpus = []
    source = Nvml()
    assert "shows no GPU" in source.sample().reason
    driver.gpus = ["a"]
    clock.now_s += nvml.RETRY_S
    assert only(source.sample().gpus).key == "uuid a"
    assert driver.calls.count("nvmlShutdown") == 1


def test_closing_lets_the_driver_go_once(driver: Driver) -> None:
    source = Nvml()
    source.close()
    source.sample()
    driver.fails["nvmlShutdown"] = pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)
    source.close()
    source.close()
    assert driver.calls.count("nvmlShutdown") == 1
