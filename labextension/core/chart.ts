// One chart over the step axis. uPlot gives the axes, the scales and the cursor; the layers are drawn here,
// because each has steps of its own.

import uPlot from "uplot";

import { el, setText } from "./dom";
import { tick } from "./format";
import { drawBand, drawDots, drawLevels, drawLine, drawMarks, drawRing, drawTicks, within } from "./layers";
import type { Color, Palette } from "./palette";

export type Span = [number, number];

export interface Line {
  xs: readonly number[];
  ys: readonly number[];
  color: Color;
  width: number;
  alpha?: number;
  dots?: "circle" | "diamond";
  /** only its dots are drawn */
  apart?: boolean;
}

/** What lies between two lines. */
export interface Band {
  xs: readonly number[];
  low: readonly number[];
  high: readonly number[];
  color: Color;
}

/** A labelled horizontal line. */
export interface HorizontalLine {
  y: number;
  label: string;
}

/** The best score. */
export interface Ring {
  x: number;
  y: number;
}

/** Something that happened at a step. */
export interface Mark {
  x: number;
  color: Color;
  text: string;
}

/** Something small at a step, on the axis. */
export interface Tick {
  x: number;
  color: Color;
  label: string;
  value: string;
}

export interface Content {
  x: Span;
  y: Span;
  log: boolean;
  lines: Line[];
  bands: Band[];
  levels: HorizontalLine[];
  marks: Mark[];
  ticks: Tick[];
  ring: Ring | null;
  label: string;
}

export interface Row {
  label: string;
  value: string;
  color?: Color;
}

export interface Hooks {
  /** What the tooltip says at a step; values within `reach` steps count as being there. */
  describe(step: number, reach: number): Row[];
  zoom(span: Span | null): void;
}

const WHOLE_STEPS = Array.from({ length: 10 }, (_, power) => [1, 2, 5].map((digit) => digit * 10 ** power)).flat();

export class Chart {
  private plot: uPlot | null = null;
  private content: Content | null = null;
  private palette: Palette | null = null;
  private log = false;
  private tip = el("div", "dlfb-tip");

  constructor(
    private host: HTMLElement,
    private syncKey: string,
    private hooks: Hooks,
  ) {
    host.setAttribute("role", "img");
    this.tip.hidden = true;
    host.append(this.tip);
  }

  /** Plotting width in CSS pixels; 0 while the chart is not laid out. */
  get width(): number {
    return this.host.clientWidth;
  }

  draw(content: Content, palette: Palette): void {
    const size = { width: this.host.clientWidth, height: this.host.clientHeight };
    if (size.width < 40 || size.height < 40) return;
    this.content = content;
    this.palette = palette;
    if (this.host.ariaLabel !== content.label) this.host.ariaLabel = content.label;
    if (this.plot !== null && this.log !== content.log) this.discard();
    this.log = content.log;
    this.plot ??= this.create(size, palette);
    if (this.plot.width !== size.width || this.plot.height !== size.height) this.plot.setSize(size);
    this.plot.setData([[...content.x], [...content.y]]);
    if (!this.tip.hidden) this.hover(this.plot);
  }

  discard(): void {
    this.plot?.destroy();
    this.plot = null;
    this.tip.hidden = true;
  }

  private create(size: { width: number; height: number }, { font }: Palette): uPlot {
    const small = size.height < 140;
    const color =
      (name: Color): (() => string) =>
      () =>
        this.palette?.[name] ?? "gray";
    const axis: uPlot.Axis = {
      stroke: color("muted"),
      grid: { stroke: color("grid"), width: 1 },
      ticks: { show: false },
      font: `${small ? 10 : 11}px ${font}`,
      gap: 4,
      values: (_, splits) => splits.map((split) => ((split as number | null) === null ? "" : tick(split))),
    };
    const options: uPlot.Options = {
      ...size,
      padding: [6, 14, 0, 0],
      legend: { show: false },
      scales: {
        x: { time: false, range: () => this.content?.x ?? [0, 1] },
        // The enum exists only in uPlot's types, so its values stand here: logarithmic and linear.
        // eslint-disable-next-line @typescript-eslint/no-unsafe-enum-assignment
        y: { distr: this.log ? 3 : 1, range: () => this.content?.y ?? [0, 1] },
      },
      series: [{}, { paths: () => null, points: { show: false } }],
      axes: [
        { ...axis, incrs: WHOLE_STEPS, size: 20, space: small ? 44 : 56 },
        {
          ...axis,
          size: (_, values) => axisWidth(values, small),
          space: small ? 22 : 30,
          ...(this.log ? { filter: logLabels, grid: { ...axis.grid, filter: logLabels } } : {}),
        },
      ],
      cursor: {
        y: false,
        points: { show: false },
        drag: { x: true, y: false, setScale: false, dist: 6 },
        sync: { key: this.syncKey, scales: ["x", null] },
        bind: {
          dblclick: () => () => {
            this.hooks.zoom(null);
            return null;
          },
        },
      },
      hooks: {
        draw: [
          (plot) => {
            this.paint(plot);
          },
        ],
        setCursor: [
          (plot) => {
            this.hover(plot);
          },
        ],
        setSelect: [
          (plot) => {
            this.select(plot);
          },
        ],
      },
    };
    return new uPlot(
      options,
      [
        [0, 1],
        [0, 1],
      ],
      this.host,
    );
  }

