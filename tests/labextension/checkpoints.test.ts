import assert from "node:assert/strict";
import { test } from "node:test";

import {
  checkpointRow,
  childrenOf,
  deletedText,
  olderThan,
  totalText,
  trashText,
  untilText,
} from "../../labextension/lab/checkpointRow";
import { CheckpointsModel, type CheckpointsSource } from "../../labextension/lab/checkpointsModel";
import type {
  CheckpointAction,
  CheckpointsAnswer,
  CheckpointSummary,
  DeletedCheckpoint,
} from "../../labextension/lab/server";
import { NOW_S, summary } from "./summaries";

const MIB = 2 ** 20;
const REF = { store: "0123456789abcdef", run: "20231114-221320-xor" };

function saved(step: number, changes: Partial<CheckpointSummary> = {}): CheckpointSummary {
  return {
    name: `step-${step}`,
    step,
    state: "complete",
    why: "",
    bytes: 3 * MIB,
    saved_s: NOW_S - 120,
    metrics: { "valid/loss": 0.25, "valid/accuracy": 0.9 },
    pinned: false,
    kept: "",
    protected: "",
    verifying: false,
    verified_s: null,
    ...changes,
  };
}

function deleted(step: number): DeletedCheckpoint {
  const until_s = NOW_S + 7 * 86_400;
  return { name: `step-${step}-${NOW_S}`, step, bytes: 3 * MIB, deleted_s: NOW_S, until_s };
}

function answer(checkpoints: CheckpointSummary[], trash: DeletedCheckpoint[] = []): CheckpointsAnswer {
  const about = { run: REF.run, folder: `/data/dlfb_runs/${REF.run}`, below: "dlfb_runs", source: "" };
  return { version: "0.1.0", schema: 1, served_s: NOW_S, ...about, monitor: "valid/loss", checkpoints, trash };
}

test("a checkpoint says its score, size, age, and why it is kept", () => {
  const row = checkpointRow(saved(1000, { kept: "the latest" }), null, NOW_S);
  assert.deepEqual(
    [row.title, row.main, row.size, row.when, row.kept, row.health, row.why],
    ["step 1,000", "valid/loss 0.25", "3.0 MiB", "2 min ago", "the latest", "complete", ""],
  );
  assert.deepEqual(row.metrics[1], ["valid/accuracy", "0.9"]);
  const bare = checkpointRow(saved(1, { metrics: { "valid/loss": "NaN" }, saved_s: null }), null, NOW_S);
  assert.deepEqual([bare.main, bare.when], ["valid/loss NaN", ""]);
  assert.equal(checkpointRow(saved(1, { metrics: {} }), null, NOW_S).main, "");
  const verified = checkpointRow(saved(1, { verified_s: NOW_S - 60 }), null, NOW_S);
  assert.equal(verified.why, "As it was saved; verified 1 min ago.");
  assert.equal(checkpointRow(saved(1, { verifying: true }), null, NOW_S).health, "verifying…");
});

test("what cannot be done is refused with its reason", () => {
  const refusals = (changes: Partial<CheckpointSummary>, older = saved(1)): string[] =>
    Object.entries(checkpointRow(saved(2, changes), older, NOW_S).offers)
      .filter(([, { refusal }]) => refusal !== "")
      .map(([doing]) => doing);
  assert.deepEqual(refusals({}), []);
  assert.deepEqual(refusals({ protected: "it is the latest" }), ["delete"]);
  assert.deepEqual(refusals({ state: "not finite", why: "w: NaN." }), ["resume"]);
  assert.deepEqual(refusals({ state: "damaged", why: "cut" }), ["restore", "resume", "diff", "export"]);
  assert.deepEqual(refusals({ state: "newer", why: "Update." }), ["verify", "restore", "resume", "diff", "export"]);
  const { offers } = checkpointRow(saved(2, { protected: "it is the latest" }), null, NOW_S);
  assert.equal(offers.delete.refusal, "It cannot be deleted: it is the latest.");
  assert.equal(offers.delete.label, "Delete (3.0 MiB)");
  assert.match(offers.delete.title, /frees 3.0 MiB in a week/);
  assert.equal(offers.diff.refusal, "There is no older checkpoint to compare it with.");
  assert.equal(checkpointRow(saved(2, { pinned: true }), null, NOW_S).offers.pin.label, "Unpin");
});

test("one is compared with the next older one that can be read", () => {
  const all = answer([saved(4), saved(3, { state: "damaged" }), saved(2), saved(1)]);
  assert.equal(olderThan(all.checkpoints[0], all)?.step, 2);
  assert.equal(olderThan(all.checkpoints[3], all), null);
});

