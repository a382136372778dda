// What the panel says about a run, from the server's summary: words and numbers only, no DOM.

import { ago, clock, count, duration, value } from "../core/format";
import { toNumber } from "../core/runState";
import type { Action } from "../core/runStore";
import type { RunSummary } from "./server";

const ENDED: readonly string[] = ["finished", "stopped", "failed"];
/** A run on another machine says nothing of its life but by writing. */
const SILENT_S = 300;

export interface Fact {
  name: string;
  value: string;
  /** the baseline's, "" where there is none */
  beside: string;
}

export interface RunRow {
  name: string;
  /** running, paused, finished, stopped, failed, interrupted, compiling, waiting, reading */
  state: string;
  /** 0 to 1 while the run goes on, else null */
  done: number | null;
  progress: string;
  facts: Fact[];
  when: string;
  warnings: string;
  actions: Action[];
  /** everything else, for whoever points at the row */
  title: string;
}

export function keyOf({ store, run }: { store: string; run: string }): string {
  return `${store}/${run}`;
}

/** The run's state as people should read it: one that has not ended and whose kernel is gone was interrupted. */
export function stateOf(summary: RunSummary): string {
  if (summary.reading) return "reading";
  return !hasEnded(summary) && summary.life === "gone" ? "interrupted" : summary.state;
}

/** Whether requests can still reach the run. */
export function canBeAsked(summary: RunSummary): boolean {
  return !summary.reading && !hasEnded(summary) && summary.life !== "gone" && summary.state !== "waiting";
}

/** Whether the run goes on, as far as can be told. */
export function isLive(summary: RunSummary, now_s: number): boolean {
  if (!canBeAsked(summary) && summary.state !== "waiting") return false;
  return summary.life === "alive" || (summary.life === "elsewhere" && now_s - summary.updated_s < SILENT_S);
}

export function actionsOf(summary: RunSummary): Action[] {
  if (!canBeAsked(summary)) return [];
  return summary.state === "paused" ? ["resume", "stop"] : ["pause", "stop"];
}

/** Share of the planned steps that is done; null where no plan is known. */
export function share({ step, steps_total }: RunSummary): number | null {
  return steps_total > 0 ? Math.min(1, step / steps_total) : null;
}

/** Never 100 % before the end. */
export function percent(part: number): string {
  return `${Math.floor(100 * part)} %`;
}

export function rowOf(summary: RunSummary, now_s: number): RunRow {
  const goesOn = canBeAsked(summary) || (summary.state === "waiting" && summary.life !== "gone");
  return {
    name: summary.name === "" ? summary.run : summary.name,
    state: stateOf(summary),
    done: goesOn ? (share(summary) ?? 0) : null,
    progress: goesOn && !summary.reading ? progressOf(summary) : "",
    facts: summary.reading ? [] : factsOf(summary),
    when: whenOf(summary, goesOn, now_s),
    warnings: summary.warnings > 0 ? count(summary.warnings) : "",
    actions: actionsOf(summary),
    title: titleOf(summary),
  };
}

/** The score that tells most, beside the baseline's, then the monitored one, then what the test said. */
export function factsOf(summary: RunSummary): Fact[] {
  const { best, scores } = summary;
  const [monitoredSplit, monitored] = splitColumn(best?.column ?? "");
  const split = [monitoredSplit, "valid", "train"].find((name) => name in scores) ?? Object.keys(scores).at(0) ?? "";
  const facts: Fact[] = [];
  const metric = monitored !== "" && monitored !== "loss" ? monitored : mainMetric(scores[split] ?? {});
  const isBest = best !== null && monitored === metric;
  if (metric !== "") {
    const score = isBest ? best.value : toNumber(scores[split][metric]);
    facts.push({ name: named(metric, split), value: value(score), beside: baselineOf(summary, split, metric) });
  }
  if (best !== null && !isBest) {
    const beside = metric === "" ? baselineOf(summary, monitoredSplit, monitored) : "";
    facts.push({ name: `best ${named(monitored, monitoredSplit)}`, value: value(best.value), beside });
  }
  if (split !== "test" && "test" in scores) {
    const tested = metric !== "" && metric in scores.test ? metric : (Object.keys(scores.test).at(0) ?? "");
    if (tested !== "") {
      facts.push({ name: `test ${tested}`, value: value(toNumber(scores.test[tested])), beside: "" });
    }
  }
  const last = summary.curve.losses.at(-1);
  if (facts.length === 0 && last !== undefined) {
    facts.push({ name: "training loss", value: value(toNumber(last)), beside: "" });
  }
  return facts;
}

function progressOf(summary: RunSummary): string {
  if (summary.state === "compiling") return "compiling the training program";
  if (summary.state === "waiting") return "about to start";
  const done = share(summary);
  const steps = `${count(summary.step)}${done === null ? "" : ` of ${count(summary.steps_total)}`} steps`;
  return done === null ? steps : `${percent(done)} · ${steps}`;
}

function whenOf(summary: RunSummary, goesOn: boolean, now_s: number): string {
  if (goesOn && summary.life === "elsewhere") return `on another machine, heard ${ago(now_s - summary.updated_s)}`;
  const elapsed_s = summary.elapsed_s;
  if (goesOn) return elapsed_s > 0 ? `for ${clock(elapsed_s)}` : "";
  const when = ago(now_s - summary.updated_s);
  return elapsed_s > 0 ? `${when}, took ${duration(elapsed_s)}` : when;
}

function titleOf(summary: RunSummary): string {
  const versions = summary.versions_dlfb_lab === "" ? "" : `dlfb-lab ${summary.versions_dlfb_lab}`;
  return [
    summary.name,
    summary.reason,
    [summary.model, summary.task, summary.device].filter((text) => text !== "").join(" · "),
    startOf(summary),
    [summary.run, versions].filter((text) => text !== "").join(" · "),
  ]
    .filter((text) => text !== "")
    .join("\n");
}

function startOf(summary: RunSummary): string {
  const started_s = summary.started_s;
  return Number.isFinite(started_s) ? `started ${new Date(1000 * started_s).toLocaleString("en-GB")}` : "";
}

function mainMetric(metrics: RunSummary["scores"][string]): string {
  return Object.keys(metrics).find((name) => name !== "loss") ?? "";
}

function named(metric: string, split: string): string {
  const said = metric === "loss" && split === "valid" ? "validation loss" : metric;
  return split === "valid" || split === "" ? said : `${split} ${said}`;
}

function baselineOf({ baseline }: RunSummary, split: string, metric: string): string {
  if (baseline?.split !== split || !(metric in baseline.metrics)) return "";
  return `${baseline.name} ${value(toNumber(baseline.metrics[metric]))}`;
}

function splitColumn(column: string): [split: string, metric: string] {
  const slash = column.indexOf("/");
  return slash < 0 ? ["", column] : [column.slice(0, slash), column.slice(slash + 1)];
}

function hasEnded({ state }: RunSummary): boolean {
  return ENDED.includes(state);
}
