import assert from "node:assert/strict";
import { test } from "node:test";

import {
  brokenMembers,
  latestOfMembers,
  memberBand,
  memberNames,
  membersNote,
  scoreBand,
} from "../../labextension/core/members";
import { describe, lossContent, metricContent, metricNames } from "../../labextension/core/plots";
import { timeLeft } from "../../labextension/core/progress";
import { bestMember, evaluationsOf } from "../../labextension/core/runState";
import { block, evaluation, goldenEvents, losses, plan, stateOf } from "./runs";

const several = stateOf(goldenEvents("members"));

test("the golden journal of members adds up to its run", () => {
  assert.deepEqual(memberNames(several), ["seed 0", "seed 1", "seed 2"]);
  assert.equal(membersNote(several), "mean of 3 ± sd");
  assert.equal(several.losses.length, 60);
  assert.ok(Number.isFinite(several.losses.valueAt(59)), "the mean of those that did not break down");
  assert.deepEqual([...several.parts.keys()], ["reconstruction_loss", "kl", "accuracy"]);
  assert.deepEqual(
    several.memberBests.map((best) => [best?.step, best?.value]),
    [
      [60, 0.72],
      [40, 0.75],
      [20, 0.4],
    ],
  );
  assert.deepEqual(bestMember(several), { index: 1, best: { column: "valid/accuracy", value: 0.75, step: 40 } });
  assert.deepEqual(several.best, { column: "valid/accuracy", value: 0.5, step: 20 }, "of the mean, where all have one");
});

test("of equal members the earliest is the best, and none is where nothing is monitored", () => {
  const scored = (step: number, scores: number[]): unknown =>
    evaluation(step, { members: scores.map((loss) => ({ loss })), metrics: { loss: 1 } });
  assert.equal(bestMember(stateOf([plan(), scored(10, [0.5, 0.2]), scored(20, [0.2, 0.3])]))?.index, 1);
  assert.equal(bestMember(stateOf([plan({ monitor: "" }), scored(10, [0.5, 0.2])])), null);
  assert.equal(bestMember(stateOf([plan(), evaluation(10)])), null);
});

test("a member that breaks down is named where it does, and the others are drawn on", () => {
  assert.deepEqual(
    brokenMembers(several).map(({ step }) => step),
    [30],
  );
  const { marks, lines, bands } = lossContent(several, null, false, 100);
  assert.deepEqual(
    marks.map(({ text }) => text),
    ["seed 2: first loss that is not finite: step 30"],
  );
  assert.ok(lines[0].ys.every(Number.isFinite));
  assert.deepEqual(
    bands.map(({ color }) => color),
    ["train", "valid"],
  );
});

test("bands lie one deviation around the mean", () => {
  const state = stateOf([
    plan({ members: ["a", "b"] }),
    losses(0, [2, 4], { members: [block([1, 4]), block([3, 4])] }),
    evaluation(2, { metrics: { loss: 2 }, members: [{ loss: 1 }, { loss: 3 }] }),
  ]);
  const band = memberBand(state, [0, 2], 0) ?? assert.fail("no band");
  assert.deepEqual(band.low, [2 - Math.SQRT2, 4]);
  assert.deepEqual(band.high, [2 + Math.SQRT2, 4]);
  assert.deepEqual(scoreBand(state, "loss")?.high, [2 + Math.SQRT2]);
  assert.equal(scoreBand(state, "accuracy"), null);
  const { y } = metricContent(state, "loss", null);
  assert.ok(y[0] < 2 - Math.SQRT2 && y[1] > 2 + Math.SQRT2, "the axis has room for the band");
});

test("one model has no band and no members", () => {
  const state = stateOf(goldenEvents());
  assert.deepEqual(lossContent(state, null, false, 100).bands, []);
  assert.equal(memberBand(state, [0, 100], 0), null);
  assert.equal(membersNote(state), "");
  assert.equal(latestOfMembers(state, "training loss"), "");
});

test("whoever points at a legend or a chart is told of the members", () => {
  assert.match(latestOfMembers(several, "training loss"), /^seed 0: 0\.1\d+\nseed 1: 0\.1\d+\nseed 2: NaN$/);
  assert.equal(latestOfMembers(several, { metric: "accuracy" }), "seed 0: 0.72\nseed 1: 0.7\nseed 2: NaN");
  const rows = describe(several, "accuracy", 20, 2).map(({ label, value }) => `${label} ${value}`);
  assert.ok(rows.includes("valid accuracy (step 20) 0.5 ± 0.1"), rows.join("; "));
  assert.ok(
    describe(several, "loss", 10, 2).some(({ label, value }) => label === "sd of 3" && value.startsWith("± 0.")),
  );
});

test("of very many members only some are listed", () => {
  const members = Array.from({ length: 100 }, () => block([1]));
  const lines = latestOfMembers(stateOf([losses(0, [1], { members })]), "training loss").split("\n");
  assert.equal(lines[0], "member 0: 1");
  assert.equal(lines.at(-1), "and 76 more");
});

test("a score that some members lack is the mean of the others", () => {
  assert.ok(Math.abs(evaluationsOf(several, "valid")[1].metrics.accuracy - 0.725) < 1e-12);
});

test("where the length of a run is not known nothing is divided by it", () => {
  assert.equal(timeLeft(several).train_s, 0);
  assert.deepEqual(metricNames(several), ["accuracy"]);
});

test("members of other lengths, or that cannot be read, leave the losses", () => {
  assert.equal(stateOf([losses(0, [1, 2], { members: [block([1])] })]).members, null);
  assert.throws(() => stateOf([losses(0, [1, 2], { members: ["f2:"] })]), /f4/);
});
