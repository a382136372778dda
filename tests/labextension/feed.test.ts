import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";

import { version as VERSION } from "../../package.json";
import { SCHEMA } from "../../labextension/core/events";
import type { Action } from "../../labextension/core/runStore";
import { RunFeed, RunFeeds } from "../../labextension/lab/feed";
import { ServerError, type Answer, type EventsAnswer } from "../../labextension/lab/server";
import { losses, plan } from "./runs";

const REF = { store: "0123456789abcdef", run: "run-1" };
const status = (state: string): object => ({ kind: "status", step: 1, time_s: 100, state, reason: "" });

/** A server whose journal the test writes; it answers at once, or as the test says. */
class Journal {
  events: unknown[] = [plan({ versions: { "dlfb-lab": VERSION } }), status("running"), losses(0, [3, 2, 1])];
  life: EventsAnswer["life"] = "alive";
  changes: Partial<EventsAnswer> = {};
  asked: string[] = [];
  actions: Action[] = [];
  failure: Error | null = null;
  hold: Promise<void> = Promise.resolve();

  async events_(after: string): Promise<EventsAnswer> {
    this.asked.push(after);
    await this.hold;
    if (this.failure !== null) throw this.failure;
    const first = after === "" ? 0 : Number(after);
    return {
      ...{ version: VERSION, schema: SCHEMA, run: REF.run, life: this.life, reset: after === "", note: "" },
      ...{ events: this.events.slice(first), next: String(this.events.length), served_s: 100 },
      ...this.changes,
    };
  }

  source = {
    events: (_store: string, _run: string, after = "") => this.events_(after),
    control: (_store: string, _run: string, action: Action): Promise<Answer & { action: Action }> => {
      this.actions.push(action);
      if (this.failure !== null) return Promise.reject(this.failure);
      return Promise.resolve({ version: VERSION, schema: SCHEMA, action });
    },
  };
}

function watched(t: TestContext): { journal: Journal; feed: RunFeed; unwatch: () => void } {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const journal = new Journal();
  const feed = new RunFeed(journal.source, REF);
  t.after(() => {
    feed.dispose();
  });
  return { journal, feed, unwatch: feed.watch() };
}

/** Lets this many milliseconds pass, and what they started come to its end. */
async function pass(t: TestContext, ms: number): Promise<void> {
  await settle();
  for (let left = ms; left > 0; left -= 50) {
    t.mock.timers.tick(Math.min(50, left));
    await settle();
  }
}

async function settle(): Promise<void> {
  for (let i = 0; i < 20; i++) await Promise.resolve();
}

test("a run is read whole once, and then what follows", async (t) => {
  const { journal, feed } = watched(t);
  await pass(t, 50);
  assert.ok(feed.known);
  assert.equal(feed.store.state.losses.length, 3);
  journal.events.push(losses(3, [0.5]));
  await pass(t, 200);
  assert.equal(feed.store.state.losses.length, 4);
  assert.deepEqual(journal.asked.slice(0, 2), ["", "3"]);
});

for (const [how, write, rate] of [
  ["five times a second while it runs", () => undefined, 50],
  ["each second while it is paused", (journal: Journal) => journal.events.push(status("paused")), 10],
  ["each five seconds after its end", (journal: Journal) => journal.events.push(status("finished")), 2],
  ["each five seconds once its kernel is gone", (journal: Journal) => (journal.life = "gone"), 2],
] as const) {
  test(`a run is asked after ${how}`, async (t) => {
    const { journal } = watched(t);
    write(journal);
    await pass(t, 50);
    journal.asked = [];
    await pass(t, 10_000);
    assert.equal(journal.asked.length, rate);
  });
}

test("nothing is asked while nobody looks, and at once when somebody does again", async (t) => {
  const { journal, feed, unwatch } = watched(t);
  const leave = feed.watch();
  await pass(t, 50);
  unwatch();
  unwatch();
  await pass(t, 1000);
  assert.ok(journal.asked.length > 3);
  leave();
  journal.asked = [];
  await pass(t, 10_000);
  feed.refresh();
  await pass(t, 100);
  assert.deepEqual(journal.asked, []);
  feed.watch();
  await pass(t, 50);
  assert.deepEqual(journal.asked, ["3"]);
});

test("an answer that comes twice is taken once", async (t) => {
  const { journal, feed, unwatch } = watched(t);
  await pass(t, 50);
  let release = (): void => undefined;
  journal.hold = new Promise((resolve) => (release = resolve));
  journal.events.push({ kind: "notice", step: 1, time_s: 1, level: "info", text: "once" });
  await pass(t, 200);
  unwatch();
  feed.watch();
  await pass(t, 50);
  release();
  await pass(t, 50);
  assert.deepEqual(journal.asked, ["", "3", "3"]);
  assert.equal(feed.store.state.notices.length, 1);
});

test("a server that cannot be reached is asked ever less often, and the note goes when it answers", async (t) => {
  const { journal, feed } = watched(t);
  await pass(t, 50);
  journal.failure = new ServerError(0, "unreachable", "The Jupyter server cannot be reached");
  journal.asked = [];
  await pass(t, 60_000);
  assert.deepEqual(feed.store.notes, ["The Jupyter server cannot be reached; trying again."]);
  assert.ok(journal.asked.length >= 6 && journal.asked.length < 60, String(journal.asked.length));
  journal.failure = null;
  journal.events.push(losses(3, [0.5]));
  await pass(t, 10_000);
  assert.deepEqual(feed.store.notes, []);
  assert.equal(feed.store.state.losses.length, 4);
});

