import assert from "node:assert/strict";
import { test } from "node:test";

import { areaPath, linePath, lossCurves } from "../../labextension/core/sparkline";
import { factsOf, isLive, percent, rowOf } from "../../labextension/lab/runRow";
import { statusOf } from "../../labextension/lab/statusText";
import type { RunSummary } from "../../labextension/lab/server";
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

function facts(changes: Partial<RunSummary>): string[] {
  return factsOf(summary(changes)).map(({ name, value, isBaseline }) => `${isBaseline ? "  " : ""}${name} ${value}`);
}

test("a finished run says its main score beside the baseline's, and the best of what was monitored", () => {
  assert.deepEqual(facts({}), ["accuracy 0.98", "  majority class 0.62", "best loss 0.123"]);
  const row = rowOf(summary(), NOW_S);
  assert.deepEqual([row.state, row.done, row.progress, row.warnings, row.reason], ["finished", null, "", "", ""]);
  assert.equal(row.when, "2 min ago, took 30 s");
  assert.deepEqual(row.actions, []);
});

test("a monitored score is the main one, and the test's stands by itself", () => {
  const best = { column: "valid/accuracy", value: 0.995, step: 800 };
  const scores = { valid: { loss: 0.13, accuracy: 0.98 }, test: { loss: 0.2, accuracy: 0.97 } };
  assert.deepEqual(facts({ best, scores }), ["best accuracy 0.995", "  majority class 0.62", "test accuracy 0.97"]);
});

test("the baseline stands beside the score of its own part of the data, and no other", () => {
  const best = { column: "train/loss", value: 0.1, step: 9 };
  assert.deepEqual(facts({ best, scores: { train: { loss: 0.1 } } }), ["best train loss 0.1"]);
  const baseline = { name: "mean", split: "train", metrics: { loss: 2 } };
  assert.deepEqual(facts({ best, baseline, scores: { train: { loss: 0.1 } } }), ["best train loss 0.1", "  mean 2"]);
});

test("without validation data there is still something to say", () => {
  const bare = { best: null, baseline: null };
  assert.deepEqual(facts({ ...bare, scores: {} }), ["training loss 0.1"]);
  assert.deepEqual(facts({ ...bare, scores: { test: { loss: 2, r2: "NaN" } } }), ["test r2 NaN"]);
  assert.deepEqual(facts({ ...bare, scores: {}, curve: { steps: [], losses: [] } }), []);
});

test("a run that began from another's checkpoint says so to whoever points at it", () => {
  assert.match(rowOf(summary({ parent: "base", parent_step: 400 }), NOW_S).title, /^xor\nfrom base@400\nMLP/);
  assert.match(rowOf(summary(), NOW_S).title, /^xor\nMLP/);
});

test("a run that goes on has progress and buttons", () => {
  const row = rowOf(running({ warnings: 2 }), NOW_S);
  assert.deepEqual([row.progress, row.done, row.warnings], ["439 of 1,000 steps", 0.439, "2"]);
  assert.deepEqual(row.actions, ["pause", "stop"]);
  assert.deepEqual(rowOf(running({ state: "paused" }), NOW_S).actions, ["resume", "stop"]);
  assert.equal(rowOf(running({ state: "compiling", step: 0 }), NOW_S).progress, "compiling");
  const planless = rowOf(running({ step: 1000, steps_total: 0 }), NOW_S);
  assert.deepEqual([planless.progress, planless.done], ["1,000 steps", null]);
  const long = running({ step: 338_413, steps_total: 1e8 });
  assert.equal(rowOf(long, NOW_S).progress, "338.4k of 100M steps");
  assert.equal(percent(0.9999), "99 %");
});

test("a run whose kernel is gone was interrupted, and takes no requests", () => {
  const row = rowOf(running({ life: "gone" }), NOW_S);
  assert.deepEqual([row.state, row.done, row.progress, row.when], ["interrupted", null, "", "just now, took 30 s"]);
  assert.equal(row.reason, "its kernel ended before the run did");
  assert.deepEqual(row.actions, []);
  assert.ok(!isLive(running({ life: "gone" }), NOW_S));
});

test("a run on another machine counts as long as it is heard", () => {
  const far = running({ life: "elsewhere", updated_s: NOW_S - 200 });
  assert.ok(isLive(far, NOW_S));
  assert.ok(!isLive({ ...far, updated_s: NOW_S - 400 }, NOW_S));
  assert.equal(rowOf(far, NOW_S).reason, "on another machine, heard 3 min ago");
});

test("a run whose kernel could not be asked after is as its journal says", () => {
  const unsure = running({ life: "unknown", updated_s: NOW_S - 4000 });
  assert.ok(isLive(unsure, NOW_S));
  const row = rowOf(unsure, NOW_S);
  assert.deepEqual([row.state, row.reason, row.actions], ["running", "", ["pause", "stop"]]);
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
  assert.match(status.title, /^iris paused at 43 % .*\nxor 43 % \(439 of 1,000 steps\)\nmoons compiling/);
});
