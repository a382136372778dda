// What the server says of all runs, asked for again and again: the one source of the panel, the status bar, the commands.

import { Poll } from "@lumino/polling";
import { Signal, type ISignal } from "@lumino/signaling";

import type { Action } from "../core/runStore";
import { actionsOf, isLive, keyOf, stateOf } from "./runRow";
import type { RunsAnswer, RunSummary, Server } from "./server";
import { ServerError } from "./server";

const WATCHED_MS = 1000;
const LIVE_MS = 5000;
const IDLE_MS = 15_000;
export const MOST_MS = 30_000;
const REFUSAL_MS = 10_000;

/** A request to a run that is not yet seen in its state, or why it was refused. */
export interface Asked {
  action: Action | null;
  from: string;
  refusal: string;
}

/** What the model needs of the server. */
export type RunsSource = Pick<Server, "runs" | "control" | "forgetStore">;

export class RunsModel {
  answer: RunsAnswer | null = null;
  /** why the last question had no answer */
  problem: ServerError | null = null;
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

  /** Newest first. */
  get live(): readonly RunSummary[] {
    const now_s = Date.now() / 1000;
    return this.runs.filter((run) => isLive(run, now_s));
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
    if (!actionsOf(run).includes(action)) return;
    const key = keyOf(run);
    this.asked.set(key, { action, from: stateOf(run), refusal: "" });
    this.signal.emit();
    try {
      await this.server.control(run.store, run.run, action);
    } catch (error) {
      const refused = { action: null, from: "", refusal: `Could not ${action} the run: ${said(error)}` };
      this.asked.set(key, refused);
      setTimeout(() => {
        if (this.asked.get(key) === refused) this.asked.delete(key);
        this.signal.emit();
      }, REFUSAL_MS);
      this.signal.emit();
    }
    this.start();
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
    const states = new Map(this.runs.map((run) => [keyOf(run), stateOf(run)]));
    for (const [key, { action, from }] of this.asked) {
      if (action !== null && states.get(key) !== from) this.asked.delete(key);
    }
  }

  private pace(): void {
    const interval = this.isWatched ? WATCHED_MS : this.live.length > 0 ? LIVE_MS : IDLE_MS;
    this.poll.frequency = { interval, backoff: true, max: MOST_MS };
  }
}

function said(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
