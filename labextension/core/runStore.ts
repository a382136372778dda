// One run as this page knows it: the events in order, the state they add up to, and the way back to the engine.

import { asEvent, emptyState, hasEnded, reduce, type RunState } from "./runState";
import { newerThanThis, standing, type Life, type Standing } from "./standing";

export type { Life } from "./standing";

export type Action = "pause" | "resume" | "stop";
const ACTIONS: readonly Action[] = ["pause", "resume", "stop"];
/** How long a refusal is shown. */
const REFUSAL_MS = 8000;
/** How long an action may be without effect before it is no longer waited for. */
const PATIENCE_MS = 30_000;

/** How a store reaches the engine. */
export interface Channel {
  control(action: Action): void;
  requestSnapshot(): void;
}

export class RunStore {
  state: RunState = emptyState();
  /** grows with every change, so that a view can tell whether it is up to date */
  version = 0;
  title = "";
  controls: readonly Action[] = [];
  /** asked for and not yet seen in the run's state */
  pending: Action | null = null;
  /** why the last action was not taken; empty again after a while */
  refusal = "";
  /** this page's clock, in ms, when the engine's side was last heard; NaN while all there is was saved earlier */
  heardAt_ms = NaN;
  /** what the transport knows of the process that trains */
  life: Life = "unknown";
  /** what of the run could not be read, said once in words; empty while all could */
  private leftOut = "";
  private hasWarned = false;
  private said = new Map<string, string>();
  private refusals = 0;
  private requests = 0;
  private count = 0;
  private awaitingSnapshot = false;
  private listeners = new Set<() => void>();

  constructor(private channel: Channel) {}

  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /**
   * Takes the events whose first is the `first`-th of the run. After a gap they are drawn all the same, and a snapshot
   * is asked for: a kernel inside a busy cell answers only at its end, and until then a chart with a hole is better
   * than one that stands still.
   */
  append(first: number, events: readonly unknown[], now_ms: number): void {
    if (first > this.count && !this.awaitingSnapshot) {
      this.awaitingSnapshot = true;
      this.channel.requestSnapshot();
    }
    const known = Math.max(0, this.count - first);
    if (known >= events.length && events.length > 0) return;
    for (const event of events.slice(known)) this.take(event);
    this.count = Math.max(this.count, first + events.length);
    this.heardAt_ms = now_ms;
    this.changed();
  }

  /** Takes the events that follow what is known, from a transport that hands over each exactly once. */
  extend(events: readonly unknown[], now_ms: number): void {
    if (events.length === 0) return;
    this.append(this.count, events, now_ms);
  }

  /** Starts anew from these events; `count` is the number in the run's sequence that a shortened copy stands for. */
  replace(events: readonly unknown[], count: number, now_ms: number): void {
    const { pending } = this;
    this.state = emptyState();
    this.count = count;
    this.awaitingSnapshot = false;
    this.heardAt_ms = now_ms;
    this.leftOut = "";
    for (const event of events) this.take(event);
    // The states on the way were passed before the action was asked for.
    this.pending = pending !== null && isDone(pending, this.state) ? null : pending;
    this.changed();
  }

  /** Starts anew from a saved copy, unless the store already knows more of the run. */
  restore(events: readonly unknown[]): void {
    if (events.length === 0 || lastStep(events) < this.state.step) return;
    // A kernel's copy can be older than the events that overtook it; its sequence number must not go back.
    this.replace(events, Math.max(this.count, events.length), this.heardAt_ms);
  }

  offer(title: string, controls: readonly string[]): void {
    this.title = title;
    this.controls = ACTIONS.filter((action) => controls.includes(action));
    this.changed();
  }

  setLife(life: Life): void {
    if (this.life === life) return;
    this.life = life;
    if (!this.isLive) this.pending = null;
    this.changed();
  }

  /** Shows a short note for people above the charts, in place of the last one with this key; null takes it away. */
  say(key: string, text: string | null): void {
    if ((this.said.get(key) ?? null) === text) return;
    if (text === null) this.said.delete(key);
    else this.said.set(key, text);
    this.changed();
  }

  /** Tells that the action asked for did not get through. */
  refused(text: string): void {
    const mine = ++this.refusals;
    this.pending = null;
    this.refusal = text;
    setTimeout(() => {
      if (this.refusals !== mine) return;
      this.refusal = "";
      this.changed();
    }, REFUSAL_MS);
    this.changed();
  }

  get notes(): string[] {
    return [...this.said.values(), newerThanThis(this.state), this.leftOut].filter((text) => text !== "");
  }

  standing(now_ms: number): Standing {
    return standing(this.state, this.life, this.silence_s(now_ms));
  }

  /** How long nothing has been heard of the run. */
  silence_s(now_ms: number): number {
    return (now_ms - this.heardAt_ms) / 1000;
  }

  /** Whether somebody is there to hear an action: a saved notebook, opened without its kernel, never says a word. */
  get isLive(): boolean {
    return !Number.isNaN(this.heardAt_ms) && this.life !== "gone" && !hasEnded(this.state);
  }

  request(action: Action): void {
    if (!this.controls.includes(action) || !this.isLive) return;
    this.pending = action;
    this.refusal = "";
    this.channel.control(action);
    const mine = ++this.requests;
    setTimeout(() => {
      if (this.pending === action && this.requests === mine)
        this.refused(`The run has not followed “${action}” for ${PATIENCE_MS / 1000} s; it may do so yet.`);
    }, PATIENCE_MS);
    this.changed();
  }

  private take(value: unknown): void {
    const event = asEvent(value);
    if (event === null) return;
    try {
      reduce(this.state, event);
    } catch (error) {
      this.leftOut = `Some ${event.kind === "losses" ? "losses" : "events"} could not be read and are left out.`;
      if (!this.hasWarned) console.warn("dlfb-lab: an event could not be read and was left out", error);
      this.hasWarned = true;
    }
    if (this.pending !== null && event.kind === "status" && isDone(this.pending, this.state)) this.pending = null;
  }

  private changed(): void {
    this.version++;
    for (const listener of this.listeners) listener();
  }
}

function isDone(action: Action, state: RunState): boolean {
  if (hasEnded(state)) return true;
  if (action === "stop") return false;
  return (state.state === "paused") === (action === "pause");
}

function lastStep(events: readonly unknown[]): number {
  const state = emptyState();
  for (const value of events) {
    const event = asEvent(value);
    if (event !== null) state.step = Math.max(state.step, event.step);
  }
  return state.step;
}
