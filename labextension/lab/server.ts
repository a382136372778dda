// The routes of dlfb_lab's server extension, typed. Nothing else in the page speaks to it.

import { URLExt } from "@jupyterlab/coreutils";
import { ServerConnection } from "@jupyterlab/services";

import type { JsonFloat, State } from "../core/events";
import type { Action, Life } from "../core/runStore";

/** In every answer. */
export interface Answer {
  /** of the dlfb_lab that the server has */
  version: string;
  /** the newest vocabulary of events that the server knows */
  schema: number;
}

/** An answer whose times can be held against a clock. */
export interface Served extends Answer {
  /** the server's clock when it answered, in whole seconds; NaN when a proxy took it out */
  served_s: number;
}

/** The latest figures of one device's memory, as the run wrote them. */
export interface Memory {
  device: string;
  device_kind: string;
  in_use_bytes: JsonFloat;
  peak_bytes: JsonFloat;
  limit_bytes: JsonFloat;
  pool_bytes: JsonFloat;
  preallocated: boolean;
  reason: string;
}

export interface RunSummary {
  store: string;
  run: string;
  name: string;
  model: string;
  task: string;
  device: string;
  versions_dlfb_lab: string;
  state: State | "waiting";
  life: Life;
  reason: string;
  started_s: number;
  updated_s: number;
  elapsed_s: number;
  /** the run whose checkpoint it began from; empty where it began anew */
  parent?: string;
  /** updates applied to that checkpoint; 0 of a run that began anew */
  parent_step?: number;
  step: number;
  steps_total: number;
  /** models that are trained at once; 0 where it is one, and of a server that does not know */
  members?: number;
  best: { column: string; value: number; step: number } | null;
  scores: Record<string, Record<string, JsonFloat>>;
  baseline: { name: string; split: string; metrics: Record<string, JsonFloat> } | null;
  curve: { steps: number[]; losses: JsonFloat[] };
  valid: { steps: number[]; values: JsonFloat[]; metric: string };
  warnings: number;
  /** how many it had when it last saved one; 0 of a server that does not know */
  checkpoints?: number;
  memory: Memory[];
  /** only name, model and start are known so far */
  reading: boolean;
}

/** What can be asked of a checkpoint; "undo" of one in the trash. */
export type CheckpointAction = "verify" | "pin" | "unpin" | "delete" | "undo";

export interface CheckpointSummary {
  /** of its folder: what the server knows it by */
  name: string;
  step: number;
  state: "complete" | "partial" | "damaged" | "not finite" | "newer";
  /** what is wrong with it, in a sentence */
  why: string;
  bytes: number;
  /** null where its manifest cannot be read */
  saved_s: number | null;
  /** the latest scores when it was saved, the monitored one first */
  metrics: Record<string, JsonFloat>;
  pinned: boolean;
  /** why it is kept, apart from being pinned; empty where it need not be */
  kept: string;
  /** why it cannot be deleted; empty where it can */
  protected: string;
  /** whether its checksums are being compared, or will be */
  verifying: boolean;
  /** when they were compared last, since the server started */
  verified_s: number | null;
}

export interface DeletedCheckpoint {
  name: string;
  step: number;
  bytes: number;
  deleted_s: number;
  /** until when it can be had back */
  until_s: number;
}

export interface CheckpointsAnswer extends Served {
  run: string;
  /** the run's folder */
  folder: string;
  /** where its store lies below the folder that the server shows; null where it does not */
  below: string | null;
  /** the line that began the run; empty where it was a longer cell, or none */
  source: string;
  /** the column whose best is kept */
  monitor: string;
  /** latest first */
  checkpoints: CheckpointSummary[];
  trash: DeletedCheckpoint[];
}

export interface StoreSummary {
  store: string;
  path: string;
  /** why it cannot be read; empty when it can */
  problem: string;
}

export interface RunsAnswer extends Served {
  runs: RunSummary[];
  stores: StoreSummary[];
  /** journals that are still being read */
  reading: number;
  /** runs beyond the newest that are listed */
  hidden: number;
}

export interface EventsAnswer extends Served {
  run: string;
  life: Life;
  /** the events are the whole run, not what follows the cursor */
  reset: boolean;
  events: unknown[];
  /** the cursor to ask with next */
  next: string;
  note: string;
}

export interface DeviceSample {
  time_s: number;
  cpu_percent: number | null;
  memory_used_bytes: number | null;
  disk_used_bytes: number | null;
  gpus: GpuSample[];
}

export interface GpuSample {
  utilisation_percent: number | null;
  memory_used_bytes: number | null;
  temperature_c: number | null;
  power_w: number | null;
}

