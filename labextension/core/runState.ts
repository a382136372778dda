// What a run's events add up to. No clock, no DOM: the same events always give the same state.

import type {
  CheckpointSaved,
  Compilation,
  DeviceMemory,
  Evaluation,
  JsonFloat,
  Losses,
  Notice,
  PlanChosen,
  RunEvent,
  RunStarted,
  State,
} from "./events";
import { ENDED, KINDS } from "./events";
import { LossSeries } from "./lossSeries";
import { MeanSeries, meanAndDeviation } from "./meanSeries";

const RECENT = 64;

export type Metrics = Record<string, number>;

export interface Scores {
  step: number;
  split: string;
  metrics: Metrics;
  rows: number;
  duration_s: number;
  look: number;
  /** of each member; empty where it is one model */
  members: Metrics[];
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

/** Losses at the learning rates that were tried. */
export interface RateTrial {
  rates: Float64Array;
  losses: Float64Array;
  chosen: number;
  duration_s: number;
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
  /** the loss of each member; null where it is one model */
  members: MeanSeries | null;
  /** the other scalars of each step, by name */
  parts: Map<string, MeanSeries>;
  evaluations: Scores[];
  baselines: Reference[];
  best: Best | null;
  /** the best monitored score of each member; null for one without a finite score */
  memberBests: (Best | null)[];
  plans: PlanChosen[];
  rateTests: RateTrial[];
  /** those that the run had when it last saved one */
  checkpoints: CheckpointSaved[];
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
    members: null,
    parts: new Map(),
    evaluations: [],
    baselines: [],
    best: null,
    memberBests: [],
    plans: [],
    rateTests: [],
    checkpoints: [],
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
  const before_s = state.updated_s;
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
      // Of a run that goes on from a checkpoint: nobody trained it meanwhile.
      if (event.state === "compiling" && time_s > before_s) state.started_s += time_s - before_s;
      state.state = (asText(event.state) || state.state) as State;
      state.reason = asText(event.reason);
      state.stateSince_s = time_s;
      break;
    case "losses":
      reduceLosses(state, event);
      break;
    case "evaluation":
      reduceEvaluation(state, event);
      break;
    case "baseline":
      state.baselines.push({ name: asText(event.name), split: asText(event.split), metrics: toNumbers(event.metrics) });
      break;
    case "compilation":
      state.compilations.push(event);
      break;
    case "notice":
      state.notices.push(event);
      break;
    case "plan_chosen":
      state.plans.push(event);
      break;
    case "rate_test":
      state.rateTests.push({
        rates: decodeLosses(event.rates),
        losses: decodeLosses(event.losses),
        chosen: toNumber(event.chosen),
        duration_s: toNumber(event.duration_s),
      });
      break;
    case "checkpoint_saved": {
      const { step, kept } = event;
      const before = state.checkpoints.filter((saved) => kept.includes(saved.step) && saved.step !== step);
      state.checkpoints = [...before, event];
      break;
    }
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
  const raw = atob(text.slice(3));
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  const view = new DataView(bytes.buffer);
  const values = new Float64Array(Math.floor(bytes.length / size));
  for (let i = 0; i < values.length; i++)
    values[i] = size === 4 ? view.getFloat32(i * 4, true) : view.getFloat64(i * 8, true);
  return values;
}

const PLAN: RunStarted = {
  ...{ kind: "run_started", step: 0, time_s: "NaN", version: NaN, run_id: "", name: "", task: "", task_sentence: "" },
  ...{ classes: [], model: "", model_kind: "", parameter_count: 0, steps_total: 0, steps_per_epoch: 0, batch_size: 0 },
  ...{ evaluations_total: 0, monitor: "", monitor_mode: "min", rows: {}, split_hash: "", settings: {}, versions: {} },
  ...{ device: "", source: "", members: [], parent: "", parent_step: 0 },
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
  const steps = values.length * event.stride;
  state.step = Math.max(state.step, event.first_step + steps);
  state.recent.push({ steps, dispatches: event.dispatches, duration_s: toNumber(event.duration_s) });
  if (state.recent.length > RECENT) state.recent.shift();
  try {
    reduceBeside(state, event, values);
  } finally {
    state.losses.append(event.first_step, event.stride, values);
  }
}

/** Takes the parts of the losses, and the members', of which `values` is the mean. */
function reduceBeside(state: RunState, event: Losses, values: Float64Array): void {
  // An older version wrote neither.
  const { parts = {}, members = [] } = event as Partial<Losses>;
  const blocks = members.map(decodeLosses).filter(({ length }) => length === values.length);
  if (blocks.length > 0 && blocks.length === members.length) {
    if (state.members?.rows !== blocks.length) state.members = new MeanSeries(blocks.length);
    state.members.append(event.first_step, event.stride, blocks);
    // One that broke down does not hide the others.
    for (let i = 0; i < values.length; i++) {
      if (!Number.isFinite(values[i])) values[i] = meanAndDeviation(blocks.map((block) => block[i])).mean;
    }
  }
  for (const [name, text] of Object.entries(parts)) {
    const block = decodeLosses(text);
    if (block.length !== values.length || name === "loss") continue;
    const series = state.parts.get(name) ?? new MeanSeries(1);
    series.append(event.first_step, event.stride, [block]);
    state.parts.set(name, series);
  }
}

function reduceEvaluation(state: RunState, event: Evaluation): void {
  const { step, rows, look } = event;
  const { members: told = [] } = event as Partial<Evaluation>;
  const members = told.map(toNumbers);
  const metrics = toNumbers(event.metrics);
  const scores = { step, split: asText(event.split), rows, look, duration_s: toNumber(event.duration_s), members };
  state.best = better(state, { ...scores, metrics }, state.best);
  members.forEach((own, i) => {
    state.memberBests[i] = better(state, { ...scores, metrics: own }, state.memberBests.at(i) ?? null);
  });
  for (const name of Object.keys(metrics)) {
    if (members.length > 0 && !Number.isFinite(metrics[name]))
      metrics[name] = meanAndDeviation(members.map((own) => own[name])).mean;
  }
  state.evaluations.push({ ...scores, metrics });
}

/** The member with the best monitored score; of equal ones the earliest. */
export function bestMember({ memberBests, plan }: RunState): { index: number; best: Best } | null {
  const sign = plan?.monitor_mode === "max" ? -1 : 1;
  let found: { index: number; best: Best } | null = null;
  memberBests.forEach((best, index) => {
    if (best === null) return;
    const difference = found === null ? -1 : sign * (best.value - found.best.value);
    if (difference < 0 || (difference === 0 && best.step < (found?.best.step ?? Infinity))) found = { index, best };
  });
  return found;
}

function better(state: RunState, scores: Scores, before: Best | null): Best | null {
  const column = state.plan?.monitor ?? "";
  const slash = column.indexOf("/");
  if (slash < 0 || scores.split !== column.slice(0, slash)) return before;
  const value = scores.metrics[column.slice(slash + 1)];
  if (!Number.isFinite(value)) return before;
  const sign = state.plan?.monitor_mode === "max" ? -1 : 1;
  if (before !== null && sign * value >= sign * before.value) return before;
  return { column, value, step: scores.step };
}
