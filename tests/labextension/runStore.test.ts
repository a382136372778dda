import assert from "node:assert/strict";
import { test } from "node:test";

import { RunStore, type Action } from "../../labextension/core/runStore";
import { goldenEvents, losses, plan } from "./runs";

interface Talk {
  store: RunStore;
  actions: Action[];
  requests: () => number;
}

function talk(): Talk {
  const actions: Action[] = [];
  let requested = 0;
  const store = new RunStore({
    control: (action) => actions.push(action),
    requestSnapshot: () => requested++,
  });
  return { store, actions, requests: () => requested };
}

const blocks = [plan(), ...[0, 1, 2, 3].map((i) => losses(10 * i, new Array<number>(10).fill(i)))];

test("messages in order are added, and what overlaps is left out", () => {
  const { store, requests } = talk();
  store.append(0, blocks.slice(0, 3), 0);
  store.append(1, blocks.slice(1, 4), 0);
  store.append(0, blocks.slice(0, 2), 0);
  assert.equal(store.state.losses.length, 30);
  assert.equal(store.state.recent.length, 3);
  assert.equal(requests(), 0);
});

test("after a gap a snapshot is asked for once, and the view goes on meanwhile", () => {
  const { store, requests } = talk();
  store.append(0, blocks.slice(0, 2), 0);
  store.append(3, blocks.slice(3, 4), 0);
  store.append(4, blocks.slice(4), 0);
  assert.equal(requests(), 1);
  assert.equal(store.state.step, 40);
  assert.equal(store.state.losses.length, 30);
  store.replace(blocks, 5, 0);
  assert.equal(store.state.losses.length, 40);
  store.append(9, [], 0);
  assert.equal(requests(), 2);
});

test("a shortened snapshot says how many events it stands for", () => {
  const { store, requests } = talk();
  store.replace([plan(), losses(0, [0, 0], { stride: 10 })], 3, 0);
  store.append(3, blocks.slice(3), 0);
  assert.equal(requests(), 0);
  assert.equal(store.state.step, 40);
});

test("a saved copy replaces the store unless it knows less", () => {
  const { store } = talk();
  store.restore(blocks.slice(0, 2));
  assert.equal(store.state.step, 10);
  store.append(2, blocks.slice(2), 0);
  store.restore(blocks.slice(0, 3));
  assert.equal(store.state.step, 40);
  store.restore([]);
  assert.equal(store.state.step, 40);
  store.restore(goldenEvents());
  assert.equal(store.state.state, "failed");
});

test("an event that cannot be read is left out, and the others are taken", (t) => {
  const warn = t.mock.method(console, "warn", () => undefined);
  const { store } = talk();
  store.append(0, [plan(), { ...losses(0, [1]), losses: "?" }, losses(0, [1, 2])], 0);
  assert.equal(store.state.losses.length, 2);
  assert.equal(warn.mock.callCount(), 1);
});

test("an action is asked for while the run can hear it, and is pending until the state changes", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const { store, actions } = talk();
  store.append(0, [plan()], 0);
  store.request("stop");
  assert.deepEqual(actions, []);
  store.offer("", ["stop", "explode"]);
  assert.deepEqual(store.controls, ["stop"]);
  store.request("stop");
  assert.equal(store.pending, "stop");
  store.append(1, [losses(0, [1])], 0);
  assert.equal(store.pending, "stop");
  store.append(2, [{ kind: "status", step: 1, time_s: 1, state: "stopped", reason: "" }], 0);
  assert.equal(store.pending, null);
  store.request("stop");
  assert.deepEqual(actions, ["stop"]);
});

test("listeners hear of changes until they leave", () => {
  const { store } = talk();
  let heard = 0;
  const leave = store.subscribe(() => heard++);
  store.append(0, blocks, 0);
  leave();
  store.replace(blocks, 5, 0);
  assert.equal(heard, 1);
});

test("a saved copy offers no action until the engine's side is heard", () => {
  const { store, actions } = talk();
  store.offer("", ["stop"]);
  store.restore([plan()]);
  store.request("stop");
  assert.ok(!store.isLive);
  assert.deepEqual(actions, []);
  store.replace([plan()], 1, 5);
  assert.ok(store.isLive);
  store.restore([plan(), losses(0, [1])]);
  assert.ok(store.isLive);
  store.append(2, [{ kind: "status", step: 1, time_s: 1, state: "finished", reason: "" }], 6);
  assert.ok(!store.isLive);
});
