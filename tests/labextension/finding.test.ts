import assert from "node:assert/strict";
import { test } from "node:test";

import { refOf, runsMeant } from "../../labextension/lab/finding";
import { summary } from "./summaries";

const RUNS = [
  summary({ run: "c", name: "xor" }),
  summary({ run: "b", name: "iris" }),
  summary({ run: "a", name: "xor" }),
];
const LINES = ["xor · now", "iris · now", "xor · yesterday"];
const STORE = "fedcba9876543210";

test("a typed text means a line, an id, or all runs of a name", () => {
  const ids = (text: string): string[] => runsMeant(RUNS, LINES, text).map(({ run }) => run);
  assert.deepEqual(ids("xor · yesterday"), ["a"]);
  assert.deepEqual(ids("b"), ["b"]);
  assert.deepEqual(ids("iris"), ["b"]);
  assert.deepEqual(ids("xor"), ["c", "a"]);
  assert.deepEqual(ids("nope"), []);
});

test("an id is enough for a run that is listed", () => {
  assert.equal(refOf(RUNS, { run: "a" }), RUNS[2]);
  assert.equal(refOf(RUNS, { run: "a", store: RUNS[2].store }), RUNS[2]);
  assert.equal(refOf(RUNS, { run: "nope" }), null);
  assert.equal(refOf(RUNS, {}), null);
});

test("a run that is not listed needs a reference of the right form", () => {
  assert.deepEqual(refOf(RUNS, { run: "z", store: STORE, name: "zed" }), { run: "z", store: STORE, name: "zed" });
  assert.equal(refOf([], { run: "z", store: STORE })?.name, "");
  for (const bad of [{ run: "../z" }, { run: "" }, { run: 5 }, { store: "/home" }, { store: 5 }]) {
    assert.equal(refOf(RUNS, { run: "z", store: STORE, ...bad }), null);
  }
});
