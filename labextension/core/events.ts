// Generated from dlfb_lab/events.py by labextension/generate_events.py: do not edit.

/** A float as JSON holds it: the codec writes what JSON cannot say as a string. */
export type JsonFloat = number | "NaN" | "Infinity" | "-Infinity";

/** Raw little-endian bits of losses: "f4:" or "f8:", then base64. */
export type FloatBlock = string;

export type JsonValue = null | boolean | number | string | JsonValue[] | { [key: string]: JsonValue };

export const SCHEMA = 1;

export type State = "compiling" | "running" | "paused" | "finished" | "stopped" | "failed";

export const ENDED: readonly State[] = ["finished", "stopped", "failed"];

/** Something that happened to a run. */
export interface Event {
  /** updates applied when it happened; its place on the step axis. */
  step: number;
  /** when it happened, Unix time in seconds. */
  time_s: JsonFloat;
}

/** The plan of a run, every default made visible. */
export interface RunStarted extends Event {
  kind: "run_started";
  /** the vocabulary's version. */
  version: number;
  /** the run's folder name, unique in its store. */
  run_id: string;
  /** the user's name for the run. */
  name: string;
  /** binary, multiclass, multilabel or regression. */
  task: string;
  /** the task said aloud, for people. */
  task_sentence: string;
  /** names of the classes or labels; empty for regression. */
  classes: string[];
  /** the model's name. */
  model: string;
  /** which adapter trains it, for example "linen". */
  model_kind: string;
  /** scalar parameters in the model. */
  parameter_count: number;
  /** updates planned. */
  steps_total: number;
  /** updates per pass over the training rows. */
  steps_per_epoch: number;
  /** rows per update. */
  batch_size: number;
  /** evaluations planned. */
  evaluations_total: number;
  /** the history column whose best is kept, for example "valid/loss"; empty when there is none. */
  monitor: string;
  /** whether a small or a large monitored value is better. */
  monitor_mode: "min" | "max";
  /** rows per split part ("train", "valid", "test"). */
  rows: Record<string, number>;
  /** identifies which rows are in which part. */
  split_hash: string;
  /** every option of the run, by name. */
  settings: Record<string, JsonValue>;
  /** of Python and of the packages that matter. */
  versions: Record<string, string>;
  /** what the run is trained on. */
  device: string;
  /** the cell that started it, when known. */
  source: string;
  /** names of what is trained at once, for example "seed 1"; empty where it is one model. */
  members: string[];
  /** the run whose checkpoint it began from; empty where it began anew. */
  parent: string;
  /** updates applied to that checkpoint. */
  parent_step: number;
}

/** The scores of a simple method: a horizontal line on the charts of a split. */
export interface Baseline extends Event {
  kind: "baseline";
  /** for example "majority class". */
  name: string;
  /** the part it was scored on. */
  split: string;
  /** scores by metric name, "loss" among them. */
  metrics: Record<string, JsonFloat>;
}

/** The training losses of one or more dispatches. */
export interface Losses extends Event {
  kind: "losses";
  /** step of the first value. The loss at step s was computed with s updates applied. */
  first_step: number;
  /** shape [count]; float32 or float64. With several members, their mean. */
  losses: FloatBlock;
  /** 1 in a journal; in a shortened copy each value is the mean of this many steps. */
  stride: number;
  /** wall time spent training these steps, without evaluation, pauses or compilation. */
  duration_s: JsonFloat;
  /** dispatches of one or more steps that they came from. */
  dispatches: number;
  /** other scalars of each step by name, for example the parts of a loss; each of shape [count]. */
  parts: Record<string, FloatBlock>;
  /** the loss of each member, of shape [count], in the order of `RunStarted.members`. */
  members: FloatBlock[];
}

