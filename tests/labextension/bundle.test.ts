import assert from "node:assert/strict";
import { test } from "node:test";

import { runOf, staticPart, widgetOf } from "../../labextension/lab/bundle";
import { RUN_MIME } from "../../labextension/lab/tokens";

const GOOD = { version: "0.1.0", store: "0123456789abcdef", run: "xor-20261122-001020-bd1a", name: "xor" };

test("a run is known by its store and its id", () => {
  assert.deepEqual(runOf({ [RUN_MIME]: GOOD }), { store: GOOD.store, run: GOOD.run, name: "xor" });
  assert.equal(runOf({ [RUN_MIME]: { ...GOOD, name: 5 } })?.name, "");
});

for (const [what, reference] of [
  ["nothing", undefined],
  ["null", null],
  ["a text", "xor"],
  ["a list", [GOOD]],
  ["no run", { ...GOOD, run: undefined }],
  ["a run that is no text", { ...GOOD, run: ["a"] }],
  ["a run that climbs", { ...GOOD, run: "../other" }],
  ["a run with a slash", { ...GOOD, run: "a/b" }],
  ["a run with markup", { ...GOOD, run: "<img src=x>" }],
  ["a run that begins with a dot", { ...GOOD, run: ".hidden" }],
  ["a run with an endless name", { ...GOOD, run: "a".repeat(201) }],
  ["a store that is no key", { ...GOOD, store: "/home" }],
  ["a store that is a number", { ...GOOD, store: 1234567890123456 }],
] as const) {
  test(`an output with ${what} names no run`, () => {
    assert.equal(runOf({ [RUN_MIME]: reference }), null);
  });
}

test("the static part is what can be drawn without a server and a kernel", () => {
  const bundle = { [RUN_MIME]: GOOD, "text/plain": "xor", "text/html": "<b>xor</b>", "application/javascript": "x" };
  assert.deepEqual(Object.keys(staticPart(bundle)), ["text/plain", "text/html"]);
});

test("a widget is known by its model's id", () => {
  const mime = "application/vnd.jupyter.widget-view+json";
  assert.equal(widgetOf({ [mime]: { model_id: "abc" } }), "abc");
  for (const view of [undefined, null, "abc", {}, { model_id: 5 }]) assert.equal(widgetOf({ [mime]: view }), "");
});
