import assert from "node:assert/strict";
import { test } from "node:test";

import { SCHEMA, type DeviceMemory } from "../../labextension/core/events";
import { RunStore } from "../../labextension/core/runStore";
import { losses, plan } from "./runs";

const NO_CHANNEL = { control: () => undefined, requestSnapshot: () => assert.fail("nothing was missed") };
const running = { kind: "status", step: 1, time_s: 1, state: "running", reason: "" };
const paused = { ...running, state: "paused", reason: "asked to" };
const finished = { ...running, state: "finished", reason: "all epochs done" };

function started(...events: unknown[]): RunStore {
  const store = new RunStore(NO_CHANNEL);
  store.replace([plan(), running, ...events], 0, 1000);
  store.offer("", ["pause", "resume", "stop"]);
  store.setLife("alive");
  return store;
}

test("events that follow are taken once, and an answer without any is no sign of life", () => {
  const store = started();
  store.extend([losses(0, [1, 2])], 2000);
  store.extend([losses(2, [3])], 3000);
  store.extend([], 9000);
  assert.equal(store.state.losses.length, 3);
  assert.equal(store.heardAt_ms, 3000);
});

test("a run whose kernel is gone was interrupted, whatever it said last", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  for (const last of [running, paused, { ...running, state: "compiling" }]) {
    const store = started(last);
    store.request("stop");
    store.setLife("gone");
    const { state, reason } = store.standing(2000);
    assert.equal(state, "interrupted");
    assert.match(reason, /kernel ended before the run did/);
    assert.equal(store.pending, null);
    assert.ok(!store.isLive);
  }
});

test("a run that ended stays as it ended when its kernel goes", () => {
  const store = started(finished);
  store.setLife("gone");
  assert.deepEqual(store.standing(2000), { state: "finished", reason: "all epochs done" });
});

test("a silent run on another machine says when it was last heard, and other silent runs do not", () => {
  const store = started();
  assert.equal(store.standing(200_000).reason, "");
  store.setLife("elsewhere");
  assert.equal(store.standing(60_000).reason, "");
  assert.equal(store.standing(200_000).reason, "trained on another machine; last heard 3 min ago");
  assert.match(store.standing(8_000_000).reason, /last heard 2 h ago/);
  assert.match(store.standing(300_000_000).reason, /last heard 3 days ago/);
  assert.equal(store.standing(200_000).state, "running");
});

test("notes stand until they are replaced or taken away, and listeners hear of each change once", () => {
  const store = started();
  let heard = 0;
  store.subscribe(() => heard++);
  store.say("server", "gone");
  store.say("server", "gone");
  store.say("journal", "long");
  store.say("server", "back");
  assert.deepEqual(store.notes, ["back", "long"]);
  store.say("server", null);
  store.say("server", null);
  assert.deepEqual(store.notes, ["long"]);
  assert.equal(heard, 4);
});

test("a run of a newer vocabulary says so", () => {
  const store = new RunStore(NO_CHANNEL);
  store.replace([plan({ version: SCHEMA + 1, versions: { "dlfb-lab": "9.0" } })], 0, 0);
  assert.equal(store.notes.length, 1);
  assert.match(store.notes[0], /dlfb_lab 9\.0.*left out/);
  store.replace([plan({ version: SCHEMA })], 0, 0);
  assert.deepEqual(store.notes, []);
});

test("what cannot be read is left out, warned of once, and spoken of", (t) => {
  const warn = t.mock.method(console, "warn", () => undefined);
  const store = started({ ...losses(0, [1]), losses: "f2:AAA=" }, { ...losses(0, [1]), stride: 0 }, losses(0, [4, 5]));
  store.extend([{ ...losses(0, [1]), losses: null }], 2000);
  assert.equal(store.state.losses.length, 2);
  assert.deepEqual(store.notes, ["Some losses could not be read and are left out."]);
  assert.equal(warn.mock.callCount(), 1);
  store.replace([plan(), losses(0, [1])], 0, 3000);
  assert.deepEqual(store.notes, []);
});

test("a refused action is no longer pending, and why is shown for a while", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const store = started();
  store.request("stop");
  store.refused("no");
  assert.equal(store.pending, null);
  t.mock.timers.tick(5000);
  store.refused("no again");
  t.mock.timers.tick(5000);
  assert.equal(store.refusal, "no again");
  t.mock.timers.tick(5000);
  assert.equal(store.refusal, "");
});

test("what is not followed for half a minute is no longer waited for, and can be asked for again", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const store = started();
  store.request("stop");
  t.mock.timers.tick(20_000);
  store.refused("no");
  store.request("stop");
  t.mock.timers.tick(29_000);
  assert.equal(store.pending, "stop", "counted from the second time");
  t.mock.timers.tick(1000);
  assert.equal(store.pending, null);
  assert.match(store.refusal, /has not followed “stop” for 30 s/);
  store.request("pause");
  store.extend([paused], 4000);
  t.mock.timers.tick(30_000);
  assert.equal(store.refusal, "");
});

test("what was asked for is pending until the run says it, also over a whole new copy", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const store = started();
  store.request("pause");
  store.replace([plan(), running, losses(0, [1])], 0, 2000);
  assert.equal(store.pending, "pause");
  store.extend([running], 3000);
  assert.equal(store.pending, "pause");
  store.extend([paused], 4000);
  assert.equal(store.pending, null);
  store.request("stop");
  store.extend([running], 5000);
  assert.equal(store.pending, "stop");
  store.replace([plan(), running, finished], 0, 6000);
  assert.equal(store.pending, null);
});

test("the latest memory of each device is kept", () => {
  const memory = (device: string, in_use_bytes: number): DeviceMemory => ({
    kind: "device_memory",
    step: 1,
    time_s: 1,
    device,
    device_kind: "NVIDIA H100",
    in_use_bytes,
    peak_bytes: 9,
    limit_bytes: "NaN",
    pool_bytes: 8,
    preallocated: true,
    reason: "",
  });
  const store = started(memory("cuda:0", 1), memory("cuda:1", 2));
  store.extend([memory("cuda:0", 3)], 2000);
  const kept = [...store.state.memory].map(([device, { in_use_bytes }]) => [device, in_use_bytes]);
  assert.deepEqual(kept, [
    ["cuda:0", 3],
    ["cuda:1", 2],
  ]);
});
