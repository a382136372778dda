// Where a run stands and how long it will still take, from its state alone.

import type { PlanChosen } from "./events";
import { duration } from "./format";
import type { Pace, RunState } from "./runState";
import { evaluationsOf, toNumber } from "./runState";

export interface TimeLeft {
  /** NaN until the first losses have been timed */
  train_s: number;
  /** NaN until the first evaluation has been timed; 0 when none is planned */
  evaluate_s: number;
}

export function secondsPerStep(recent: readonly Pace[]): number {
  let steps = 0;
  let seconds = 0;
  for (const pace of recent) {
    steps += pace.steps;
    seconds += pace.duration_s;
  }
  return steps === 0 ? NaN : seconds / steps;
}

export function timeLeft(state: RunState): TimeLeft {
  if (state.plan === null) return { train_s: NaN, evaluate_s: NaN };
  const steps = Math.max(0, state.plan.steps_total - state.step);
  const done = evaluationsOf(state, "valid");
  const evaluations = Math.max(0, state.plan.evaluations_total - done.length);
  const mean_s = done.reduce((sum, scores) => sum + scores.duration_s, 0) / done.length;
  return {
    train_s: steps === 0 ? 0 : steps * secondsPerStep(state.recent),
    evaluate_s: evaluations === 0 ? 0 : evaluations * mean_s,
  };
}

/** Epochs done at a step; NaN when the plan is not known. */
export function epochAt(state: RunState, step: number): number {
  const perEpoch = state.plan?.steps_per_epoch ?? 0;
  return perEpoch > 0 ? step / perEpoch : NaN;
}

export function median(values: readonly number[]): number {
  if (values.length === 0) return NaN;
  const sorted = Float64Array.from(values).sort();
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Seconds for one launch of the training program, and the steps that it takes. */
export function dispatchTimes(state: RunState): { dispatch_s: number; steps: number } {
  const launched = state.recent.filter(({ dispatches }) => dispatches > 0);
  return {
    dispatch_s: median(launched.map((pace) => pace.duration_s / pace.dispatches)),
    steps: median(launched.map((pace) => pace.steps / pace.dispatches)),
  };
}

/** How steps are run, and what was measured: "fused: 0.04 ms a step against 0.25 ms one by one". */
export function planText({ plan, reason, step_s, fused_step_s }: PlanChosen): string {
  const alone = toNumber(step_s);
  const fused = toNumber(fused_step_s);
  const [own, other, others] = plan === "fused" ? [fused, alone, "one by one"] : [alone, fused, "fused"];
  if (!Number.isFinite(own)) return `${plan}: ${reason}`;
  return `${plan}: ${duration(own)} a step${Number.isFinite(other) ? ` against ${duration(other)} ${others}` : ""}`;
}
