// The live picture of one run. It draws from a store, at most once a frame, and only while it can be seen.

import { Chart, type Content, type Span } from "./chart";
import { el, hook, setText } from "./dom";
import { count, value } from "./format";
import { Header } from "./header";
import { latestOfMembers, membersNote } from "./members";
import { readPalette, watchTheme, type Color, type Palette } from "./palette";
import { finalScores, infos, jitTimings, memberScores, rateTest, settings, warnings } from "./panes";
import { describeParts, latestOf, lossParts, partsContent, partsLeftOut, scoreParts } from "./parts";
import { canBeLogarithmic, describe, latest, latestLoss, lossContent, metricContent, metricNames } from "./plots";
import { newestTrial, rateFigure } from "./rateTest";
import type { RunState } from "./runState";
import type { RunStore } from "./runStore";

const TICK_MS = 500;
let mounted = 0;

interface Plot {
  metric: string;
  node: HTMLElement;
  head: HTMLElement;
  chart: Chart;
}

export interface Viewing {
  /** draw only: no buttons, and no word about them */
  readOnly?: boolean;
  /** shows the run whose checkpoint this one began from; without it there is no link */
  openRun?: (run: string) => void;
  /** told when the dashboard comes on the screen, or near it, and when it leaves */
  seen?: (seen: boolean) => void;
}

/** Shows the store's run inside `host`; returns the clean-up. */
export function mountDashboard(host: HTMLElement, store: RunStore, viewing: Viewing = {}): () => void {
  const view = new Dashboard(host, store, viewing);
  return () => {
    view.dispose();
  };
}

class Dashboard {
  private root = el("div", "dlfb-dash");
  private grid = el("div", "dlfb-grid");
  private left = el("div", "dlfb-left");
  private small = el("div", "dlfb-metrics");
  private header: Header;
  private panes = [warnings(), finalScores(), memberScores(), rateTest(), jitTimings(), infos(), settings()];
  private syncKey = `dlfb-${++mounted}`;
  private loss: Plot;
  private parts: Plot;
  private metrics: Plot[] = [];
  private scale = toggle("log", "log", "logarithmic loss axis");
  private unzoom = toggle("unzoom", "whole run", "show all steps again");
  private empty = el("div", "dlfb-empty");
  private trial = hook("div", "trial", "dlfb-trial");
  private log = false;
  private zoom: Span | null = null;
  private palette: Palette | null = null;
  private frame = 0;
  private seen = true;
  private life = new AbortController();

  constructor(
    host: HTMLElement,
    private store: RunStore,
    private viewing: Viewing,
  ) {
    this.header = new Header(store, viewing.readOnly ?? false, viewing.openRun);
    this.loss = this.plot("loss");
    this.loss.node.classList.add("dlfb-loss");
    this.parts = this.plot("parts of the loss", describeParts);
    this.parts.node.classList.add("dlfb-parts");
    this.parts.node.hidden = true;
    this.scale.addEventListener("click", () => {
      this.log = !this.log;
      this.schedule();
    });
    this.unzoom.addEventListener("click", () => {
      this.zoomTo(null);
    });
    const tools = el("div", "dlfb-tools");
    tools.append(this.unzoom, this.scale);
    this.loss.node.querySelector(".dlfb-plot")?.append(tools, this.empty, this.trial);
    this.small.hidden = true;
    this.left.append(this.loss.node, this.parts.node);
    this.grid.append(this.left, this.small);
    const folds = el("div", "dlfb-folds");
    const [warned, scores, ...foldOuts] = this.panes.map((pane) => pane.node);
    folds.append(...foldOuts);
    this.root.append(this.header.node, warned, this.grid, scores, folds);
    this.root.setAttribute("role", "region");
    this.root.ariaLabel = "training run";
    host.append(this.root);
    this.watch();
    this.schedule();
  }

