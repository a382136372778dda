// What is drawn on a chart's canvas, in canvas pixels.

import uPlot from "uplot";

import type { Band, HorizontalLine, Line, Mark, Ring, Tick } from "./chart";
import { value } from "./format";
import type { Palette } from "./palette";

/** Draws inside the plotting area, widened by `margin` CSS pixels. */
export function within(plot: uPlot, margin: number, draw: () => void): void {
  const { ctx, bbox } = plot;
  const m = margin * uPlot.pxRatio;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left - m, bbox.top - m, bbox.width + 2 * m, bbox.height + 2 * m);
  ctx.clip();
  draw();
  ctx.restore();
}

export function drawLine(
  plot: uPlot,
  { xs, ys, color, width, alpha = 1, apart = false }: Line,
  palette: Palette,
): void {
  if (apart) return;
  const { ctx } = plot;
  ctx.globalAlpha = alpha;
  ctx.strokeStyle = palette[color];
  ctx.lineWidth = width * uPlot.pxRatio;
  ctx.lineJoin = "round";
  ctx.beginPath();
  let pen = false;
  for (let i = 0; i < xs.length; i++) {
    if (!Number.isFinite(ys[i])) {
      pen = false;
      continue;
    }
    const x = plot.valToPos(xs[i], "x", true);
    const y = plot.valToPos(ys[i], "y", true);
    if (pen) ctx.lineTo(x, y);
    else ctx.moveTo(x, y);
    pen = true;
  }
  ctx.stroke();
  ctx.globalAlpha = 1;
}

/** Fills between two lines, wherever both have a value. On a logarithmic axis what is not positive lies at its foot. */
export function drawBand(plot: uPlot, { xs, low, high, color }: Band, palette: Palette, log: boolean): void {
  const { ctx } = plot;
  const { min = 0 } = plot.scales.y;
  const y = (value: number): number => plot.valToPos(log ? Math.max(value, min) : value, "y", true);
  ctx.globalAlpha = 0.18;
  ctx.fillStyle = palette[color];
  for (let i = 0; i < xs.length;) {
    let end = i;
    while (end < xs.length && Number.isFinite(low[end]) && Number.isFinite(high[end])) end++;
    ctx.beginPath();
    for (let j = i; j < end; j++) ctx.lineTo(plot.valToPos(xs[j], "x", true), y(high[j]));
    for (let j = end - 1; j >= i; j--) ctx.lineTo(plot.valToPos(xs[j], "x", true), y(low[j]));
    ctx.fill();
    i = end + 1;
  }
  ctx.globalAlpha = 1;
}

/** Dots that shrink where there are many, and are left out where they would run together. */
export function drawDots(plot: uPlot, { xs, ys, color, dots }: Line, palette: Palette): void {
  if (dots === undefined) return;
  const ratio = uPlot.pxRatio;
  const spacing = plot.bbox.width / ratio / Math.max(1, xs.length);
  const radius = dots === "diamond" ? 5 : Math.min(2.5, spacing / 3);
  if (radius < 0.8) return;
  plot.ctx.fillStyle = palette[color];
  for (let i = 0; i < xs.length; i++) {
    if (Number.isFinite(ys[i]) && isInside(plot, xs[i], ys[i])) drawDot(plot, dots, xs[i], ys[i], radius * ratio);
  }
}

export function drawRing(plot: uPlot, { x, y }: Ring, palette: Palette): void {
  if (!isInside(plot, x, y)) return;
  const { ctx } = plot;
  ctx.strokeStyle = palette.valid;
  ctx.lineWidth = 1.75 * uPlot.pxRatio;
  ctx.beginPath();
  ctx.arc(plot.valToPos(x, "x", true), plot.valToPos(y, "y", true), 5.5 * uPlot.pxRatio, 0, 2 * Math.PI);
  ctx.stroke();
}

function isInside({ scales }: uPlot, x: number, y: number): boolean {
  const within = ({ min = -Infinity, max = Infinity }: uPlot.Scale, at: number): boolean => at >= min && at <= max;
  return within(scales.x, x) && within(scales.y, y);
}

