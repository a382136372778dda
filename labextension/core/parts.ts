// The other scalars of a training step: the parts of the loss, which share a chart, and scores, which have their own.

import { fullSpan, SMOOTH_FROM, SMOOTH_PARTS, span } from "./axes";
import type { Content, Line, Row, Span } from "./chart";
import { value } from "./format";
import type { MeanSeries } from "./meanSeries";
import type { Color } from "./palette";
import type { RunState } from "./runState";

const POINTS = 400;
const MOST_PARTS = 8;
/** Parts that lie further apart than this are drawn on a logarithmic axis: the small ones matter too. */
const LOG_FROM = 30;
const SCORES = /acc|auc|f1|hits|mrr|precision|recall|r2|iou|dice|norm|perplexity|usage|rate|ratio|^lr$/;

export interface Part {
  name: string;
  color: Color;
  latest: number;
}

/** Those that are drawn together beneath the loss. */
export function lossParts(state: RunState): Part[] {
  return partNames(state, true)
    .slice(0, MOST_PARTS)
    .map(([name, series], i) => ({ name, color: `part${i + 1}` as Color, latest: latestOf(state, series) }));
}

/** Those that are scores, such as an accuracy on the batches of training. */
export function scoreParts(state: RunState): string[] {
  return partNames(state, false).map(([name]) => name);
}

/** How many parts of the loss have no room in the chart. */
export function partsLeftOut(state: RunState): number {
  return Math.max(0, partNames(state, true).length - MOST_PARTS);
}

/**
 * Whether a part can share the loss's axis, by its name, else by its first value beside the loss's.
 * `looks_like_loss` in dlfb_lab/record.py says the same.
 */
export function looksLikeLoss(name: string, first: number, firstLoss: number): boolean {
  if (name.toLowerCase().endsWith("loss")) return true;
  if (SCORES.test(name.toLowerCase())) return false;
  return !Number.isFinite(first) || !Number.isFinite(firstLoss) || Math.abs(first) <= 10 * Math.abs(firstLoss);
}

export function partsContent(state: RunState, zoom: Span | null, log: boolean): Content {
  const x = zoom ?? fullSpan(state);
  const parts = lossParts(state);
  const lines = parts.map(({ name, color }) => partLine(state, name, x, color));
  const ys = lines.flatMap((line) => line.ys.filter(Number.isFinite));
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const isLog = low > 0 && (log || high > LOG_FROM * low);
  const y = span(lines, null, [], x, isLog);
  const label = `Parts of the loss: ${parts.map(({ name, latest }) => `${name} ${value(latest)}`).join(", ")}`;
  return { x, y, log: isLog, lines, bands: [], levels: [], marks: [], ticks: [], ring: null, label };
}

/** Smooth where there are many steps: several noisy lines on top of each other say nothing. */
export function partLine(state: RunState, name: string, [from, to]: Span, color: Color): Line {
  const { losses } = state;
  const shown = losses.indexAt(to + 1) - losses.indexAt(from);
  const width = shown >= SMOOTH_FROM ? (to - from) / SMOOTH_PARTS : 0;
  const points = state.parts.get(name)?.line(0, from, to, width, POINTS) ?? { xs: [], ys: [] };
  return { ...points, color, width: 1.5, dots: shown < 60 ? "circle" : undefined };
}

export function partRows(state: RunState, metric: string, step: number, reach: number): Row[] {
  const series = state.parts.get(metric);
  if (series === undefined) return [];
  const { mean } = series.spreadAt(step, reach / 4);
  return Number.isNaN(mean) ? [] : [{ label: `training ${metric}`, value: value(mean), color: "train" }];
}

/** What the tooltip of the chart of parts says beside the step. */
export function describeParts(state: RunState, step: number, reach: number): Row[] {
  return lossParts(state).map(({ name, color }) => ({
    label: name,
    value: value(state.parts.get(name)?.spreadAt(step, reach / 4).mean ?? NaN),
    color,
  }));
}

/** The mean of the last few steps, for a single one is noise. */
export function latestOf({ losses }: RunState, series: MeanSeries): number {
  if (losses.length < SMOOTH_FROM) return series.latest[0];
  return series.spreadAt(losses.endStep - losses.stride, Math.min(100, losses.length / SMOOTH_PARTS)).mean;
}

function partNames(state: RunState, areLosses: boolean): [string, MeanSeries][] {
  const { losses } = state;
  const firstLoss = firstFinite(state);
  return losses.length === 0
    ? []
    : [...state.parts].filter(([name, { first }]) => looksLikeLoss(name, first[0], firstLoss) === areLosses);
}

function firstFinite({ losses }: RunState): number {
  for (let i = 0; i < losses.length; i++) if (Number.isFinite(losses.valueAt(i))) return losses.valueAt(i);
  return NaN;
}