export interface Gpu {
  index: number;
  name: string;
  memory_total_bytes: number | null;
  power_limit_w: number | null;
  /** why a figure cannot be had, by its name in a sample */
  missing: Record<string, string>;
}

export interface DevicesAnswer extends Answer {
  host: { name: string; cpu_count: number; disk_path: string };
  interval_s: number;
  next: number;
  reset: boolean;
  samples: DeviceSample[];
  memory_total_bytes: number | null;
  disk_total_bytes: number | null;
  memory_of: "machine" | "container";
  missing: Record<string, string>;
  gpus: Gpu[];
  /** why there are no GPUs; empty when there are */
  no_gpus: string;
}

/**
 * Why a request gave no answer. `code` is the server's word for it ("no_run", "over", …) or one of
 * "absent": something answered that is not dlfb_lab's server extension;
 * "unreachable": nothing answered at all;
 * "refused": the Jupyter server did not let the request through.
 */
export class ServerError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
  ) {
    super(message);
    this.name = "ServerError";
  }
}

export const UNREACHABLE = "The Jupyter server cannot be reached";
export const ABSENT = "dlfb_lab's server extension is not running here";

/** The first reading of a very long journal takes seconds, not minutes. */
const PATIENCE_MS = 60_000;

/** dlfb_lab's half of the Jupyter server. */
export class Server {
  constructor(private settings: ServerConnection.ISettings = ServerConnection.makeSettings()) {}

  runs(): Promise<RunsAnswer> {
    return this.request("GET", "runs");
  }

  /** What happened to a run since the cursor; all of it for an empty one. */
  events(store: string, run: string, after = ""): Promise<EventsAnswer> {
    const query = after === "" ? "" : URLExt.objectToQueryString({ after });
    return this.request("GET", `runs/${encodeURIComponent(store)}/${encodeURIComponent(run)}${query}`);
  }

  control(store: string, run: string, action: Action): Promise<Answer & { action: Action }> {
    const path = `runs/${encodeURIComponent(store)}/${encodeURIComponent(run)}/requests`;
    return this.request("POST", path, { action });
  }

  checkpoints(store: string, run: string): Promise<CheckpointsAnswer> {
    return this.request("GET", checkpointsPath(store, run));
  }

  /** Changes a checkpoint, or has all verified where none is named; returns how they are then. */
  changeCheckpoint(store: string, run: string, action: CheckpointAction, name = ""): Promise<CheckpointsAnswer> {
    return this.request("POST", checkpointsPath(store, run), { action, name });
  }

  /** What the machine is doing; ten minutes of it for an `after` that the server does not know. */
  devices(after?: number): Promise<DevicesAnswer> {
    return this.request("GET", `devices${after === undefined ? "" : `?after=${after}`}`);
  }

  /** Takes a store out of the register; its folder is left as it is. */
  forgetStore(store: string): Promise<Answer> {
    return this.request("DELETE", `stores/${encodeURIComponent(store)}`);
  }

  // What a route answers is named once, above, and not checked again.
  private async request<T extends Answer>(method: string, path: string, body?: object): Promise<T> {
    const url = URLExt.join(this.settings.baseUrl, "dlfb-lab", path);
    const signal = AbortSignal.timeout(PATIENCE_MS);
    const init = { method, signal, ...(body === undefined ? {} : { body: JSON.stringify(body) }) };
    let response: Response;
    let text: string;
    try {
      response = await ServerConnection.makeRequest(url, init, this.settings);
      text = await response.text();
    } catch {
      throw new ServerError(0, "unreachable", UNREACHABLE);
    }
    const answer = parse(text);
    if (response.ok && typeof answer?.version === "string")
      return { ...answer, served_s: Date.parse(response.headers.get("Date") ?? "") / 1000 } as unknown as T;
    throw refusal(response.status, answer);
  }
}

function checkpointsPath(store: string, run: string): string {
  return `runs/${encodeURIComponent(store)}/${encodeURIComponent(run)}/checkpoints`;
}

function parse(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" ? (value as Record<string, unknown> | null) : null;
  } catch {
    return null;
  }
}

/** What stands between the browser and a server that is down answers with these: a proxy, a hub. */
const DOWN = [424, 502, 503, 504];

function refusal(status: number, answer: Record<string, unknown> | null): ServerError {
  const message = typeof answer?.message === "string" ? answer.message : "";
  if (typeof answer?.code === "string") return new ServerError(status, answer.code, message);
  if (DOWN.includes(status)) return new ServerError(status, "unreachable", UNREACHABLE);
  if (status === 404 || status < 400) return new ServerError(status, "absent", ABSENT);
  const why = message === "" ? `status ${status}` : message;
  return new ServerError(status, "refused", `The Jupyter server refused the request: ${why}`);
}
