// What each chart shows of a run.

import type { Content, HorizontalLine, Line, Mark, Ring, Row, Span } from "./chart";
import { count, plural, value } from "./format";
import { epochAt } from "./progress";
import { evaluationsOf, type RunState, type Scores } from "./runState";

const MOST_METRICS = 8;
const SMOOTH_FROM = 200;
const SMOOTH_PARTS = 50;

/** The metrics that get a chart: those of the validation part, known at once when its baselines are. */
export function metricNames(state: RunState): string[] {
  const evaluations = evaluationsOf(state, "valid");
  const expected = (state.plan?.rows.valid ?? 0) > 0 ? state.baselines.filter((b) => b.split === "valid") : [];
  const names = new Set<string>();
  for (const { metrics } of evaluations.length > 0 ? evaluations : expected) {
    for (const [name, score] of Object.entries(metrics)) if (name !== "loss" && Number.isFinite(score)) names.add(name);
  }
  return [...names].slice(0, MOST_METRICS);
}

export function canBeLogarithmic(state: RunState): boolean {
  const { min, count: finite } = state.losses.range(0, state.losses.length);
  return finite > 0 && min > 0 && state.evaluations.every(({ metrics }) => !(metrics.loss <= 0));
}

export function lossContent(state: RunState, zoom: Span | null, log: boolean, columns: number): Content {
  const x = zoom ?? fullSpan(state);
  const { losses } = state;
  const raw = losses.decimate(x[0], x[1], columns);
  const shown = losses.indexAt(x[1] + 1) - losses.indexAt(x[0]);
  const smoothed = shown >= SMOOTH_FROM ? smoothLine(state, x, columns) : null;
  const lines: Line[] = [
    { ...raw, color: "train", width: 1, alpha: smoothed === null ? 1 : 0.35, dots: shown < 60 ? "circle" : undefined },
  ];
  if (smoothed !== null) lines.push(smoothed);
  lines.push(...scoreLines(state, "loss"));
  const levels = levelsOf(state, "loss");
  const y = span([smoothed ?? lines[0], ...lines.slice(1)], lines[0], levels, x, log);
  const ring = ringOf(state, "loss");
  return { x, y, log, lines, levels, marks: marksOf(state), ring, label: lossLabel(state) };
}

export function metricContent(state: RunState, metric: string, zoom: Span | null): Content {
  const lines = scoreLines(state, metric);
  const levels = levelsOf(state, metric);
  const x = zoom ?? fullSpan(state);
  const y = span(lines, null, levels, x, false);
  const last = latest(state, metric);
  const label = `${metric} on the validation data${last === null ? "" : `: ${value(last)}`}`;
  return { x, y, log: false, lines, levels, marks: [], ring: ringOf(state, metric), label };
}

export function latest(state: RunState, metric: string): number | null {
  return evaluationsOf(state, "valid").findLast((scores) => metric in scores.metrics)?.metrics[metric] ?? null;
}

/** Training loss now: the mean of the last few steps, for a single one is noise. */
export function latestLoss(state: RunState): number {
  const { losses } = state;
  const few = Math.max(1, Math.min(100, Math.floor(losses.length / SMOOTH_PARTS)));
  const { sum, count: finite } = losses.range(losses.length - few, losses.length);
  return finite === 0 ? NaN : sum / finite;
}

export function describe(state: RunState, metric: string, step: number, reach: number): Row[] {
  const epoch = epochAt(state, step);
  const rows: Row[] = [
    { label: `step ${count(step)}`, value: Number.isNaN(epoch) ? "" : `epoch ${value(Number(epoch.toFixed(2)))}` },
  ];
  const { losses } = state;
  if (metric === "loss" && losses.length > 0) {
    const half = reach / 8;
    const [from, to] = [losses.indexAt(step - half), losses.indexAt(step + half + 1)];
    const { min, max, sum, count: finite } = losses.range(from, to);
    if (finite > 0) rows.push({ label: "training loss", value: value(sum / finite), color: "train" });
    if (finite > 1)
      rows.push({
        label: `range of ${plural(finite * losses.stride, "step")}`,
        value: `${value(min)} – ${value(max)}`,
      });
    if (finite === 0 && to > from) rows.push({ label: "training loss", value: "not finite", color: "bad" });
  }
  for (const split of splitsOf(state)) {
    const scores = nearest(evaluationsOf(state, split), step);
    if (scores === null || !(metric in scores.metrics) || Math.abs(scores.step - step) > reach) continue;
    const label = `${split} ${metric} (step ${count(scores.step)})`;
    rows.push({ label, value: value(scores.metrics[metric]), color: split === "valid" ? "valid" : "other" });
  }
  for (const { y, label } of levelsOf(state, metric)) rows.push({ label, value: value(y), color: "baseline" });
  return rows;
}

