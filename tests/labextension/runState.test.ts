import assert from "node:assert/strict";
import { test } from "node:test";

import { lossContent, metricNames, originOf, ticksOf } from "../../labextension/core/plots";
import { timeLeft } from "../../labextension/core/progress";
import { decodeLosses, evaluationsOf, hasEnded } from "../../labextension/core/runState";
import { newerThanThis } from "../../labextension/core/standing";
import { evaluation, goldenEvents, losses, plan, stateOf } from "./runs";

test("the golden journal adds up to its run", () => {
  const state = stateOf(goldenEvents());
  assert.equal(state.plan?.name, "golden <run>");
  assert.equal(state.state, "failed");
  assert.equal(state.reason, "the loss is NaN");
  assert.ok(hasEnded(state));
  assert.equal(state.step, 60);
  assert.equal(state.losses.length, 60);
  assert.equal(evaluationsOf(state, "valid").length, 3);
  assert.equal(evaluationsOf(state, "test")[0].look, 1);
  assert.equal(state.compilations.length, 2);
  assert.equal(state.notices.length, 2);
  assert.equal(state.baselines[0].metrics.accuracy, 0.5);
  assert.deepEqual(
    state.checkpoints.map(({ step }) => step),
    [40, 60],
  );
});

test("an evaluation that is NaN is kept and is never the best", () => {
  const state = stateOf(goldenEvents());
  assert.ok(Number.isNaN(evaluationsOf(state, "valid")[2].metrics.loss));
  assert.deepEqual(state.best, { column: "valid/loss", value: 0.4, step: 40 });
});

test("the best of a monitor to be maximised is the largest", () => {
  const state = stateOf([
    plan({ monitor: "valid/accuracy", monitor_mode: "max" }),
    ...[0.5, 0.9, 0.7].map((accuracy, i) => evaluation(10 * i, { metrics: { accuracy } })),
    evaluation(40, { split: "test", metrics: { accuracy: 1 } }),
  ]);
  assert.deepEqual(state.best, { column: "valid/accuracy", value: 0.9, step: 10 });
});

test("the first loss that is not finite is remembered", () => {
  assert.equal(stateOf(goldenEvents()).losses.firstNonFiniteStep, 50);
});

test("kinds that are not known are skipped", () => {
  const odd = [{ kind: "from_the_future", step: 3 }, { kind: 7, step: 1 }, { step: 1 }, null, 4, "losses", []];
  assert.deepEqual(stateOf([plan(), ...odd]), stateOf([plan()]));
});

test("a plan of a newer version may lack fields or have others in their place", () => {
  const lacking = { ...plan(), version: undefined, rows: undefined };
  const odd = { ...lacking, versions: null, settings: [1], name: 7, steps_total: "many", monitor: null, added: {} };
  const state = stateOf([odd, evaluation(10), losses(0, [1, 2])]);
  const { version, rows, versions, settings, name, steps_total, model } = state.plan ?? assert.fail("no plan");
  assert.deepEqual(
    { version, rows, versions, settings, name, steps_total },
    { version: NaN, rows: {}, versions: {}, settings: {}, name: "", steps_total: 0 },
  );
  assert.equal(model, plan().model);
  assert.match(newerThanThis(state), /a newer dlfb_lab/);
  assert.deepEqual(metricNames(state), []);
  assert.deepEqual(lossContent(state, null, false, 100).x, [0, 10]);
  assert.deepEqual(lossContent(stateOf([odd]), null, false, 100).x, [0, 1]);
  assert.equal(timeLeft(state).train_s, 0);
});

test("a state or a reason that is no text changes nothing", () => {
  const started = { kind: "status", step: 0, time_s: 1, state: "running", reason: "" };
  const state = stateOf([started, { ...started, state: null, reason: 5 }]);
  assert.deepEqual([state.state, state.reason], ["running", ""]);
});

test("losses of steps already known replace them", () => {
  const state = stateOf([losses(0, [1, 2, 3, 4]), losses(2, [7])]);
  assert.deepEqual(
    [0, 1, 2].map((i) => state.losses.valueAt(i)),
    [1, 2, 7],
  );
  assert.equal(state.losses.endStep, 3);
});

test("both widths of a block are read, and others refused", () => {
  const bytes = new Uint8Array(Float32Array.from([0.5, NaN, -Infinity]).buffer);
  assert.deepEqual([...decodeLosses(`f4:${btoa(String.fromCharCode(...bytes))}`)], [0.5, NaN, -Infinity]);
  assert.deepEqual([...decodeLosses(losses(0, [0.1, Infinity]).losses)], [0.1, Infinity]);
  assert.throws(() => decodeLosses("f2:AAA="), /f4/);
});

test("checkpoints that are still there stand on the axis, with size and scores", () => {
  assert.deepEqual(ticksOf(stateOf(goldenEvents())), [
    { x: 40, color: "text", label: "checkpoint (step 40)", value: "11.8 MiB · loss 0.4 · accuracy 0.8" },
    { x: 60, color: "bad", label: "checkpoint (step 60)", value: "not finite · 11.8 MiB · loss NaN · accuracy 0.9" },
  ]);
  const state = stateOf([plan(), losses(0, [1, 2])]);
  assert.deepEqual(lossContent(state, null, false, 100).ticks, []);
});

test("a run that began from another's checkpoint is drawn from there on, with a mark", () => {
  const state = stateOf([plan({ parent: "base", parent_step: 400 }), losses(400, Array<number>(100).fill(1))]);
  assert.equal(originOf(state), "base@400");
  const { x, marks } = lossContent(state, null, false, 100);
  assert.deepEqual(x, [394, 500]);
  assert.deepEqual(marks, [{ x: 400, color: "other", text: "began here, from base@400" }]);
  const waiting = stateOf([plan({ parent: "base", parent_step: 400, steps_total: 300 })]);
  assert.deepEqual(lossContent(waiting, null, false, 100).x, [0, 300]);
  assert.equal(originOf(stateOf([plan()])), "");
});
