// What each chart shows of a run.

import { edges, forkedAt, fullSpan, SMOOTH_FROM, SMOOTH_PARTS, span } from "./axes";
import type { Content, HorizontalLine, Line, Mark, Ring, Row, Span, Tick } from "./chart";
import { bytes, count, deviation, plural, value } from "./format";
import { brokenMembers, deviationOf, memberBand, scoreBand, spreadRows } from "./members";
import { partLine, partRows, scoreParts } from "./parts";
import { epochAt } from "./progress";
import { evaluationsOf, type RunState, type Scores } from "./runState";

const MOST_METRICS = 8;
/** That the tooltip says of a checkpoint. */
const MOST_SCORES = 3;

/** The metrics that get a chart: those of the validation part, known at once when its baselines are, and of training. */
export function metricNames(state: RunState): string[] {
  const evaluations = evaluationsOf(state, "valid");
  const expected = (state.plan?.rows.valid ?? 0) > 0 ? state.baselines.filter((b) => b.split === "valid") : [];
  const names = new Set<string>();
  for (const { metrics } of evaluations.length > 0 ? evaluations : expected) {
    for (const [name, score] of Object.entries(metrics)) if (name !== "loss" && Number.isFinite(score)) names.add(name);
  }
  for (const name of scoreParts(state)) names.add(name);
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
  const band = memberBand(state, x, smoothed === null ? 0 : (x[1] - x[0]) / SMOOTH_PARTS);
  const single: Line = {
    ...raw,
    color: "train",
    width: band === null ? 1 : 1.75,
    dots: shown < 60 ? "circle" : undefined,
  };
  const scores = scoreLines(state, "loss");
  // Where there is a band, it says more than each step's mean around the smooth line.
  const lines = smoothed === null ? [single] : band === null ? [{ ...single, alpha: 0.35 }, smoothed] : [smoothed];
  lines.push(...scores);
  const bands = [band, scoreBand(state, "loss")].filter((found) => found !== null);
  const levels = levelsOf(state, "loss");
  const y = span(
    [smoothed ?? single, ...scores, ...bands.flatMap(edges)],
    band === null ? single : null,
    levels,
    x,
    log,
  );
  const ring = ringOf(state, "loss");
  return {
    x,
    y,
    log,
    lines,
    bands,
    levels,
    marks: marksOf(state),
    ticks: ticksOf(state),
    ring,
    label: lossLabel(state),
  };
}

export function metricContent(state: RunState, metric: string, zoom: Span | null): Content {
  const x = zoom ?? fullSpan(state);
  const lines = scoreLines(state, metric);
  if (scoreParts(state).includes(metric)) lines.unshift(partLine(state, metric, x, "train"));
  const band = scoreBand(state, metric);
  const bands = band === null ? [] : [band];
  const levels = levelsOf(state, metric);
  const y = span([...lines, ...bands.flatMap(edges)], null, levels, x, false);
  const last = latest(state, metric);
  const label = `${metric} on the validation data${last === null ? "" : `: ${value(last)}`}`;
  return { x, y, log: false, lines, bands, levels, marks: [], ticks: [], ring: ringOf(state, metric), label };
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
    rows.push(...spreadRows(state, step, reach));
  }
  rows.push(...partRows(state, metric, step, reach));
  for (const split of splitsOf(state)) {
    const scores = nearest(evaluationsOf(state, split), step);
    if (scores === null || !(metric in scores.metrics) || Math.abs(scores.step - step) > reach) continue;
    const label = `${split} ${metric} (step ${count(scores.step)})`;
    const score = value(scores.metrics[metric]);
    const around = deviation(deviationOf(scores, metric));
    rows.push({ label, value: `${score} ${around}`.trim(), color: split === "valid" ? "valid" : "other" });
  }
  for (const { y, label } of levelsOf(state, metric)) rows.push({ label, value: value(y), color: "baseline" });
  return rows;
}

export function splitsOf(state: RunState): string[] {
  return [...new Set(state.evaluations.map((scores) => scores.split))];
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
  const fork = forkedAt(state);
  if (fork !== null) marks.push({ x: fork, color: "other", text: `began here, from ${originOf(state)}` });
  for (const { step, planned, program, cause } of state.compilations) {
    if (!planned) marks.push({ x: step, color: "warning", text: `compiled again: ${program}: ${cause}` });
  }
  for (const { step, level, text } of state.notices) {
    if (level === "warning") marks.push({ x: step, color: "warning", text });
  }
  state.plans.forEach(({ step, plan, reason }, i) => {
    if (i > 0 && step > 0 && plan !== state.plans[i - 1].plan)
      marks.push({ x: step, color: "muted", text: `${plan} from here: ${reason}` });
  });
  for (const { step, text } of brokenMembers(state)) marks.push({ x: step, color: "bad", text });
  const broken = state.members === null ? state.losses.firstNonFiniteStep : null;
  if (broken !== null)
    marks.push({ x: broken, color: "bad", text: `first loss that is not finite: step ${count(broken)}` });
  return marks;
}

/** The checkpoint that the run began from: RUN@STEP; empty where it began anew. */
export function originOf({ plan }: RunState): string {
  return plan === null || plan.parent === "" ? "" : `${plan.parent}@${plan.parent_step}`;
}

/** The checkpoints, each with its size and the scores that were known when it was saved. */
export function ticksOf(state: RunState): Tick[] {
  return state.checkpoints.map(({ step, bytes: size, state: health }) => {
    const scores = evaluationsOf(state, "valid").findLast((found) => found.step <= step)?.metrics ?? {};
    const told = Object.entries(scores).slice(0, MOST_SCORES);
    const parts = [bytes(size), ...told.map(([name, score]) => `${name} ${value(score)}`)];
    const isBad = health !== "complete";
    return {
      x: step,
      color: isBad ? "bad" : "text",
      label: `checkpoint (step ${count(step)})`,
      value: [...(isBad ? [health] : []), ...parts].join(" · "),
    };
  });
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

function nearest(evaluations: readonly Scores[], step: number): Scores | null {
  let found: Scores | null = null;
  for (const scores of evaluations) {
    if (found === null || Math.abs(scores.step - step) <= Math.abs(found.step - step)) found = scores;
  }
  return found;
}
