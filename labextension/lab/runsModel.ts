// What the server says of all runs, asked for again and again: the one source of the panel, the status bar, the commands.

import { Poll } from "@lumino/polling";
import { Signal, type ISignal } from "@lumino/signaling";

import type { Action } from "../core/runStore";
import { actionsOf, isLive, keyOf } from "./runRow";
import type { RunsAnswer, RunSummary, Server } from "./server";
import { ServerError } from "./server";

const WATCHED_MS = 1000;
const LIVE_MS = 5000;
const IDLE_MS = 15_000;
export const MOST_MS = 30_000;
const REFUSAL_MS = 10_000;
/** Clocks that differ by less are taken for one. */
const SAME_S = 3;
/** How long a request may be without effect before it is no longer waited for. */
const PATIENCE_MS = 30_000;

/** A request to a run that is not yet seen in its state, or why it was refused. */
export interface Asked {
  action: Action | null;
  refusal: string;
}

/** What the model needs of the server. */
export type RunsSource = Pick<Server, "runs" | "control" | "forgetStore">;

export class RunsModel {
  answer: RunsAnswer | null = null;
  /** why the last question had no answer */
  problem: ServerError | null = null;
  /** how far the server's clock is ahead of the page's */
  private ahead_s = 0;
  private asked = new Map<string, Asked>();
  private isWatched = false;
  private signal = new Signal<this, void>(this);
  private poll: Poll<void, unknown>;

  constructor(private server: RunsSource) {
    this.poll = new Poll({
      name: "dlfb-lab:runs",
      factory: () => this.ask(),
      frequency: { interval: IDLE_MS, backoff: true, max: MOST_MS },
      standby: "when-hidden",
      auto: false,
    });
  }

  get changed(): ISignal<this, void> {
    return this.signal;
  }

  get runs(): readonly RunSummary[] {
    return this.answer?.runs ?? [];
  }

  /** The server's clock: the times of runs are its, or those of kernels beside it. */
  get now_s(): number {
    return Date.now() / 1000 + this.ahead_s;
  }

  /** Newest first. */
  get live(): readonly RunSummary[] {
    return this.runs.filter((run) => isLive(run, this.now_s));
  }

  /** Whether the server has no dlfb_lab. */
  get isAbsent(): boolean {
    return this.problem?.code === "absent";
  }

  find(store: string, run: string): RunSummary | null {
    return this.runs.find((summary) => summary.store === store && summary.run === run) ?? null;
  }

  start(): void {
    void this.poll.refresh();
  }

  /** Asks each second while somebody looks. */
  watch(isWatched: boolean): void {
    if (this.isWatched === isWatched) return;
    this.isWatched = isWatched;
    this.pace();
    if (isWatched) this.start();
  }

  askedOf(run: RunSummary): Asked | null {
    return this.asked.get(keyOf(run)) ?? null;
  }

  async control(run: RunSummary, action: Action): Promise<void> {
    const key = keyOf(run);
    if (!actionsOf(run).includes(action) || this.asked.get(key)?.action === "stop") return;
    const asked = { action, refusal: "" };
    this.asked.set(key, asked);
    this.signal.emit();
    setTimeout(() => {
      this.giveUp(key, asked, `The run has not followed “${action}” for ${PATIENCE_MS / 1000} s; it may do so yet.`);
    }, PATIENCE_MS);
    try {
      await this.server.control(run.store, run.run, action);
    } catch (error) {
      this.giveUp(key, asked, `Could not ${action} the run: ${said(error)}`);
    }
    this.start();
  }

  /** Says for a while why a request came to nothing, unless it was followed or replaced by another. */
  private giveUp(key: string, asked: Asked, refusal: string): void {
    if (this.asked.get(key) !== asked) return;
    const refused = { action: null, refusal };
    this.asked.set(key, refused);
    setTimeout(() => {
      if (this.asked.get(key) === refused) this.asked.delete(key);
      this.signal.emit();
    }, REFUSAL_MS);
    this.signal.emit();
  }

  /** Takes a store that is gone out of the list; returns why that was refused, or "". */
  async forget(store: string): Promise<string> {
    try {
      await this.server.forgetStore(store);
    } catch (error) {
      return said(error);
    }
    this.start();
    return "";
  }

  dispose(): void {
    this.poll.dispose();
    Signal.clearData(this);
  }

  private async ask(): Promise<void> {
    try {
      this.answer = await this.server.runs();
      this.problem = null;
      const ahead_s = this.answer.served_s - Date.now() / 1000;
      // Whole seconds, some time under way: a smaller difference is none.
      this.ahead_s = Math.abs(ahead_s) > SAME_S ? ahead_s : 0;
      this.settle();
    } catch (error) {
      this.problem = error instanceof ServerError ? error : new ServerError(0, "unreadable", said(error));
      if (this.isAbsent) this.answer = null;
      throw error;
    } finally {
      this.pace();
      this.signal.emit();
      // Nobody is there to answer: asking on would only fill the log. Opening the panel asks anew.
      if (this.isAbsent) void this.poll.stop();
    }
  }

  /** Lets go of the requests that the runs have followed. */
  private settle(): void {
    const runs = new Map(this.runs.map((run) => [keyOf(run), run]));
    for (const [key, { action }] of this.asked) {
      if (action !== null && hasFollowed(runs.get(key), action)) this.asked.delete(key);
    }
  }

  private pace(): void {
    const interval = this.isWatched ? WATCHED_MS : this.live.length > 0 ? LIVE_MS : IDLE_MS;
    this.poll.frequency = { interval, backoff: true, max: MOST_MS };
  }
}

/** What is asked of a run can be asked of it until it has followed, or is over. */
function hasFollowed(run: RunSummary | undefined, action: Action): boolean {
  return run === undefined || (!run.reading && !actionsOf(run).includes(action));
}

function said(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