export function splitsOf(state: RunState): string[] {
  return [...new Set(state.evaluations.map((scores) => scores.split))];
}

function fullSpan(state: RunState): Span {
  return [0, state.step > 0 ? state.step : state.plan?.steps_total || 1];
}

function smoothLine(state: RunState, [from, to]: Span, columns: number): Line {
  const { losses } = state;
  const xs: number[] = [];
  const ys: number[] = [];
  const parts = Math.max(2, Math.floor(columns / 2));
  const width = (to - from) / SMOOTH_PARTS;
  for (let i = 0; i <= parts; i++) {
    const x = from + (i * (to - from)) / parts;
    if (x >= losses.endStep) break;
    xs.push(x);
    ys.push(losses.meanAround(x, width));
  }
  return { xs, ys, color: "train", width: 1.75 };
}

function scoreLines(state: RunState, metric: string): Line[] {
  return splitsOf(state).map((split) => {
    const scored = evaluationsOf(state, split).filter(({ metrics }) => metric in metrics);
    const points = { xs: scored.map(({ step }) => step), ys: scored.map(({ metrics }) => metrics[metric]) };
    return split === "valid"
      ? { ...points, color: "valid", width: 1.75, dots: "circle" }
      : { ...points, color: "other", width: 1, dots: "diamond", apart: true };
  });
}

function levelsOf(state: RunState, metric: string): HorizontalLine[] {
  const onValid = state.baselines.filter(({ split }) => split === "valid");
  const chosen = onValid.length > 0 ? onValid : state.baselines;
  return chosen
    .filter(({ metrics }) => Number.isFinite(metrics[metric]))
    .map(({ name, metrics }) => ({ y: metrics[metric], label: name }));
}

function marksOf(state: RunState): Mark[] {
  const marks: Mark[] = [];
  for (const { step, planned, program, cause } of state.compilations) {
    if (!planned) marks.push({ x: step, color: "warning", text: `compiled again: ${program}: ${cause}` });
  }
  for (const { step, level, text } of state.notices) {
    if (level === "warning") marks.push({ x: step, color: "warning", text });
  }
  const broken = state.losses.firstNonFiniteStep;
  if (broken !== null)
    marks.push({ x: broken, color: "bad", text: `first loss that is not finite: step ${count(broken)}` });
  return marks;
}

function ringOf(state: RunState, metric: string): Ring | null {
  const { best } = state;
  if (best === null) return null;
  const scores = evaluationsOf(state, best.column.slice(0, best.column.indexOf("/"))).find((s) => s.step === best.step);
  const y = scores?.metrics[metric];
  return y === undefined || !Number.isFinite(y) ? null : { x: best.step, y };
}

function lossLabel(state: RunState): string {
  const valid = latest(state, "loss");
  const parts = [`training loss ${value(latestLoss(state))}`];
  if (valid !== null) parts.push(`validation loss ${value(valid)}`);
  return `Loss at step ${count(state.step)}: ${parts.join(", ")}`;
}

/**
 * The y axis of the lines between two steps. Single wild losses stretch it to twice its height at most, and a baseline
 * far away is named at the edge instead of pressing the lines flat.
 */
function span(lines: readonly Line[], raw: Line | null, levels: HorizontalLine[], x: Span, log: boolean): Span {
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

function nearest(evaluations: readonly Scores[], step: number): Scores | null {
  let found: Scores | null = null;
  for (const scores of evaluations) {
    if (found === null || Math.abs(scores.step - step) <= Math.abs(found.step - step)) found = scores;
  }
  return found;
}