/** Dashed lines with their names; one that lies outside the chart is named at the edge it lies beyond. */
export function drawLevels(plot: uPlot, levels: readonly HorizontalLine[], palette: Palette): void {
  const { ctx, bbox } = plot;
  const ratio = uPlot.pxRatio;
  const bottom = bbox.top + bbox.height;
  ctx.font = `${10 * ratio}px ${palette.font}`;
  ctx.textBaseline = "alphabetic";
  ctx.textAlign = "left";
  ctx.lineWidth = ratio;
  ctx.setLineDash([5 * ratio, 4 * ratio]);
  let lastY = NaN;
  let lastLeft = NaN;
  for (const { y: level, label } of [...levels].sort((a, b) => a.y - b.y)) {
    const at = plot.valToPos(level, "y", true);
    if (!Number.isFinite(at)) continue;
    const inside = at >= bbox.top && at <= bottom;
    const name = inside ? label : `${at < bbox.top ? "↑" : "↓"} ${label} ${value(level)}`;
    ctx.strokeStyle = palette.baseline;
    if (inside) {
      ctx.beginPath();
      ctx.moveTo(bbox.left, at);
      ctx.lineTo(bbox.left + bbox.width, at);
      ctx.stroke();
    }
    const above = Math.min(bottom - 4 * ratio, at - 4 * ratio);
    const y = above < bbox.top + 10 * ratio ? Math.max(bbox.top, at) + 12 * ratio : above;
    const width = ctx.measureText(name).width;
    const crowded = Math.abs(y - lastY) < 12 * ratio;
    const left = (crowded ? lastLeft - 10 * ratio : bbox.left + bbox.width - 4 * ratio) - width;
    lastY = y;
    lastLeft = left;
    if (left < bbox.left) continue;
    ctx.globalAlpha = 0.75;
    ctx.fillStyle = palette.surface;
    ctx.fillRect(left - 2 * ratio, y - 9 * ratio, width + 4 * ratio, 11 * ratio);
    ctx.globalAlpha = 1;
    ctx.fillStyle = palette.baseline;
    ctx.fillText(name, left, y);
  }
  ctx.setLineDash([]);
}

export function drawMarks(plot: uPlot, marks: readonly Mark[], palette: Palette): void {
  const { ctx, bbox } = plot;
  const ratio = uPlot.pxRatio;
  const half = 4 * ratio;
  ctx.lineWidth = ratio;
  for (const mark of marks) {
    const x = Math.min(bbox.left + bbox.width - ratio, Math.max(bbox.left + ratio, plot.valToPos(mark.x, "x", true)));
    ctx.strokeStyle = ctx.fillStyle = palette[mark.color];
    ctx.globalAlpha = 0.7;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.globalAlpha = 1;
    ctx.beginPath();
    ctx.moveTo(x - half, bbox.top);
    ctx.lineTo(x + half, bbox.top);
    ctx.lineTo(x, bbox.top + 6 * ratio);
    ctx.fill();
  }
}

/** Small triangles that stand on the axis. */
export function drawTicks(plot: uPlot, ticks: readonly Tick[], palette: Palette): void {
  const { ctx, bbox, scales } = plot;
  const ratio = uPlot.pxRatio;
  const bottom = bbox.top + bbox.height;
  const { min = -Infinity, max = Infinity } = scales.x;
  for (const { x: step, color } of ticks) {
    if (step < min || step > max) continue;
    const x = plot.valToPos(step, "x", true);
    ctx.fillStyle = palette[color];
    ctx.strokeStyle = palette.surface;
    ctx.lineWidth = 2 * ratio;
    ctx.beginPath();
    ctx.moveTo(x - 4 * ratio, bottom);
    ctx.lineTo(x + 4 * ratio, bottom);
    ctx.lineTo(x, bottom - 7 * ratio);
    ctx.closePath();
    ctx.stroke();
    ctx.fill();
  }
}

function drawDot(plot: uPlot, shape: "circle" | "diamond", stepX: number, valueY: number, radius: number): void {
  const { ctx } = plot;
  const x = plot.valToPos(stepX, "x", true);
  const y = plot.valToPos(valueY, "y", true);
  ctx.beginPath();
  if (shape === "circle") {
    ctx.arc(x, y, radius, 0, 2 * Math.PI);
  } else {
    ctx.moveTo(x, y - radius);
    ctx.lineTo(x + radius, y);
    ctx.lineTo(x, y + radius);
    ctx.lineTo(x - radius, y);
    ctx.closePath();
  }
  ctx.fill();
}
