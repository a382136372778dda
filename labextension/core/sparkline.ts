// Small curves as SVG paths in a box of 100 by 100, which the browser stretches: no canvas, no sizes to watch.

import type { Span } from "./chart";
import { toNumber } from "./runState";
import type { JsonFloat } from "./events";

const BOX = 100;
const LOG_FROM = 30;

export interface Points {
  xs: readonly number[];
  /** what is not finite breaks the line */
  ys: readonly number[];
}

/**
 * A line through the points, broken where a value is missing, and where two neighbours are further apart than `gap`.
 * A point alone is a path of no length, which a round line cap draws as a dot.
 */
export function linePath(points: Points, x: Span, y: Span, gap = Infinity): string {
  return pieces(points, x, y, gap)
    .map((piece) => (piece.length === 1 ? `M${piece[0]}h0` : `M${piece.join("L")}`))
    .join("");
}

/** What lies between the line and the bottom. */
export function areaPath(points: Points, x: Span, y: Span, gap = Infinity): string {
  return pieces(points, x, y, gap)
    .filter((piece) => piece.length > 1)
    .map((piece) => `M${before(piece[0])} ${BOX}L${piece.join("L")}L${before(piece[piece.length - 1])} ${BOX}Z`)
    .join("");
}

/** Where losses are drawn: logarithmic where they are all positive and fall by orders of magnitude. */
export interface LossCurves {
  train: string;
  valid: string;
}

export function lossCurves(
  train: { steps: readonly number[]; losses: readonly JsonFloat[] },
  valid: { steps: readonly number[]; values: readonly JsonFloat[] },
  from = 0,
): LossCurves {
  const lines = [
    { xs: train.steps, ys: train.losses.map(toNumber) },
    { xs: valid.steps, ys: valid.values.map(toNumber) },
  ];
  const finite = lines.flatMap(({ ys }) => ys.filter(Number.isFinite));
  if (finite.length === 0) return { train: "", valid: "" };
  const isLog = Math.min(...finite) > 0 && Math.max(...finite) > LOG_FROM * Math.min(...finite);
  const to = isLog ? Math.log : (loss: number): number => loss;
  const y = room(Math.min(...finite.map(to)), Math.max(...finite.map(to)));
  const x: Span = [from, Math.max(from + 1, ...lines.flatMap(({ xs }) => xs))];
  const [trained, validated] = lines.map(({ xs, ys }) => linePath({ xs, ys: ys.map(to) }, x, y));
  return { train: trained, valid: validated };
}

function pieces({ xs, ys }: Points, x: Span, y: Span, gap: number): string[][] {
  const found: string[][] = [];
  let last = -Infinity;
  for (let i = 0; i < xs.length; i++) {
    if (!Number.isFinite(ys[i])) {
      last = -Infinity;
      continue;
    }
    if (xs[i] - last > gap || last === -Infinity) found.push([]);
    last = xs[i];
    found[found.length - 1].push(`${place(xs[i], x)} ${rounded(BOX - place(ys[i], y))}`);
  }
  return found;
}

function place(value: number, [from, to]: Span): number {
  return rounded((BOX * (value - from)) / (to - from || 1));
}

function rounded(value: number): number {
  return Math.round(value * 10) / 10;
}

function before(point: string): string {
  return point.slice(0, point.indexOf(" "));
}

function room(low: number, high: number): Span {
  const half = high > low ? 0 : Math.abs(high) * 0.1 || 1;
  return [low - half, high + half];
}