  private paint(plot: uPlot): void {
    if (this.content === null || this.palette === null) return;
    const { lines, bands, levels, marks, ticks, ring } = this.content;
    within(plot, 0, () => {
      if (this.palette === null) return;
      for (const band of bands) drawBand(plot, band, this.palette, this.log);
      drawLevels(plot, levels, this.palette);
      drawMarks(plot, marks, this.palette);
      for (const line of lines) drawLine(plot, line, this.palette);
    });
    // Dots lie on the edge while a run goes on, and must not be cut there.
    within(plot, 7, () => {
      if (this.palette === null) return;
      for (const line of lines) drawDots(plot, line, this.palette);
      drawTicks(plot, ticks, this.palette);
      if (ring !== null) drawRing(plot, ring, this.palette);
    });
  }

  private hover(plot: uPlot): void {
    const { left = -1, event } = plot.cursor;
    const here = left >= 0 && event?.target instanceof Node && plot.root.contains(event.target);
    this.tip.hidden = !here;
    if (!here || this.content === null || this.palette === null) return;
    const reach = Math.max(1, plot.posToVal(8, "x") - plot.posToVal(0, "x"));
    const step = Math.max(0, Math.round(plot.posToVal(left, "x")));
    const rows = this.hooks.describe(step, reach);
    for (const mark of this.content.marks) {
      if (Math.abs(mark.x - step) <= reach) rows.push({ label: "", value: mark.text, color: mark.color });
    }
    const nearest = this.content.ticks
      .filter(({ x }) => Math.abs(x - step) <= reach)
      .sort((a, b) => Math.abs(a.x - step) - Math.abs(b.x - step))
      .at(0);
    if (nearest !== undefined) rows.push(nearest);
    this.tip.replaceChildren(...rows.map((row) => tipRow(row, this.palette)));
    const right = left > plot.over.clientWidth / 2;
    const edge = plot.over.offsetLeft + left;
    this.tip.style.left = right ? "" : `${edge + 10}px`;
    this.tip.style.right = right ? `${this.host.clientWidth - edge + 10}px` : "";
  }

  private select(plot: uPlot): void {
    const { left, width } = plot.select;
    if (width < 6) return;
    const span: Span = [Math.max(0, plot.posToVal(left, "x")), plot.posToVal(left + width, "x")];
    if (span[1] - span[0] >= 1) this.hooks.zoom(span);
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  }
}

/** Labels on a logarithmic axis: the powers of ten, and 2 and 5 between them while there is room. */
function logLabels(plot: uPlot, splits: number[]): (number | null)[] {
  const { min = 1, max = 10 } = plot.scales.y;
  const perDecade = plot.bbox.height / uPlot.pxRatio / Math.log10(max / min);
  const digits = perDecade < 50 ? ["1"] : ["1", "2", "5"];
  return splits.map((split) => (digits.includes(split.toExponential(0)[0]) && isRound(split) ? split : null));
}

function isRound(x: number): boolean {
  return Math.abs(Number(x.toExponential(0)) / x - 1) < 1e-6;
}

function axisWidth(values: string[] | null, small: boolean): number {
  const longest = Math.max(2, ...(values ?? []).map((text) => text.length));
  return Math.ceil(longest * (small ? 5.6 : 6.2)) + 8;
}

function tipRow(row: Row, palette: Palette | null): HTMLElement {
  const line = el("div", "dlfb-tip-row");
  if (row.color !== undefined && palette !== null) {
    const swatch = el("i", "dlfb-swatch");
    swatch.style.background = palette[row.color];
    line.append(swatch);
  }
  const label = el("span", "dlfb-tip-label");
  setText(label, row.label);
  const text = el("span");
  setText(text, row.value);
  line.append(label, text);
  return line;
}
