from __future__ import annotations

import threading

import pytest

from dlfb_lab.engine import clock
from dlfb_lab.engine.control import Control
from dlfb_lab.errors import OptionError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("90", 90), ("30s", 30), (" 10m ", 600), ("10 min", 600), ("1.5h", 5400), (2, 2), (0.5, 0.5), (None, None)],
)
def test_a_duration_is_read(text: str | float | None, wanted: float | None) -> None:
    assert clock.seconds(text) == wanted


@pytest.mark.parametrize("text", ["", "0", "0s", "-1m", "soon", "10d", "1m30s", "m", "nan", "inf", -3])
def test_what_is_no_duration_is_refused(text: str | float) -> None:
    with pytest.raises(OptionError, match=r"--timebox .*: give a duration above zero"):
        clock.seconds(text)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time = [100.0]
    monkeypatch.setattr(clock, "monotonic", lambda: time[0])
    return time


def test_a_box_is_used_up_with_its_reserve(now: list[float]) -> None:
    box = clock.Clock(10.0)
    assert not box.over()
    now[0] += 8
    assert box.elapsed_s == 8
    assert not box.over(1.9)
    assert box.over(2.0)
    now[0] += 2
    assert box.over()
    assert not clock.Clock(None).over(1e9)


def test_the_pace_finds_the_steps_that_take_its_target() -> None:
    pace = clock.Pace(8192)
    step_s, counts = 1e-5, []
    for _ in range(6):
        counts.append(pace.count)
        pace.update(pace.count, pace.count * step_s)
    assert counts[:3] == [1, 16, 256], "it grows by 16 at most"
    assert counts[-1] == pytest.approx(clock.Pace.TARGET_S / step_s, rel=0.01)
    pace.update(pace.count, 10 * clock.Pace.TARGET_S)
    assert pace.count == pytest.approx(counts[-1] / 10, rel=0.01)
    pace.update(pace.count, 1e9)
    assert pace.count == 1
    for _ in range(9):
        pace.update(pace.count, 0.0)
    assert pace.count == 8192


def test_reports_come_more_rarely_in_a_long_run(now: list[float]) -> None:
    reporter = clock.Reporter(clock.Clock(None))

    def reports(seconds: float) -> int:
        told = 0
        for _ in range(int(seconds / 0.01)):
            now[0] += 0.01
            told += reporter.due()
        return told

    assert reports(10) == pytest.approx(1 / 0.1 + 9 / 0.15, rel=0.25)
    now[0] += 1e5
    assert reports(100) == pytest.approx(100 / 0.15, rel=0.1)


def test_the_first_reason_to_stop_stays() -> None:
    control = Control()
    assert (control.stop_reason, control.paused) == (None, False)
    control.pause()
    assert control.paused
    control.stop("first")
    control.stop("second")
    assert control.stop_reason == "first"
    assert not control.paused, "a paused run that is stopped holds no longer"
    control.wait_while_paused()


def test_whoever_waits_goes_on_when_resumed() -> None:
    control = Control()
    control.pause()
    waiting = threading.Thread(target=control.wait_while_paused)
    waiting.start()
    control.resume()
    waiting.join(10)
    assert not waiting.is_alive()