test("the space is told of all, and of the trash", () => {
  assert.equal(totalText(answer([saved(1), saved(2)])), "2 checkpoints, 6.0 MiB");
  assert.equal(totalText(answer([])), "No checkpoints");
  assert.equal(trashText(answer([], [deleted(1)])), "In the trash: 1 checkpoint, 3.0 MiB");
  assert.equal(trashText(answer([])), "");
  assert.equal(deletedText(deleted(1000), NOW_S + 1), "step 1,000, 3.0 MiB, freed in 7 days");
  assert.deepEqual([-5, 3601, 40 * 3600, 3 * 86_400].map(untilText), [
    ...["within the hour", "in 1 hour", "in 2 days", "in 3 days"],
  ]);
});

test("the runs that began from a run's checkpoints are found", () => {
  const child = summary({ run: "child", parent: REF.run, parent_step: 2 });
  assert.deepEqual(childrenOf([summary(), child], REF.run), [child]);
});

/** A server that keeps checkpoints, and what it was asked. */
class Kept implements CheckpointsSource {
  asked: [CheckpointAction, string][] = [];
  now = answer([saved(3), saved(2), saved(1)]);
  failure: Error | null = null;
  release: (() => void) | null = null;

  checkpoints(): Promise<CheckpointsAnswer> {
    return Promise.resolve(this.now);
  }

  async changeCheckpoint(_: string, __: string, action: CheckpointAction, name = ""): Promise<CheckpointsAnswer> {
    this.asked.push([action, name]);
    if (this.release !== null)
      await new Promise<void>((done) => {
        this.release = done;
      });
    if (this.failure !== null) throw this.failure;
    const { checkpoints, trash } = this.now;
    if (action === "delete")
      this.now = answer(
        checkpoints.filter((one) => one.name !== name),
        [...trash, deleted(Number(name.slice(5)))],
      );
    if (action === "undo") this.now = answer([saved(3), saved(2), saved(1)]);
    if (action === "verify") this.now = answer(checkpoints.map((one) => ({ ...one, verifying: true })));
    return this.now;
  }
}

// The page's, which Node has not.
Object.assign(globalThis, { document: { hidden: false } });

async function model(): Promise<{ model: CheckpointsModel; server: Kept }> {
  const server = new Kept();
  const made = new CheckpointsModel(server, REF);
  await asked(made);
  return { model: made, server };
}

async function asked(of: CheckpointsModel): Promise<void> {
  await new Promise<void>((done) => {
    const heard = (): void => {
      of.changed.disconnect(heard);
      done();
    };
    of.changed.connect(heard);
    of.start();
  });
}

test("what was deleted is said with its space, and can be taken back", async () => {
  const { model: of, server } = await model();
  assert.equal(of.answer?.checkpoints.length, 3);
  await of.change("delete", "step-1");
  assert.equal(of.said.text, "Step 1 is in the trash: 3.0 MiB are freed in 7 days.");
  assert.equal(of.answer.checkpoints.length, 2);
  await of.change("undo", of.said.undo);
  assert.deepEqual([of.said.text, of.said.undo], ["Step 1 is back.", ""]);
  assert.deepEqual(server.asked, [
    ["delete", "step-1"],
    ["undo", `step-1-${NOW_S}`],
  ]);
  of.dispose();
});

test("a second click while the first is on its way asks for nothing", async () => {
  const { model: of, server } = await model();
  server.release = () => undefined;
  const first = of.change("delete", "step-1");
  assert.ok(of.isPending("delete", "step-1"));
  await of.change("delete", "step-1");
  server.release();
  await first;
  assert.equal(server.asked.length, 1);
  assert.ok(!of.isPending("delete", "step-1"));
  of.dispose();
});

test("what the server refuses is said in its words", async () => {
  const { model: of, server } = await model();
  server.failure = new Error("The checkpoint of step 1 cannot be deleted: it is the latest.");
  await of.change("delete", "step-1");
  assert.deepEqual([of.said.text, of.said.isRefusal], [server.failure.message, true]);
  of.dispose();
});

test("what came of verifying is said when all of it is done", async () => {
  const { model: of, server } = await model();
  await of.change("verify");
  assert.equal(of.said.text, "");
  server.now = answer([
    saved(3, { verified_s: NOW_S }),
    saved(2, { verified_s: NOW_S }),
    saved(1, { verified_s: NOW_S }),
  ]);
  await asked(of);
  assert.deepEqual([of.said.text, of.said.isRefusal], ["3 checkpoints verified: as saved.", false]);
  await of.change("verify", "step-2");
  const damaged = saved(2, { verified_s: NOW_S, state: "damaged", why: "cut" });
  server.now = answer([saved(3), damaged, saved(1)]);
  await asked(of);
  assert.deepEqual([of.said.text, of.said.isRefusal], ["Damaged: step 2.", true]);
  of.dispose();
});