  dispose(): void {
    this.life.abort();
    cancelAnimationFrame(this.frame);
    for (const { chart } of [this.loss, this.parts, ...this.metrics]) chart.discard();
    this.root.remove();
  }

  private watch(): void {
    const { signal } = this.life;
    const schedule = (): void => {
      this.schedule();
    };
    const sizes = new ResizeObserver(schedule);
    sizes.observe(this.root);
    const sight = new IntersectionObserver(
      (entries) => {
        this.seen = entries[entries.length - 1].isIntersecting;
        this.viewing.seen?.(this.seen);
        this.schedule();
      },
      { rootMargin: "200px" },
    );
    sight.observe(this.root);
    const unsubscribe = this.store.subscribe(schedule);
    const ticking = setInterval(() => {
      if (this.store.isLive) this.schedule();
    }, TICK_MS);
    watchTheme(() => {
      this.palette = null;
      this.schedule();
    }, signal);
    signal.addEventListener("abort", () => {
      sizes.disconnect();
      sight.disconnect();
      unsubscribe();
      clearInterval(ticking);
    });
  }

  private schedule(): void {
    if (this.frame !== 0 || this.life.signal.aborted) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      if (this.seen && this.root.clientWidth > 0) this.draw();
    });
  }

  private draw(): void {
    const { state } = this.store;
    this.palette ??= readPalette(this.root);
    this.header.update(performance.now());
    for (const pane of this.panes) pane.update(state);
    this.arrange(metricNames(state));
    this.drawLoss(state, this.palette);
    this.drawParts(state, this.palette);
    for (const plot of this.metrics) this.drawMetric(plot, state, this.palette);
    this.root.dataset.steps = String(state.step);
  }

  /** One chart for each metric, made when the metric is first heard of. */
  private arrange(names: readonly string[]): void {
    if (names.join("\n") === this.metrics.map(({ metric }) => metric).join("\n")) return;
    for (const { chart } of this.metrics) chart.discard();
    this.metrics = names.map((name) => this.plot(name));
    this.small.replaceChildren(...this.metrics.map(({ node }) => node));
    this.small.dataset.count = String(names.length);
    this.small.hidden = names.length === 0;
  }

  private drawLoss(state: RunState, palette: Palette): void {
    const { chart, head } = this.loss;
    const possible = canBeLogarithmic(state);
    this.unzoom.hidden = this.zoom === null;
    this.scale.hidden = !possible;
    this.scale.ariaPressed = String(this.log);
    const content = lossContent(state, this.zoom, this.log && possible, Math.max(50, chart.width - 60));
    const { stride } = state.losses;
    // The members' are smoothed further than that.
    const means = stride > 1 && state.members === null ? ` (means of ${stride} steps)` : "";
    const training = latestOfMembers(state, "training loss");
    const entries: Entry[] = [{ color: "train", name: `training${means}`, value: latestLoss(state), title: training }];
    for (const color of ["valid", "other"] as const) {
      const line = content.lines.find((l) => l.color === color && l.xs.length > 0);
      if (line === undefined) continue;
      const name = color === "valid" ? "valid" : otherSplits(state);
      const title = color === "valid" ? latestOfMembers(state, { metric: "loss" }) : "";
      entries.push({ color, name, value: line.ys[line.ys.length - 1], title });
    }
    const trial = newestTrial(state);
    const title = trial === null ? "loss" : "loss at each learning rate";
    legend(head, title, state.losses.length === 0 && entries.length === 1 ? [] : entries, membersNote(state));
    setText(this.empty, isEmpty(content) && trial === null ? "no steps yet" : "");
    this.drawTrial(trial);
    chart.draw(content, palette);
  }

  /** The test of learning rates lies on the empty chart of the losses, until there are any. */
  private drawTrial(trial: RunState["rateTests"][number] | null): void {
    const { clientWidth, clientHeight } = this.trial.parentElement ?? this.trial;
    this.trial.hidden = trial === null;
    const key = trial === null ? "" : `${trial.chosen} ${trial.rates.length} ${clientWidth} ${clientHeight}`;
    if (this.trial.dataset.shown === key) return;
    this.trial.dataset.shown = key;
    this.trial.replaceChildren(...(trial === null ? [] : [rateFigure(trial, clientWidth, clientHeight)]));
  }

  private drawParts(state: RunState, palette: Palette): void {
    const { node, head, chart } = this.parts;
    const parts = lossParts(state);
    if (node.hidden !== (parts.length === 0)) node.hidden = parts.length === 0;
    if (parts.length === 0) return;
    const more = partsLeftOut(state);
    const entries = parts.map(({ name, color, latest: last }) => ({ color, name, value: last }));
    const content = partsContent(state, this.zoom, this.log);
    const title = `parts of the loss${content.log ? " (log)" : ""}`;
    legend(head, title, entries, "", more > 0 ? `and ${count(more)} more` : "");
    chart.draw(content, palette);
  }

  private drawMetric({ metric, head, chart }: Plot, state: RunState, palette: Palette): void {
    const last = latest(state, metric);
    const entries: Entry[] = [];
    if (scoreParts(state).includes(metric)) {
      const series = state.parts.get(metric);
      if (series !== undefined) entries.push({ color: "train", name: "training", value: latestOf(state, series) });
    }
    const name = entries.length > 0 ? "valid" : "";
    if (last !== null) entries.push({ color: "valid", name, value: last, title: latestOfMembers(state, { metric }) });
    legend(head, metric, entries, last === null || membersNote(state) === "" ? "" : "± sd");
    chart.draw(metricContent(state, metric, this.zoom), palette);
  }

  private zoomTo(span: Span | null): void {
    this.zoom = span;
    this.schedule();
  }

  private plot(metric: string, says?: typeof describeParts): Plot {
    const node = el("div", "dlfb-chart");
    const head = el("div", "dlfb-chart-head");
    const canvas = el("div", "dlfb-plot");
    node.append(head, canvas);
    const chart = new Chart(canvas, this.syncKey, {
      describe: (step, reach) => {
        const rows = describe(this.store.state, metric, step, reach);
        return says === undefined ? rows : [...rows, ...says(this.store.state, step, reach)];
      },
      zoom: (span) => {
        this.zoomTo(span);
      },
    });
    return { metric, node, head, chart };
  }
}

