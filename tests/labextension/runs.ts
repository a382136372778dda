// Runs for the tests: the golden journal, and events made by hand.

import { readFileSync } from "node:fs";

import type { Evaluation, Losses, RunStarted } from "../../labextension/core/events";
import { asEvent, emptyState, reduce, type RunState } from "../../labextension/core/runState";

/** The tests run from the repository's root. */
export function goldenEvents(name = "run"): unknown[] {
  const lines = readFileSync(`tests/golden/${name}.jsonl`, "utf-8").trimEnd().split("\n");
  return lines.map((line) => JSON.parse(line) as unknown);
}

export function stateOf(events: readonly unknown[]): RunState {
  const state = emptyState();
  for (const value of events) {
    const event = asEvent(value);
    if (event !== null) reduce(state, event);
  }
  return state;
}

export function plan(changes: Partial<RunStarted> = {}): RunStarted {
  const golden = goldenEvents()[0] as RunStarted;
  return { ...golden, ...changes };
}

export function block(values: readonly number[]): string {
  return `f8:${btoa(String.fromCharCode(...new Uint8Array(Float64Array.from(values).buffer)))}`;
}

export function losses(firstStep: number, values: readonly number[], changes: Partial<Losses> = {}): Losses {
  return {
    kind: "losses",
    step: firstStep + values.length,
    time_s: 0,
    first_step: firstStep,
    losses: block(values),
    stride: 1,
    duration_s: 1,
    dispatches: 1,
    parts: {},
    members: [],
    ...changes,
  };
}

export function evaluation(step: number, changes: Partial<Evaluation> = {}): Evaluation {
  const metrics = { loss: 0.5 };
  return {
    kind: "evaluation",
    step,
    time_s: 0,
    split: "valid",
    metrics,
    rows: 1,
    duration_s: 0.5,
    look: 0,
    members: [],
    ...changes,
  };
}
