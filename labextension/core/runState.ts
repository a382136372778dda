// What a run's events add up to. No clock, no DOM: the same events always give the same state.

import type { Compilation, DeviceMemory, JsonFloat, Losses, Notice, RunEvent, RunStarted, State } from "./events";
import { ENDED, KINDS } from "./events";
import { LossSeries } from "./lossSeries";

const RECENT = 64;

export type Metrics = Record<string, number>;

export interface Scores {
  step: number;
  split: string;
  metrics: Metrics;
  rows: number;
  duration_s: number;
  look: number;
}

export interface Reference {
  name: string;
  split: string;
  metrics: Metrics;
}

export interface Best {
  column: string;
  value: number;
  step: number;
}

/** What one report of losses tells about speed. */
export interface Pace {
  steps: number;
  dispatches: number;
  duration_s: number;
}

export interface RunState {
  plan: RunStarted | null;
  state: State | "waiting";
  reason: string;
  stateSince_s: number;
  started_s: number;
  updated_s: number;
  /** updates applied */
  step: number;
  losses: LossSeries;
  evaluations: Scores[];
  baselines: Reference[];
  best: Best | null;
  compilations: Compilation[];
  notices: Notice[];
  recent: Pace[];
  /** the latest figures of each device */
  memory: Map<string, DeviceMemory>;
}

export function emptyState(): RunState {
  return {
    plan: null,
    state: "waiting",
    reason: "",
    stateSince_s: NaN,
    started_s: NaN,
    updated_s: NaN,
    step: 0,
    losses: new LossSeries(),
    evaluations: [],
    baselines: [],
    best: null,
    compilations: [],
    notices: [],
    recent: [],
    memory: new Map(),
  };
}

export function hasEnded(state: RunState): boolean {
  return (ENDED as readonly string[]).includes(state.state);
}

/** Returns the event, or null for what this version of the vocabulary does not know. */
export function asEvent(value: unknown): RunEvent | null {
  if (typeof value !== "object" || value === null || !("kind" in value) || !("step" in value)) return null;
  const known = (KINDS as readonly unknown[]).includes(value.kind) && typeof value.step === "number";
  return known ? (value as RunEvent) : null;
}

/** Takes one event into the state, in place: copying a million losses for each event would be the whole cost. */
export function reduce(state: RunState, event: RunEvent): void {
  const time_s = toNumber(event.time_s);
  if (Number.isNaN(state.started_s)) state.started_s = time_s;
  state.updated_s = time_s;
  state.step = Math.max(state.step, event.step);
  switch (event.kind) {
    case "run_started":
      if (state.plan !== null && state.plan.run_id !== event.run_id) Object.assign(state, emptyState());
      state.plan = completePlan(event);
      state.started_s = time_s;
      state.updated_s = time_s;
      break;
    case "status":
      state.state = (asText(event.state) || state.state) as State;
      state.reason = asText(event.reason);
      state.stateSince_s = time_s;
      break;
    case "losses":
      reduceLosses(state, event);
      break;
    case "evaluation": {
      const { step, rows, look } = event;
      const split = asText(event.split);
      const duration_s = toNumber(event.duration_s);
      const scores = { step, split, rows, look, duration_s, metrics: toNumbers(event.metrics) };
      state.evaluations.push(scores);
      state.best = better(state, scores);
      break;
    }
    case "baseline":
      state.baselines.push({ name: asText(event.name), split: asText(event.split), metrics: toNumbers(event.metrics) });
      break;
    case "compilation":
      state.compilations.push(event);
      break;
    case "notice":
      state.notices.push(event);
      break;
    case "device_memory":
      state.memory.set(event.device, event);
      break;
  }
}

export function evaluationsOf(state: RunState, split: string): Scores[] {
  return state.evaluations.filter((scores) => scores.split === split);
}

/** Decodes a block of losses, whatever the byte order of this machine. */
export function decodeLosses(text: string): Float64Array {
  const size = text.startsWith("f4:") ? 4 : text.startsWith("f8:") ? 8 : 0;
  if (size === 0) throw new Error(`losses start with "f4:" or "f8:", not ${JSON.stringify(text.slice(0, 3))}`);
  const bytes = Uint8Array.from(atob(text.slice(3)), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float64Array.from({ length: Math.floor(bytes.length / size) }, (_, i) =>
    size === 4 ? view.getFloat32(i * 4, true) : view.getFloat64(i * 8, true),
  );
}

const PLAN: RunStarted = {
  ...{ kind: "run_started", step: 0, time_s: "NaN", version: NaN, run_id: "", name: "", task: "", task_sentence: "" },
  ...{ classes: [], model: "", model_kind: "", parameter_count: 0, steps_total: 0, steps_per_epoch: 0, batch_size: 0 },
  ...{ evaluations_total: 0, monitor: "", monitor_mode: "min", rows: {}, split_hash: "", settings: {}, versions: {} },
  ...{ device: "", source: "" },
};

/** The plan with every field of the kind that this version knows: a newer one may lack some, or mean others by them. */
function completePlan(event: RunStarted): RunStarted {
  const given = event as unknown as Record<string, unknown>;
  const fields = Object.entries(PLAN).map(([name, without]): [string, unknown] => [
    name,
    kindOf(given[name]) === kindOf(without) ? given[name] : without,
  ]);
  return { ...(Object.fromEntries(fields) as unknown as RunStarted), time_s: event.time_s };
}

function kindOf(value: unknown): string {
  return value === null ? "null" : Array.isArray(value) ? "list" : typeof value;
}

function asText(value: unknown): string {
  return typeof value === "string" ? value : "";
}

export function toNumber(value: JsonFloat): number {
  return Number(value);
}

function toNumbers(values: Record<string, JsonFloat>): Metrics {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, toNumber(value)]));
}

function reduceLosses(state: RunState, event: Losses): void {
  const { first_step, stride } = event;
  if (!(Number.isInteger(first_step) && first_step >= 0 && Number.isInteger(stride) && stride >= 1))
    throw new Error(`losses of no known place: first_step ${first_step}, stride ${stride}`);
  const values = decodeLosses(event.losses);
  state.losses.append(event.first_step, event.stride, values);
  const steps = values.length * event.stride;
  state.step = Math.max(state.step, event.first_step + steps);
  state.recent.push({ steps, dispatches: event.dispatches, duration_s: toNumber(event.duration_s) });
  if (state.recent.length > RECENT) state.recent.shift();
}

function better(state: RunState, scores: Scores): Best | null {
  const column = state.plan?.monitor ?? "";
  const slash = column.indexOf("/");
  if (slash < 0 || scores.split !== column.slice(0, slash)) return state.best;
  const value = scores.metrics[column.slice(slash + 1)];
  if (!Number.isFinite(value)) return state.best;
  const sign = state.plan?.monitor_mode === "max" ? -1 : 1;
  if (state.best !== null && sign * value >= sign * state.best.value) return state.best;
  return { column, value, step: scores.step };
}