test("a journal that is deleted leaves what was drawn, and says so", async (t) => {
  const { journal, feed } = watched(t);
  await pass(t, 50);
  journal.failure = new ServerError(404, "no_journal", "there is no journal");
  await pass(t, 300);
  assert.match(feed.store.notes[0], /deleted while it was shown/);
  assert.equal(feed.store.state.losses.length, 3);
});

test("a run that was never there is a failure, and nothing was deleted", async (t) => {
  const { journal, feed } = watched(t);
  journal.failure = new ServerError(404, "no_run", "there is no such run");
  await pass(t, 300);
  assert.ok(!feed.known);
  assert.equal(feed.failure?.code, "no_run");
  assert.deepEqual(feed.store.notes, ["there is no such run"]);
});

test("what is no answer at all is a failure like others", async (t) => {
  const { journal, feed } = watched(t);
  journal.changes = { events: undefined };
  await pass(t, 50);
  assert.equal(feed.failure?.code, "unreadable");
  assert.match(feed.store.notes[0], /could not be read/);
});

test("an answer that takes long is spoken of until it comes", async (t) => {
  const { journal, feed } = watched(t);
  let release = (): void => undefined;
  journal.hold = new Promise((resolve) => (release = resolve));
  await pass(t, 1100);
  assert.match(feed.store.notes[0], /is being read/);
  release();
  await pass(t, 200);
  assert.deepEqual(feed.store.notes, []);
  journal.hold = new Promise((resolve) => (release = resolve));
  await pass(t, 9500);
  assert.deepEqual(feed.store.notes, []);
  await pass(t, 1000);
  assert.match(feed.store.notes[0], /takes long/);
  release();
  await pass(t, 50);
  assert.deepEqual(feed.store.notes, []);
});

test("an action is pending until the journal says it, and meanwhile the journal is read often", async (t) => {
  const { journal, feed } = watched(t);
  journal.events.push(status("paused"));
  await pass(t, 50);
  feed.store.request("resume");
  await pass(t, 50);
  assert.deepEqual(journal.actions, ["resume"]);
  assert.equal(feed.store.pending, "resume");
  journal.asked = [];
  await pass(t, 1000);
  assert.equal(journal.asked.length, 5);
  journal.events.push(status("running"));
  await pass(t, 200);
  assert.equal(feed.store.pending, null);
});

test("an action that does not get through says why", async (t) => {
  const { journal, feed } = watched(t);
  await pass(t, 50);
  journal.failure = new ServerError(409, "over", "the run has ended");
  feed.store.request("stop");
  await pass(t, 50);
  assert.equal(feed.store.pending, null);
  assert.equal(feed.store.refusal, "Stop did not get through: the run has ended");
});

test("elapsed time starts at the age of the run's last word", async (t) => {
  const { journal, feed } = watched(t);
  journal.changes = { served_s: 700 };
  await pass(t, 50);
  const { time_s } = journal.events.at(-1) as { time_s: number };
  const age_s = feed.store.silence_s(performance.now());
  assert.ok(Math.abs(age_s - (700 - time_s)) < 5, String(age_s));
});

test("notes of the server and of versions are shown with the run", async (t) => {
  const { journal, feed } = watched(t);
  journal.changes = { note: "only the newest 100 MB are drawn" };
  await pass(t, 50);
  assert.deepEqual(feed.store.notes, ["only the newest 100 MB are drawn"]);
  journal.changes = { version: "99.0" };
  await pass(t, 200);
  assert.equal(feed.store.notes.length, 1);
  assert.match(feed.store.notes[0], /99\.0.*[Rr]eload/);
});

test("a kernel with another version is spoken of while its run goes on", async (t) => {
  const { journal, feed } = watched(t);
  journal.events[0] = plan({ versions: { "dlfb-lab": "0.0.1" } });
  await pass(t, 50);
  assert.match(feed.store.notes[0], /0\.0\.1.*Restart the kernel/);
  journal.events.push(status("finished"));
  await pass(t, 200);
  assert.deepEqual(feed.store.notes, []);
});

test("views of one run share its feed until the last leaves", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const feeds = new RunFeeds(new Journal().source);
  const first = feeds.take(REF);
  const second = feeds.take({ ...REF });
  const other = feeds.take({ ...REF, run: "run-2" });
  assert.equal(first.feed, second.feed);
  assert.notEqual(first.feed, other.feed);
  first.release();
  first.release();
  assert.equal(feeds.take(REF).feed, second.feed);
  second.release();
  assert.equal(feeds.take(REF).feed, second.feed);
});

test("a feed that nobody holds any more asks no longer", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const journal = new Journal();
  const { feed, release } = new RunFeeds(journal.source).take(REF);
  feed.watch();
  await pass(t, 50);
  release();
  journal.asked = [];
  await pass(t, 5000);
  assert.deepEqual(journal.asked, []);
});

test("a page that comes back asks at once for the runs that are watched, and for no others", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const journal = new Journal();
  journal.events.push(status("finished"));
  const feeds = new RunFeeds(journal.source);
  const { feed, release } = feeds.take(REF);
  const other = feeds.take({ ...REF, run: "run-2" });
  const unwatch = feed.watch();
  await pass(t, 50);
  journal.asked = [];
  feeds.wake();
  await pass(t, 50);
  assert.equal(journal.asked.length, 1);
  unwatch();
  feeds.wake();
  await pass(t, 50);
  assert.equal(journal.asked.length, 1);
  release();
  other.release();
});
