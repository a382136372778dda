// The picture of a test of learning rates: the loss at each, on a logarithmic axis, and the rate that was chosen.

import { tick, value } from "./format";
import type { RateTrial, RunState } from "./runState";

const NAMESPACE = "http://www.w3.org/2000/svg";
const EDGES = { left: 44, right: 16, top: 18, bottom: 22 };

/** The test to show while it is the newest thing: no step has been trained since. */
export function newestTrial({ rateTests, losses }: RunState): RateTrial | null {
  return losses.length === 0 ? (rateTests.at(-1) ?? null) : null;
}

/** The losses up to where training broke down: what lies far above the first would press the rest flat. */
export function untilItBreaks(losses: ArrayLike<number>): number[] {
  const all = Array.from(losses);
  const finite = all.filter(Number.isFinite);
  if (finite.length === 0) return [];
  const lowest = Math.min(...finite);
  const limit = finite[0] + Math.max(finite[0] - lowest, 0.1 * Math.abs(finite[0]));
  const from = all.indexOf(lowest);
  const end = all.findIndex((loss, i) => i > from && !(loss <= limit));
  if (end < 0) return all;
  return Number.isFinite(all[end]) ? [...all.slice(0, end), limit] : all.slice(0, end);
}

export function rateFigure({ rates, losses, chosen }: RateTrial, width: number, height: number): SVGSVGElement {
  const figure = node("svg", { width, height, viewBox: `0 0 ${width} ${height}`, class: "dlfb-rates", role: "img" });
  figure.setAttribute("aria-label", `Loss at ${rates.length} learning rates; ${value(chosen)} was chosen`);
  const drawn = untilItBreaks(losses).map((loss, i): [number, number] => [Math.log10(rates[i]), loss]);
  const points = drawn.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y));
  if (points.length < 2) return figure;
  const [first, last] = [Math.log10(rates[0]), Math.log10(rates[rates.length - 1])];
  const ys = points.map(([, y]) => y);
  const pad = (Math.max(...ys) - Math.min(...ys)) * 0.08 || 0.5;
  const [low, high] = [Math.min(...ys) - pad, Math.max(...ys) + pad];
  const { left, right, top, bottom } = EDGES;
  const px = (x: number): number => left + ((width - left - right) * (x - first)) / (last - first || 1);
  const py = (y: number): number => height - bottom - ((height - top - bottom) * (y - low)) / (high - low);
  for (const y of roundValues(low, high)) {
    figure.append(
      node("path", { d: `M${left} ${py(y)}H${width - right}`, class: "dlfb-rates-grid" }),
      text(tick(y), left - 5, py(y) + 4, "end"),
    );
  }
  const decades = Array.from({ length: Math.floor(last) - Math.ceil(first) + 1 }, (_, i) => Math.ceil(first) + i);
  const every = Math.max(1, Math.ceil((decades.length * 52) / (width - left - right)));
  for (const decade of decades.filter((_, i) => i % every === 0))
    figure.append(text(tick(10 ** decade), px(decade), height - 6, "middle"));
  const at = Math.log10(chosen);
  if (at >= first && at <= last) {
    const beyond = px(at) > width / 2;
    const label = text(`${value(chosen)} was chosen`, px(at) + (beyond ? -5 : 5), top - 6, beyond ? "end" : "start");
    figure.append(node("path", { d: `M${px(at)} ${top - 14}V${height - bottom}`, class: "dlfb-rates-chosen" }), label);
  }
  const line = points.map(([x, y]) => `${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join("L");
  figure.append(node("path", { d: `M${line}`, class: "dlfb-rates-line" }));
  return figure;
}

/** Some four round numbers between two values. */
function roundValues(low: number, high: number): number[] {
  const raw = (high - low) / 4;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((digit) => digit * size).find((candidate) => candidate >= raw) ?? raw;
  const found: number[] = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}

function node<Tag extends keyof SVGElementTagNameMap>(
  tag: Tag,
  attributes: Record<string, string | number>,
): SVGElementTagNameMap[Tag] {
  const made = document.createElementNS(NAMESPACE, tag);
  for (const [name, given] of Object.entries(attributes)) made.setAttribute(name, String(given));
  return made;
}

function text(said: string, x: number, y: number, anchor: string): SVGTextElement {
  const made = node("text", { x, y, "text-anchor": anchor });
  made.textContent = said;
  return made;
}
