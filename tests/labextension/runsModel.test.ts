import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";

import { RunsModel, type RunsSource } from "../../labextension/lab/runsModel";
import { ServerError, type RunSummary } from "../../labextension/lab/server";
import { NOW_S, running } from "./summaries";

const ANSWER = { version: "0.1.0", schema: 1, stores: [], reading: 0, hidden: 0 };

/** A server whose runs a test can change, and what was asked of it. */
class FakeServer implements RunsSource {
  runsNow: RunSummary[] = [];
  failure: ServerError | null = null;
  refusal: ServerError | null = null;
  asked: string[] = [];
  served_s = NaN;

  async runs(): ReturnType<RunsSource["runs"]> {
    this.asked.push("runs");
    if (this.failure !== null) throw this.failure;
    return Promise.resolve({ ...ANSWER, runs: this.runsNow, served_s: this.served_s });
  }

  async control(store: string, run: string, action: "pause" | "resume" | "stop"): ReturnType<RunsSource["control"]> {
    this.asked.push(`${action} ${store}/${run}`);
    if (this.refusal !== null) throw this.refusal;
    return Promise.resolve({ ...ANSWER, action });
  }

  async forgetStore(store: string): ReturnType<RunsSource["forgetStore"]> {
    this.asked.push(`forget ${store}`);
    if (this.refusal !== null) throw this.refusal;
    return Promise.resolve(ANSWER);
  }
}

function made(t: TestContext): { server: FakeServer; model: RunsModel; tick: (ms: number) => Promise<void> } {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_700_000_000_000 });
  const server = new FakeServer();
  const model = new RunsModel(server);
  t.after(() => {
    model.dispose();
  });
  /** Lets time pass in steps, and whatever waits for an answer get it. */
  const tick = async (ms: number): Promise<void> => {
    for (let passed = 0; passed <= ms; passed += 250) {
      for (let i = 0; i < 10; i++) await Promise.resolve();
      t.mock.timers.tick(Math.min(250, ms - passed));
    }
    for (let i = 0; i < 10; i++) await Promise.resolve();
  };
  return { server, model, tick };
}

test("runs are asked for each second while watched, less often while one goes on, seldom else", async (t) => {
  const { server, model, tick } = made(t);
  model.start();
  await tick(60_000);
  assert.ok(server.asked.length >= 4 && server.asked.length <= 6, `${server.asked.length} idle`);
  server.runsNow = [running()];
  await tick(15_000);
  server.asked = [];
  await tick(60_000);
  assert.ok(server.asked.length >= 11 && server.asked.length <= 13, `${server.asked.length} live`);
  model.watch(true);
  server.asked = [];
  await tick(20_000);
  assert.ok(server.asked.length >= 15 && server.asked.length <= 21, `${server.asked.length} watched`);
  model.watch(false);
  await tick(2000);
  server.asked = [];
  await tick(60_000);
  assert.ok(server.asked.length <= 13, `${server.asked.length} after watching`);
});

test("a request is pending until the run's state shows it", async (t) => {
  const { server, model, tick } = made(t);
  server.runsNow = [running()];
  model.watch(true);
  await tick(0);
  const [run] = model.runs;
  const asked = model.control(run, "pause");
  assert.deepEqual(model.askedOf(run)?.action, "pause");
  await asked;
  await tick(3000);
  assert.ok(server.asked.includes(`pause ${run.store}/${run.run}`));
  assert.deepEqual(model.askedOf(run)?.action, "pause");
  server.runsNow = [running({ state: "paused" })];
  await tick(1000);
  assert.equal(model.askedOf(run), null);
});

test("a stop replaces the pause before it, and nothing replaces a stop", async (t) => {
  const { server, model, tick } = made(t);
  server.runsNow = [running()];
  model.watch(true);
  await tick(0);
  const [run] = model.runs;
  await model.control(run, "pause");
  await model.control(run, "stop");
  assert.equal(model.askedOf(run)?.action, "stop");
  await model.control(run, "pause");
  server.runsNow = [running({ state: "paused" })];
  await tick(2000);
  assert.equal(model.askedOf(run)?.action, "stop");
  assert.deepEqual(
    server.asked.filter((text) => text !== "runs").map((text) => text.split(" ")[0]),
    ["pause", "stop"],
  );
  server.runsNow = [running({ state: "stopped" })];
  await tick(2000);
  assert.equal(model.askedOf(run), null);
});

