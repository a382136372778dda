import assert from "node:assert/strict";
import { test } from "node:test";

import { lossParts, looksLikeLoss, partsContent, partsLeftOut, scoreParts } from "../../labextension/core/parts";
import { metricContent, metricNames } from "../../labextension/core/plots";
import { planText } from "../../labextension/core/progress";
import { newestTrial, untilItBreaks } from "../../labextension/core/rateTest";
import { lossContent } from "../../labextension/core/plots";
import { block, evaluation, goldenEvents, losses, plan, stateOf } from "./runs";

const several = stateOf(goldenEvents("members"));

test("parts of the loss share a chart, and scores have their own beside the validation's", () => {
  assert.deepEqual(
    lossParts(several).map(({ name, color }) => [name, color]),
    [
      ["reconstruction_loss", "part1"],
      ["kl", "part2"],
    ],
  );
  assert.deepEqual(scoreParts(several), ["accuracy"]);
  assert.deepEqual(metricNames(several), ["accuracy"]);
  assert.deepEqual(
    metricContent(several, "accuracy", null).lines.map(({ color }) => color),
    ["train", "valid"],
  );
  assert.deepEqual(lossParts(stateOf(goldenEvents())), []);
});

test("a part is told from a score as in Python", () => {
  const told: [string, number, boolean][] = [
    ["commitment_loss", 1e6, true],
    ["Loss", NaN, true],
    ["kl", 0.01, true],
    ["kl", 1e6, false],
    ["accuracy", 0.5, false],
    ["hits@20", 0.5, false],
    ["grad_norm", 1, false],
    ["reconstruction", NaN, true],
    ["entropy", 0, true],
  ];
  for (const [name, first, isLoss] of told) assert.equal(looksLikeLoss(name, first, 1), isLoss, name);
});

test("parts far apart are drawn on a logarithmic axis, unless one is not positive", () => {
  const state = (small: number): ReturnType<typeof stateOf> =>
    stateOf([plan(), losses(0, [1, 1], { parts: { a: block([1, 1]), b: block([small, small]) } })]);
  assert.equal(partsContent(state(0.01), null, false).log, true);
  assert.equal(partsContent(state(0.5), null, false).log, false);
  assert.equal(partsContent(state(0.5), null, true).log, true);
  assert.equal(partsContent(state(-0.01), null, true).log, false);
});

test("of many parts eight are drawn", () => {
  const parts = Object.fromEntries(Array.from({ length: 11 }, (_, i) => [`loss ${i} loss`, block([1])]));
  const state = stateOf([losses(0, [1], { parts })]);
  assert.equal(lossParts(state).length, 8);
  assert.equal(partsLeftOut(state), 3);
});

test("a part by the name of the loss is not drawn twice, and one that is not finite at first is drawn later", () => {
  const parts = { loss: block([1, 1]), kl: block([NaN, 2]) };
  const state = stateOf([losses(0, [1, 1], { parts })]);
  assert.deepEqual(
    lossParts(state).map(({ name, latest }) => [name, latest]),
    [["kl", 2]],
  );
  assert.deepEqual(partsContent(state, null, false).lines[0].ys, [NaN, 2]);
});

test("a test of learning rates is the newest thing until there are losses", () => {
  const events = goldenEvents();
  const at = events.findIndex((event) => (event as { kind: string }).kind === "rate_test");
  assert.equal(newestTrial(stateOf(events.slice(0, at + 1)))?.chosen, 0.01);
  assert.equal(newestTrial(stateOf(events)), null);
  assert.equal(stateOf(events).rateTests.length, 1);
});

test("the curve of a test ends where training broke down", () => {
  assert.deepEqual(untilItBreaks([1, 0.9, 0.5, 2, 9]), [1, 0.9, 0.5, 1.5]);
  assert.deepEqual(untilItBreaks([1, 0.9, 0.5, NaN, 0.4]).length, 5);
  assert.deepEqual(untilItBreaks([1, 0.5, NaN, NaN]), [1, 0.5]);
  assert.deepEqual(untilItBreaks([NaN, NaN]), []);
});

test("a plan is said with what was measured, and marked where it changes", () => {
  const state = stateOf(goldenEvents());
  assert.deepEqual(state.plans.map(planText), [
    "one by one: it is ready first",
    "fused: 40 µs a step against 250 µs one by one",
  ]);
  assert.deepEqual(
    lossContent(state, null, false, 100)
      .marks.filter(({ color }) => color === "muted")
      .map(({ x, text }) => [x, text]),
    [[40, "fused from here: it is faster, and its numbers are the same"]],
  );
});

test("a monitored score to be maximised keeps its ring", () => {
  const state = stateOf([
    plan({ monitor: "valid/hits@20", monitor_mode: "max" }),
    ...[0.1, 0.4, 0.3].map((hits, i) => evaluation(10 * i, { metrics: { "hits@20": hits } })),
  ]);
  assert.deepEqual(metricContent(state, "hits@20", null).ring, { x: 10, y: 0.4 });
});