function toggle(name: string, text: string, title: string): HTMLButtonElement {
  const button = hook("button", name, "dlfb-toggle");
  button.type = "button";
  button.textContent = text;
  button.title = title;
  return button;
}

interface Entry {
  color: Color;
  name: string;
  value: number;
  /** for whoever points at it */
  title?: string;
}

function legend(head: HTMLElement, title: string, entries: readonly Entry[], note: string, more = ""): void {
  const key = JSON.stringify([
    title,
    note,
    more,
    entries.map((entry) => [entry.color, entry.name, value(entry.value)]),
  ]);
  if (head.dataset.shown === key) return;
  head.dataset.shown = key;
  const items = entries.map(({ color, name, value: last, title: each = "" }) => {
    const item = el("span", "dlfb-legend");
    item.title = each;
    item.append(
      el("i", `dlfb-swatch dlfb-swatch-${color}`),
      el("span", "dlfb-legend-name", name),
      el("b", "", value(last)),
    );
    return item;
  });
  const said = (text: string): Node[] => (text === "" ? [] : [el("span", "dlfb-legend-name", text)]);
  head.replaceChildren(el("span", "dlfb-chart-title", title), ...said(note), ...items, ...said(more));
}

function otherSplits(state: RunState): string {
  return [...new Set(state.evaluations.map(({ split }) => split))].filter((split) => split !== "valid").join(", ");
}

function isEmpty(content: Content): boolean {
  return content.lines.every(({ xs }) => xs.length === 0);
}