test("a pause asked for while the run compiles is not done when it runs", async (t) => {
  const { server, model, tick } = made(t);
  server.runsNow = [running({ state: "compiling" })];
  model.watch(true);
  await tick(0);
  const [run] = model.runs;
  await model.control(run, "pause");
  server.runsNow = [running()];
  await tick(2000);
  assert.equal(model.askedOf(run)?.action, "pause");
  server.runsNow = [running({ state: "paused" })];
  await tick(2000);
  assert.equal(model.askedOf(run), null);
});

test("a request without effect is given up with a word", async (t) => {
  const { server, model, tick } = made(t);
  server.runsNow = [running()];
  model.watch(true);
  await tick(0);
  const [run] = model.runs;
  await model.control(run, "stop");
  await tick(29_000);
  assert.equal(model.askedOf(run)?.action, "stop");
  await tick(2000);
  assert.equal(model.askedOf(run)?.action, null);
  assert.match(model.askedOf(run)?.refusal ?? "", /has not followed “stop” for 30 s/);
  await tick(11_000);
  assert.equal(model.askedOf(run), null);
});

test("the clock of the server counts, where it differs from the page's", async (t) => {
  const { server, model, tick } = made(t);
  server.runsNow = [running({ life: "elsewhere", updated_s: NOW_S + 7200 })];
  server.served_s = NOW_S + 7200;
  model.watch(true);
  await tick(0);
  assert.equal(model.now_s, NOW_S + 7200);
  assert.equal(model.live.length, 1);
  server.served_s = NOW_S + 7800;
  await tick(1000);
  assert.equal(model.live.length, 0);
  for (const same of [NaN, NOW_S + 2]) {
    server.served_s = same;
    await tick(1000);
    assert.equal(model.now_s, Date.now() / 1000);
  }
});

test("a refusal is said for a while, and what makes no sense is not asked", async (t) => {
  const { server, model, tick } = made(t);
  server.runsNow = [running()];
  model.watch(true);
  await tick(0);
  const [run] = model.runs;
  await model.control(run, "resume");
  assert.ok(!server.asked.some((text) => text.startsWith("resume")));
  server.refusal = new ServerError(409, "over", "the run has ended");
  await model.control(run, "stop");
  assert.deepEqual(model.askedOf(run), {
    action: null,
    refusal: "Could not stop the run: the run has ended",
  });
  await tick(11_000);
  assert.equal(model.askedOf(run), null);
  assert.equal(await model.forget("0123"), "the run has ended");
});

test("a server without dlfb_lab is asked once, and again only when somebody wants it", async (t) => {
  const { server, model, tick } = made(t);
  server.runsNow = [running()];
  model.watch(true);
  await tick(0);
  assert.equal(model.live.length, 1);
  server.failure = new ServerError(404, "absent", "not running here");
  await tick(2000);
  server.asked = [];
  await tick(60_000);
  assert.deepEqual([server.asked, model.isAbsent, model.runs.length], [[], true, 0]);
  server.failure = null;
  model.start();
  await tick(0);
  assert.deepEqual([model.isAbsent, model.runs.length], [false, 1]);
});

test("a server that cannot be reached is asked less and less, and its last answer stays", async (t) => {
  const { server, model, tick } = made(t);
  server.runsNow = [running()];
  model.watch(true);
  await tick(0);
  server.failure = new ServerError(0, "unreachable", "cannot be reached");
  await tick(120_000);
  server.asked = [];
  await tick(60_000);
  assert.ok(server.asked.length <= 12, `${server.asked.length} in a minute`);
  assert.deepEqual([model.problem?.message, model.runs.length], ["cannot be reached", 1]);
});
