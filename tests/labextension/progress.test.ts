import assert from "node:assert/strict";
import { test } from "node:test";

import { clock, count, duration, remaining, tick, value } from "../../labextension/core/format";
import { dispatchTimes, epochAt, secondsPerStep, timeLeft } from "../../labextension/core/progress";
import { canBeLogarithmic, lossContent, metricContent, metricNames } from "../../labextension/core/plots";
import { evaluation, goldenEvents, losses, plan, stateOf } from "./runs";

test("time left is steps times their pace, and evaluations times their mean", () => {
  const state = stateOf(goldenEvents());
  // 40 steps at 60 steps in 1.5 s; 2 of 5 evaluations at 0.25 s: the test's 9 s do not count.
  assert.deepEqual(timeLeft(state), { train_s: 1, evaluate_s: 0.5 });
  assert.equal(epochAt(state, 60), 6);
});

test("time left is not known before anything was timed, and nothing after the end", () => {
  assert.deepEqual(timeLeft(stateOf([])), { train_s: NaN, evaluate_s: NaN });
  assert.deepEqual(timeLeft(stateOf([plan()])), { train_s: NaN, evaluate_s: NaN });
  const done = [plan({ steps_total: 2, evaluations_total: 1 }), losses(0, [1, 1]), evaluation(2)];
  assert.deepEqual(timeLeft(stateOf(done)), { train_s: 0, evaluate_s: 0 });
  assert.equal(timeLeft(stateOf([plan({ evaluations_total: 0 }), losses(0, [1])])).evaluate_s, 0);
});

test("pace is of the latest reports, and a shortened copy counts its steps in full", () => {
  assert.equal(secondsPerStep([]), NaN);
  const slow = Array.from({ length: 10 }, (_, i) => losses(i, [1], { duration_s: 100 }));
  const fast = Array.from({ length: 64 }, (_, i) => losses(10 + i, [1], { duration_s: 0.5 }));
  assert.equal(secondsPerStep(stateOf([...slow, ...fast]).recent), 0.5);
  const short = stateOf([plan(), losses(0, [1, 1], { stride: 10, duration_s: 4, dispatches: 2 })]);
  assert.equal(secondsPerStep(short.recent), 0.2);
  assert.equal(short.step, 20);
  assert.deepEqual(dispatchTimes(short), { dispatch_s: 2, steps: 10 });
});

test("charts of a run with NaN have finite axes and a mark at the first", () => {
  const state = stateOf(goldenEvents());
  for (const log of [false, true]) {
    const { y, marks } = lossContent(state, null, log, 400);
    assert.ok(y.every(Number.isFinite));
    assert.ok(y[0] < 0.15 && y[1] > 1 && (!log || y[0] > 0));
    assert.deepEqual(
      marks.filter(({ color }) => color === "bad").map(({ x }) => x),
      [50],
    );
    assert.deepEqual(
      marks.filter(({ color }) => color === "warning").map(({ x }) => x),
      [40, 50],
    );
  }
  assert.deepEqual(metricNames(state), ["accuracy"]);
  assert.equal(metricContent(state, "accuracy", null).ring?.x, 40);
});

test("charts of nothing, and of nothing finite, have axes", () => {
  for (const events of [[], [plan()], [plan(), losses(0, [NaN, Infinity])]]) {
    const { x, y } = lossContent(stateOf(events), null, false, 400);
    assert.ok([...x, ...y].every(Number.isFinite) && x[0] < x[1] && y[0] < y[1]);
  }
});

test("one wild loss does not flatten the chart, nor does a baseline far away", () => {
  const wild = Array.from({ length: 1000 }, (_, i) => (i === 500 ? 1e6 : 1 + (i % 10) / 10));
  const baseline = { kind: "baseline", step: 0, time_s: 0, name: "far", split: "valid", metrics: { loss: 500 } };
  const { y } = lossContent(stateOf([plan(), ...wild.map((loss, i) => losses(i, [loss]))]), null, false, 400);
  assert.ok(y[1] < 1e5 * 2);
  const calm = lossContent(stateOf([plan(), baseline, losses(0, [1, 2, 1, 2])]), null, false, 400);
  assert.ok(calm.y[1] < 5);
});

test("the logarithmic axis is for losses that are all positive", () => {
  assert.ok(canBeLogarithmic(stateOf([losses(0, [1, NaN, 2])])));
  assert.ok(!canBeLogarithmic(stateOf([losses(0, [1, 0])])));
  assert.ok(!canBeLogarithmic(stateOf([losses(0, [1]), evaluation(1, { metrics: { loss: -1 } })])));
  assert.ok(!canBeLogarithmic(stateOf([])));
});

test("numbers and times are written for people", () => {
  assert.deepEqual([0.12345, 26312, 0, 1e-5, NaN, -Infinity].map(value), [
    "0.1235",
    "26,310",
    "0",
    "1e-5",
    "NaN",
    "−∞",
  ]);
  assert.deepEqual([1234567, 5].map(count), ["1,234,567", "5"]);
  assert.deepEqual([0, 0.25, 1200, 1e6, 1e-4].map(tick), ["0", "0.25", "1.2k", "1M", "1e-4"]);
  const times = [0.00035, 0.012, 0.93, 1.23, 59.4, 200, 7500];
  assert.deepEqual(times.map(duration), ["350 µs", "12 ms", "930 ms", "1.2 s", "59 s", "3 min 20 s", "2 h 05 min"]);
  assert.deepEqual([0.2, 1.4, 90].map(remaining), ["under 1 s", "1 s", "1 min 30 s"]);
  assert.equal(clock(0.42), "0.4 s");
});