/** The scores of the model, at a step, on one part of the data. */
export interface Evaluation extends Event {
  kind: "evaluation";
  /** "train", "valid", "test", or "data" for other data. */
  split: string;
  /** scores by metric name, "loss" among them. With several members, their mean. */
  metrics: Record<string, JsonFloat>;
  /** rows that were scored. */
  rows: number;
  /** wall time it took. */
  duration_s: JsonFloat;
  /** how many times the test part has now been looked at; 0 for other parts. */
  look: number;
  /** the scores of each member, in the order of `RunStarted.members`. */
  members: Record<string, JsonFloat>[];
}

/** A program was compiled. */
export interface Compilation extends Event {
  kind: "compilation";
  /** which one, for example "train step". */
  program: string;
  /** Python tracing, seconds. */
  trace_s: JsonFloat;
  /** lowering to StableHLO, seconds. */
  lower_s: JsonFloat;
  /** XLA, seconds. */
  compile_s: JsonFloat;
  /** whether the plan foresaw it. */
  planned: boolean;
  /** why, for people. */
  cause: string;
}

/** The run entered a state. */
export interface Status extends Event {
  kind: "status";
  /** the state entered. */
  state: State;
  /** why, for people; may be empty. */
  reason: string;
}

/** Something the user should know. */
export interface Notice extends Event {
  kind: "notice";
  /** "info", or "warning" where the result may suffer. */
  level: "info" | "warning";
  /** one or two sentences: what, the value seen, what to do. */
  text: string;
}

/** How steps are run from here on, and why. */
export interface PlanChosen extends Event {
  kind: "plan_chosen";
  /** "one by one" (a dispatch a step), "fused" (many steps in a dispatch), "streamed" (batches from the host), or "as it is" (another framework's step, or one that cannot be compiled). */
  plan: string;
  /** why, for people. */
  reason: string;
  /** measured time of a step one by one, seconds; NaN where it was not measured. */
  step_s: JsonFloat;
  /** measured time of a fused step, seconds; NaN where it was not measured. */
  fused_step_s: JsonFloat;
}

/** Losses at learning rates that rise step by step, tried before training to choose one. */
export interface RateTest extends Event {
  kind: "rate_test";
  /** learning rates, ascending, shape [count]. */
  rates: FloatBlock;
  /** the training loss at each, shape [count]; not finite where training broke down. */
  losses: FloatBlock;
  /** the rate that was chosen. */
  chosen: JsonFloat;
  /** wall time it took. */
  duration_s: JsonFloat;
}

/** The state at a step is on the disk. */
export interface CheckpointSaved extends Event {
  kind: "checkpoint_saved";
  /** its size there. */
  bytes: number;
  /** wall time it took, while training went on. */
  duration_s: JsonFloat;
  /** wall time for which training waited. */
  stall_s: JsonFloat;
  /** "complete", or "not finite" where an array has a NaN or an infinity. */
  state: string;
  /** steps of all checkpoints that the run has since then. */
  kept: number[];
}

/** What JAX's allocator holds of one device's memory. NaN is what the backend does not report. */
export interface DeviceMemory extends Event {
  kind: "device_memory";
  /** as JAX names it, for example "cuda:0". */
  device: string;
  /** the hardware, for example "NVIDIA H100". */
  device_kind: string;
  /** held by arrays and programs. */
  in_use_bytes: JsonFloat;
  /** the most that was in use since the process began. */
  peak_bytes: JsonFloat;
  /** the most that it may take. */
  limit_bytes: JsonFloat;
  /** what it has taken from the device, whether or not it is in use. */
  pool_bytes: JsonFloat;
  /** whether it takes its pool at the start, so that the device looks full from then on. */
  preallocated: boolean;
  /** why there are no figures; empty where there are. */
  reason: string;
}

export type RunEvent =
  | RunStarted
  | Baseline
  | Losses
  | Evaluation
  | Compilation
  | Status
  | Notice
  | PlanChosen
  | RateTest
  | CheckpointSaved
  | DeviceMemory;

export const KINDS: readonly RunEvent["kind"][] = [
  "run_started",
  "baseline",
  "losses",
  "evaluation",
  "compilation",
  "status",
  "notice",
  "plan_chosen",
  "rate_test",
  "checkpoint_saved",
  "device_memory",
];
