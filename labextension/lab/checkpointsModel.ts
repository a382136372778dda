// The checkpoints of one run, asked for while somebody looks at them, and what is asked to be done with them.

import { Poll } from "@lumino/polling";
import { Signal, type ISignal } from "@lumino/signaling";

import { bytes, count, plural } from "../core/format";
import { untilText } from "./checkpointRow";
import type { RunRef } from "./feed";
import type { CheckpointAction, CheckpointsAnswer, Server } from "./server";

const BUSY_MS = 1000;
const IDLE_MS = 5000;
const MOST_MS = 30_000;

/** What the model needs of the server. */
export type CheckpointsSource = Pick<Server, "checkpoints" | "changeCheckpoint">;

/** What came of the last thing that was asked for. */
export interface Said {
  text: string;
  isRefusal: boolean;
  /** what in the trash to take back, if somebody thinks better of it */
  undo: string;
}

const NOTHING: Said = { text: "", isRefusal: false, undo: "" };

export class CheckpointsModel {
  answer: CheckpointsAnswer | null = null;
  /** why the last question had no answer */
  problem = "";
  said = NOTHING;
  /** what is on its way: an action and a name */
  private pending = new Set<string>();
  /** those whose checksums somebody waits for */
  private awaited = new Set<string>();
  private changes = 0;
  private signal = new Signal<this, void>(this);
  private poll: Poll<void, unknown>;

  constructor(
    private source: CheckpointsSource,
    readonly ref: RunRef,
    isUnseen: () => boolean = () => false,
  ) {
    this.poll = new Poll({
      name: `dlfb-lab:checkpoints-${ref.run}`,
      factory: () => this.ask(),
      frequency: { interval: IDLE_MS, backoff: true, max: MOST_MS },
      standby: () => document.hidden || isUnseen(),
      auto: false,
    });
  }

  get changed(): ISignal<this, void> {
    return this.signal;
  }

  start(): void {
    void this.poll.refresh();
  }

  dispose(): void {
    this.poll.dispose();
    Signal.clearData(this);
  }

  isPending(action: CheckpointAction, name: string): boolean {
    return this.pending.has(`${action} ${name}`);
  }

  /** Says something in the place of what came of the last action. */
  say(text: string, isRefusal = false): void {
    this.said = { text, isRefusal, undo: "" };
    this.signal.emit();
  }

  /** Does something with a checkpoint, or verifies all where none is named; a second click changes nothing. */
  async change(action: CheckpointAction, name = ""): Promise<void> {
    const key = `${action} ${name}`;
    if (this.pending.has(key)) return;
    this.pending.add(key);
    this.said = NOTHING;
    this.signal.emit();
    const before = this.answer;
    try {
      const answer = await this.source.changeCheckpoint(this.ref.store, this.ref.run, action, name);
      this.changes++;
      if (action === "verify")
        for (const checkpoint of answer.checkpoints)
          if (name === "" || checkpoint.name === name) this.awaited.add(checkpoint.name);
      this.said = outcome(action, name, before, answer);
      this.take(answer);
    } catch (error) {
      this.said = { text: messageOf(error), isRefusal: true, undo: "" };
      this.start();
    } finally {
      this.pending.delete(key);
      if (!this.poll.isDisposed) this.signal.emit();
    }
  }

  private async ask(): Promise<void> {
    const { changes } = this;
    try {
      const answer = await this.source.checkpoints(this.ref.store, this.ref.run);
      // One that was asked for before a change says what was before it.
      if (changes === this.changes) this.take(answer);
    } catch (error) {
      this.problem = messageOf(error);
      throw error;
    } finally {
      if (!this.poll.isDisposed) this.signal.emit();
    }
  }

  private take(answer: CheckpointsAnswer): void {
    if (this.poll.isDisposed) return;
    this.answer = answer;
    this.problem = "";
    const isBusy = answer.checkpoints.some(({ verifying }) => verifying);
    if (!isBusy && this.awaited.size > 0) {
      const asked = answer.checkpoints.filter(({ name, verified_s }) => this.awaited.has(name) && verified_s !== null);
      this.awaited.clear();
      const damaged = asked.filter(({ state }) => state === "damaged");
      const text =
        damaged.length > 0
          ? `Damaged: ${damaged.map(({ step }) => `step ${count(step)}`).join(", ")}.`
          : `${plural(asked.length, "checkpoint")} verified: as saved.`;
      if (asked.length > 0) this.said = { text, isRefusal: damaged.length > 0, undo: "" };
    }
    this.poll.frequency = { interval: isBusy ? BUSY_MS : IDLE_MS, backoff: true, max: MOST_MS };
  }
}

function outcome(
  action: CheckpointAction,
  name: string,
  before: CheckpointsAnswer | null,
  after: CheckpointsAnswer,
): Said {
  if (action === "delete") {
    const known = new Set(before?.trash.map((deleted) => deleted.name));
    const deleted = after.trash.find((one) => !known.has(one.name) && one.name.startsWith(`${name}-`));
    if (deleted === undefined) return NOTHING;
    const when = untilText(deleted.until_s - deleted.deleted_s);
    const text = `Step ${count(deleted.step)} is in the trash: ${bytes(deleted.bytes)} are freed ${when}.`;
    return { text, isRefusal: false, undo: deleted.name };
  }
  if (action === "undo") {
    const deleted = before?.trash.find((one) => one.name === name);
    return { ...NOTHING, text: deleted === undefined ? "" : `Step ${count(deleted.step)} is back.` };
  }
  return NOTHING;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
