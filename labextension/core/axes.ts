// What the axes of a chart span, and from how many steps on its lines are smoothed.

import type { Band, HorizontalLine, Line, Span } from "./chart";
import type { RunState } from "./runState";

export const SMOOTH_FROM = 200;
/** Of what is shown; each smoothed value is the mean of one of so many parts. */
export const SMOOTH_PARTS = 50;
/** Of what is shown, before the step where a run began that goes on from another. */
const FORK_MARGIN = 0.06;

/** All steps; of a run that began from another's checkpoint those since then, and a little before. */
export function fullSpan(state: RunState): Span {
  const end = state.step > 0 ? state.step : state.plan?.steps_total || 1;
  const from = forkedAt(state);
  return from === null || from >= end ? [0, end] : [Math.max(0, from - Math.max(1, FORK_MARGIN * (end - from))), end];
}

/** The step of the checkpoint that the run began from; null where it began anew. */
export function forkedAt({ plan }: RunState): number | null {
  return plan === null || plan.parent === "" ? null : plan.parent_step;
}

export function edges({ xs, low, high }: Band): Line[] {
  return [low, high].map((ys) => ({ xs, ys, color: "train", width: 0 }));
}

/**
 * The y axis of the lines between two steps. Single wild losses stretch it to twice its height at most, and a baseline
 * far away is named at the edge instead of pressing the lines flat.
 */
export function span(lines: readonly Line[], raw: Line | null, levels: HorizontalLine[], x: Span, log: boolean): Span {
  const to = log ? Math.log10 : (y: number): number => y;
  const back = log ? (y: number): number => 10 ** y : (y: number): number => y;
  let [low, high] = extent(lines, x, to);
  const [rawLow, rawHigh] = raw === null ? [low, high] : extent([raw], x, to);
  const height = high - low || Math.abs(high) * 0.1 || 1;
  [low, high] = [Math.max(Math.min(low, rawLow), low - height), Math.min(Math.max(high, rawHigh), high + height)];
  const room = 2 * (high - low || height);
  for (const y of levels
    .map((level) => to(level.y))
    .filter(Number.isFinite)
    .sort((a, b) => Math.abs(a) - Math.abs(b))) {
    if (!Number.isFinite(low)) [low, high] = [y, y];
    if (y >= low - room) low = Math.min(low, y);
    if (y <= high + room && y >= low) high = Math.max(high, y);
  }
  if (!Number.isFinite(low)) return log ? [0.1, 1] : [0, 1];
  const pad = (high - low) * 0.08 || Math.abs(high) * 0.05 || 0.5;
  return [back(low - pad), back(high + pad)];
}

function extent(lines: readonly Line[], [from, until]: Span, to: (y: number) => number): Span {
  let low = Infinity;
  let high = -Infinity;
  for (const { xs, ys } of lines) {
    for (let i = 0; i < xs.length; i++) {
      const y = to(ys[i]);
      if (xs[i] < from || xs[i] > until || !Number.isFinite(y)) continue;
      if (y < low) low = y;
      if (y > high) high = y;
    }
  }
  return [low, high];
}
