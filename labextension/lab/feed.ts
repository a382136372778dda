// A run's journal, over HTTP, into a store: one feed for a run, however many views of it the page has.

import { Poll } from "@lumino/polling";

import { mountDashboard } from "../core/dashboard";
import { hasEnded } from "../core/runState";
import { RunStore, type Action } from "../core/runStore";
import { ServerError, UNREACHABLE, type EventsAnswer, type Server } from "./server";
import { kernelDisagreement } from "./versions";

/** Which run; both names are parts of its address on the server. */
export interface RunRef {
  store: string;
  run: string;
}

/** What a feed needs of the server. */
export type RunSource = Pick<Server, "events" | "control">;

const EVERY_MS = { first: 2000, running: 200, paused: 1000, over: 5000, most: 10_000 };
/** An answer that takes longer than this is spoken of; the first one sooner, as there is nothing to see yet. */
const SLOW_MS = 10_000;
const SLOW_AT_FIRST_MS = 1000;
/** Below this the time that an answer takes to get here is most of its age. */
const OLD_S = 2;

const LABELS: Record<Action, string> = { pause: "Pause", resume: "Resume", stop: "Stop" };
const ACTIONS = Object.keys(LABELS);
const DELETED = "The journal of this run was deleted while it was shown; what had been drawn is still here.";
const READING = "The run's journal is being read.";
const SLOW = "The Jupyter server takes long to answer; still waiting.";
/** The server can be asked, and knows of no such journal. */
export const NOT_THERE = ["no_store", "no_run", "no_journal", "bad_name"];

export class RunFeed {
  readonly store: RunStore;
  /** whether the journal has been read */
  known = false;
  /** why the latest request gave no answer */
  failure: ServerError | null = null;
  private cursor = "";
  private watchers = 0;
  private poll: Poll<void, ServerError>;

  constructor(
    private source: RunSource,
    readonly ref: RunRef,
    name = "",
    /** shows another run */
    readonly openRun?: (ref: RunRef) => void,
  ) {
    this.store = new RunStore({
      control: (action) => void this.control(action),
      requestSnapshot: () => {
        this.cursor = "";
      },
    });
    this.store.offer(name, ACTIONS);
    this.poll = new Poll({
      name: `dlfb-lab:${ref.run}`,
      auto: false,
      factory: () => this.fetch(),
      standby: "when-hidden",
      linger: 0,
    });
    this.poll.frequency = { backoff: true, interval: EVERY_MS.first, max: EVERY_MS.most };
  }

  /** Reads on until the returned function is called by everybody who watches. */
  watch(): () => void {
    this.watchers++;
    if (this.watchers === 1) this.refresh();
    let watching = true;
    return () => {
      if (!watching) return;
      watching = false;
      this.watchers--;
      if (this.watchers === 0) void this.poll.stop();
    };
  }

  /** Asks at once, if anybody watches. */
  refresh(): void {
    if (this.watchers > 0) void this.poll.refresh();
  }

  dispose(): void {
    this.poll.dispose();
  }

  private async fetch(): Promise<void> {
    const { cursor, known } = this;
    const slow = setTimeout(
      () => {
        this.store.say("server", known ? SLOW : READING);
      },
      known ? SLOW_MS : SLOW_AT_FIRST_MS,
    );
    try {
      const answer = await this.source.events(this.ref.store, this.ref.run, cursor);
      // A second request can overtake one that hangs: whoever comes first has what follows the cursor.
      if (!this.poll.isDisposed && cursor === this.cursor) this.take(answer);
    } catch (error) {
      const failure = asServerError(error);
      if (!this.poll.isDisposed) this.fail(failure);
      throw failure;
    } finally {
      clearTimeout(slow);
    }
  }

  private take(answer: EventsAnswer): void {
    const { store } = this;
    const { known } = this;
    this.cursor = answer.next;
    this.known = true;
    this.failure = null;
    if (answer.reset) store.replace(answer.events, answer.events.length, heardAt(answer));
    else store.extend(answer.events, performance.now());
    // What the journal calls the run, and no longer what an output says.
    if (!known && store.state.plan !== null) store.offer(store.state.plan.name, ACTIONS);
    store.setLife(answer.life);
    store.say("server", null);
    store.say("journal", answer.note || null);
    const kernel = store.isLive ? store.state.plan?.versions["dlfb-lab"] : undefined;
    store.say("versions", kernelDisagreement(answer, kernel) || null);
    this.poll.frequency = { ...this.poll.frequency, interval: this.interval_ms() };
  }

  private fail(failure: ServerError): void {
    this.failure = failure;
    const { code, message } = failure;
    const deleted = this.known && NOT_THERE.includes(code);
    this.store.say("server", deleted ? DELETED : code === "unreachable" ? `${UNREACHABLE}; trying again.` : message);
  }

  private async control(action: Action): Promise<void> {
    try {
      await this.source.control(this.ref.store, this.ref.run, action);
    } catch (error) {
      this.store.refused(`${LABELS[action]} did not get through: ${asServerError(error).message}`);
    }
    this.refresh();
  }

  private interval_ms(): number {
    const { state, pending, life } = this.store;
    if (hasEnded(state) || life === "gone") return EVERY_MS.over;
    return state.state === "paused" && pending === null ? EVERY_MS.paused : EVERY_MS.running;
  }
}

/** The feeds of this page. */
export class RunFeeds {
  private feeds = new Map<string, { feed: RunFeed; views: number }>();

  constructor(
    private source: RunSource,
    private openRun?: (ref: RunRef) => void,
  ) {}

  /** Asks for news of all runs that are watched: the page was hidden, and their polls stood by. */
  wake(): void {
    for (const { feed } of this.feeds.values()) feed.refresh();
  }

  /** The run's feed, kept until everybody who took it has called `release`. */
  take(ref: RunRef, name = ""): { feed: RunFeed; release: () => void } {
    const key = `${ref.store}/${ref.run}`;
    const shared = this.feeds.get(key) ?? { feed: new RunFeed(this.source, ref, name, this.openRun), views: 0 };
    this.feeds.set(key, shared);
    shared.views++;
    let taken = true;
    const release = (): void => {
      if (!taken) return;
      taken = false;
      shared.views--;
      if (shared.views > 0) return;
      this.feeds.delete(key);
      shared.feed.dispose();
    };
    return { feed: shared.feed, release };
  }
}

/** Shows a run inside `host` and reads its journal while it is on the screen; returns the clean-up. */
export function mountRun(host: HTMLElement, feed: RunFeed, readOnly = false): () => void {
  let unwatch: (() => void) | null = null;
  const seen = (onScreen: boolean): void => {
    if (onScreen) unwatch ??= feed.watch();
    else {
      unwatch?.();
      unwatch = null;
    }
  };
  const { openRun, ref } = feed;
  const show = (run: string): void => {
    openRun?.({ store: ref.store, run });
  };
  const viewing = openRun === undefined || readOnly ? {} : { openRun: show };
  const unmount = mountDashboard(host, feed.store, { readOnly, seen, ...viewing });
  return () => {
    seen(false);
    unmount();
  };
}

/** This page's clock when the last event of the answer was new. */
function heardAt({ events, served_s }: EventsAnswer): number {
  const last = events.at(-1) as { time_s?: unknown } | undefined;
  const age_s = served_s - Number(last?.time_s);
  return performance.now() - (age_s > OLD_S ? age_s * 1000 : 0);
}

function asServerError(error: unknown): ServerError {
  if (error instanceof ServerError) return error;
  return new ServerError(0, "unreadable", `The answer of the Jupyter server could not be read: ${String(error)}`);
}
