// Where a run stands, as people should read it: its last word, and whether anybody is left to say another.

import { SCHEMA, type State } from "./events";
import { ago } from "./format";
import { hasEnded, type RunState } from "./runState";

/** Whether the process that trains still lives; "elsewhere" when it runs, or ran, on another machine. */
export type Life = "alive" | "gone" | "elsewhere" | "unknown";

export interface Standing {
  state: State | "waiting" | "interrupted";
  reason: string;
}

const INTERRUPTED = "its kernel ended before the run did; what it had written is here";
/** A run that goes on writes far more often. */
const LONG_SILENCE_S = 60;

/** `silence_s`: how long nothing has been heard of the run; NaN while nobody can hear it. */
export function standing(run: RunState, life: Life, silence_s: number): Standing {
  if (hasEnded(run)) return { state: run.state, reason: run.reason };
  if (life === "gone") return { state: "interrupted", reason: INTERRUPTED };
  if (!isLost(life, silence_s)) return { state: run.state, reason: run.reason };
  return { state: run.state, reason: `trained on another machine; last heard ${ago(silence_s)}` };
}

/** Whether a run on another machine has been silent for so long that its clock should stand still. */
export function isLost(life: Life, silence_s: number): boolean {
  return life === "elsewhere" && silence_s > LONG_SILENCE_S;
}

/** What to say of a run that knows more than this version does; empty when there is nothing to say. */
export function newerThanThis({ plan }: RunState): string {
  // A version that is no number is NaN here: not of a vocabulary that is known.
  if (plan === null || plan.version <= SCHEMA) return "";
  const writer = plan.versions["dlfb-lab"] as string | undefined;
  const which = writer === undefined ? "a newer dlfb_lab" : `dlfb_lab ${writer}, which is newer than this view`;
  return `This run was written by ${which}; what this version does not know is left out.`;
}
