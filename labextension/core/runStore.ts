// One run as this page knows it: the events in order, the state they add up to, and the way back to the engine.

import { asEvent, emptyState, hasEnded, reduce, type RunState } from "./runState";

export type Action = "pause" | "resume" | "stop";
const ACTIONS: readonly Action[] = ["pause", "resume", "stop"];

/** Whether the process that trains still lives; "elsewhere" when it runs, or ran, on another machine. */
export type Life = "alive" | "gone" | "elsewhere" | "unknown";

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
  /** this page's clock, in ms, when the engine's side was last heard; NaN while all there is was saved earlier */
  heardAt_ms = NaN;
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

  /** Starts anew from these events; `count` is the number in the run's sequence that a shortened copy stands for. */
  replace(events: readonly unknown[], count: number, now_ms: number): void {
    this.state = emptyState();
    this.count = count;
    this.awaitingSnapshot = false;
    this.heardAt_ms = now_ms;
    for (const event of events) this.take(event);
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

  /** Whether somebody is there to hear an action: a saved notebook, opened without its kernel, never says a word. */
  get isLive(): boolean {
    return !Number.isNaN(this.heardAt_ms) && !hasEnded(this.state);
  }

  request(action: Action): void {
    if (!this.controls.includes(action) || !this.isLive) return;
    this.pending = action;
    this.channel.control(action);
    this.changed();
  }

  private take(value: unknown): void {
    const event = asEvent(value);
    if (event === null) return;
    const before = this.state.state;
    try {
      reduce(this.state, event);
    } catch (error) {
      console.warn("dlfb-lab: an event could not be read and was left out", error);
    }
    if (this.state.state !== before) this.pending = null;
  }

  private changed(): void {
    this.version++;
    for (const listener of this.listeners) listener();
  }
}

function lastStep(events: readonly unknown[]): number {
  const state = emptyState();
  for (const value of events) {
    const event = asEvent(value);
    if (event !== null) state.step = Math.max(state.step, event.step);
  }
  return state.step;
}
