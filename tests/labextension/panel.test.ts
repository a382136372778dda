import assert from "node:assert/strict";
import { test } from "node:test";

import { areaPath, linePath, lossCurves } from "../../labextension/core/sparkline";
import { factsOf, isLive, rowOf } from "../../labextension/lab/runRow";
import { statusOf } from "../../labextension/lab/statusText";
import { NOW_S, running, summary } from "./summaries";

test("a curve breaks where a value is missing, and a value alone is a dot", () => {
  const ys = [0, 1, NaN, 2, Infinity, 4, 4];
  const points = { xs: [0, 1, 2, 3, 4, 5, 10], ys };
  assert.equal(linePath(points, [0, 10], [0, 4]), "M0 100L10 75M30 50h0M50 0L100 0");
  assert.equal(linePath(points, [0, 10], [0, 4], 2), "M0 100L10 75M30 50h0M50 0h0M100 0h0");
  assert.equal(areaPath(points, [0, 10], [0, 4]), "M0 100L0 100L10 75L10 100ZM50 100L50 0L100 0L100 100Z");
  assert.equal(linePath({ xs: [], ys: [] }, [0, 0], [0, 0]), "");
});

test("losses that fall by orders of magnitude are drawn logarithmically, others and constant ones as they are", () => {
  const none = { steps: [], values: [] };
  const falling = lossCurves({ steps: [0, 50, 100], losses: [100, 1, 0.01] }, none);
  assert.equal(falling.train, "M0 0L50 50L100 100");
  const flat = lossCurves({ steps: [0, 50, 100], losses: [3, 2, 1] }, { steps: [100], values: [2] });
  assert.deepEqual(flat, { train: "M0 0L50 50L100 100", valid: "M100 50h0" });
  assert.equal(lossCurves({ steps: [0, 10], losses: [2, 2] }, none).train, "M0 50L100 50");
  const diverged = lossCurves({ steps: [0, 5, 10], losses: [1, 2, "NaN"] }, none);
  assert.equal(diverged.train, "M0 100L50 0");
  assert.deepEqual(lossCurves({ steps: [0], losses: ["NaN"] }, none), { train: "", valid: "" });
});

test("a finished run says its main score beside the baseline's, and the best of what was monitored", () => {
  const row = rowOf(summary(), NOW_S);
  assert.deepEqual(row.facts, [
    { name: "accuracy", value: "0.98", beside: "majority class 0.62" },
    { name: "best validation loss", value: "0.123", beside: "" },
  ]);
  assert.equal(row.when, "2 min ago, took 30 s");
  assert.deepEqual([row.state, row.done, row.progress, row.warnings], ["finished", null, "", ""]);
  assert.deepEqual(row.actions, []);
});

test("a monitored score is the main one, and the test's stands by itself", () => {
  const best = { column: "valid/auc", value: 0.995, step: 800 };
  const scores = { valid: { loss: 0.13, accuracy: 0.98, auc: 0.99 }, test: { loss: 0.2, auc: 0.97 } };
  assert.deepEqual(factsOf(summary({ best, scores })), [
    { name: "auc", value: "0.995", beside: "" },
    { name: "test auc", value: "0.97", beside: "" },
  ]);
});

test("without validation data there is still something to say", () => {
  const bare = { best: null, baseline: null };
  assert.deepEqual(factsOf(summary({ ...bare, scores: {} })), [{ name: "training loss", value: "0.1", beside: "" }]);
  assert.deepEqual(factsOf(summary({ ...bare, scores: { test: { loss: 2, r2: "NaN" } } })), [
    { name: "test r2", value: "NaN", beside: "" },
  ]);
  assert.deepEqual(factsOf(summary({ ...bare, scores: {}, curve: { steps: [], losses: [] } })), []);
});

test("a run that goes on has progress and buttons", () => {
  const row = rowOf(running({ warnings: 2 }), NOW_S);
  assert.equal(row.progress, "43 % · 439 of 1,000 steps");
  assert.equal(row.done, 0.439);
  assert.deepEqual(row.actions, ["pause", "stop"]);
  assert.equal(row.when, "for 30 s");
  assert.equal(row.warnings, "2");
  assert.deepEqual(rowOf(running({ state: "paused" }), NOW_S).actions, ["resume", "stop"]);
  assert.equal(rowOf(running({ state: "compiling" }), NOW_S).progress, "compiling the training program");
  assert.equal(rowOf(running({ step: 1000, steps_total: 0 }), NOW_S).progress, "1,000 steps");
  assert.equal(rowOf(running({ step: 9999, steps_total: 10_000 }), NOW_S).progress, "99 % · 9,999 of 10,000 steps");
});

test("a run whose kernel is gone was interrupted, and takes no requests", () => {
  const row = rowOf(running({ life: "gone" }), NOW_S);
  assert.deepEqual([row.state, row.done, row.progress, row.when], ["interrupted", null, "", "just now, took 30 s"]);
  assert.deepEqual(row.actions, []);
  assert.ok(!isLive(running({ life: "gone" }), NOW_S));
});

test("a run on another machine counts as long as it is heard", () => {
  const far = running({ life: "elsewhere", updated_s: NOW_S - 200 });
  assert.ok(isLive(far, NOW_S));
  assert.ok(!isLive({ ...far, updated_s: NOW_S - 400 }, NOW_S));
  assert.equal(rowOf(far, NOW_S).when, "on another machine, heard 3 min ago");
});

test("a run of which only the name is known says no more", () => {
  const row = rowOf(running({ reading: true, name: "" }), NOW_S);
  assert.deepEqual([row.name, row.state, row.facts, row.actions], ["20231114-221320-xor", "reading", [], []]);
});

test("the status bar names the newest run that goes on, and counts them", () => {
  assert.equal(statusOf([], NOW_S), null);
  assert.equal(statusOf([summary(), running({ life: "gone" })], NOW_S), null);
  assert.equal(statusOf([running(), summary()], NOW_S)?.text, "xor 43 %");
  assert.equal(statusOf([running({ state: "paused" })], NOW_S)?.text, "xor paused at 43 %");
  const several = [
    running({ state: "paused", name: "iris" }),
    running(),
    running({ state: "compiling", name: "moons" }),
  ];
  const status = statusOf(several, NOW_S);
  assert.equal(status?.text, "xor 43 % · 2 running, 1 paused");
  assert.match(status.title, /^iris paused at 43 % .*\nxor 43 % .*\nmoons compiling/);
});
