// What the panel says about a run, from the server's summary: words and numbers only, no DOM.

import { ago, clock, count, duration, tick, value } from "../core/format";
import type { JsonFloat } from "../core/events";
import { toNumber } from "../core/runState";
import type { Action } from "../core/runStore";
import type { RunSummary } from "./server";

const ENDED: readonly string[] = ["finished", "stopped", "failed"];
/** A run on another machine says nothing of its life but by writing. */
const SILENT_S = 300;
/** A plan of so many steps is written short. */
const LONG_STEPS = 1e6;
const INTERRUPTED = "its kernel ended before the run did";

export interface Fact {
  name: string;
  value: string;
  /** of the baseline, to hold the one before against */
  isBaseline: boolean;
}

export interface RunRow {
  name: string;
  /** running, paused, finished, stopped, failed, interrupted, compiling, waiting, reading */
  state: string;
  /** 0 to 1 while the run goes on and has a plan, else null */
  done: number | null;
  progress: string;
  facts: Fact[];
  /** why it is in its state, where that is not plain */
  reason: string;
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
  if (summary.life === "gone") return false;
  return summary.life !== "elsewhere" || now_s - summary.updated_s < SILENT_S;
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
    done: goesOn ? share(summary) : null,
    progress: goesOn && !summary.reading ? progressOf(summary) : "",
    facts: summary.reading ? [] : factsOf(summary),
    reason: reasonOf(summary, now_s),
    when: whenOf(summary, goesOn, now_s),
    warnings: summary.warnings > 0 ? count(summary.warnings) : "",
    actions: actionsOf(summary),
    title: titleOf(summary, now_s),
  };
}

/** The score that tells most, beside the baseline's, then the monitored one, then what the test said. */
export function factsOf(summary: RunSummary): Fact[] {
  const { best, scores } = summary;
  const [monitoredSplit, monitored] = splitColumn(best?.column ?? "");
  const split = [monitoredSplit, "valid", "train"].find((name) => name in scores) ?? Object.keys(scores).at(0) ?? "";
  const main = monitored !== "" && monitored !== "loss" ? monitored : mainMetric(scores[split] ?? {});
  const facts: Fact[] = [];
  if (main !== "" && main !== monitored) facts.push(...compared(summary, split, main, scores[split][main]));
  if (best !== null) {
    const [first, ...baseline] = compared(summary, monitoredSplit, monitored, best.value);
    facts.push({ ...first, name: `best ${first.name}` }, ...(facts.length === 0 ? baseline : []));
  }
  if (split !== "test" && "test" in scores) {
    const tested = main in scores.test ? main : (Object.keys(scores.test).at(0) ?? "");
    if (tested !== "") facts.push(fact(named(tested, "test"), scores.test[tested]));
  }
  const last = summary.curve.losses.at(-1);
  if (facts.length === 0 && last !== undefined) facts.push(fact("training loss", last));
  return facts;
}

function compared(summary: RunSummary, split: string, metric: string, score: JsonFloat): Fact[] {
  const { baseline } = summary;
  const facts = [fact(named(metric, split), score)];
  if (baseline?.split === split && metric in baseline.metrics) {
    facts.push({ ...fact(baseline.name, baseline.metrics[metric]), isBaseline: true });
  }
  return facts;
}

function fact(name: string, score: JsonFloat): Fact {
  return { name, value: value(toNumber(score)), isBaseline: false };
}

function reasonOf(summary: RunSummary, now_s: number): string {
  if (summary.reading) return "";
  if (hasEnded(summary)) return summary.reason;
  if (summary.life === "gone") return INTERRUPTED;
  return summary.life === "elsewhere" ? `on another machine, heard ${ago(now_s - summary.updated_s)}` : summary.reason;
}

function progressOf(summary: RunSummary): string {
  if (summary.step === 0 && summary.state === "compiling") return "compiling";
  if (summary.state === "waiting") return "about to start";
  const { step, steps_total } = summary;
  const said = steps_total < LONG_STEPS ? count : tick;
  return steps_total > 0 ? `${said(step)} of ${said(steps_total)} steps` : `${count(step)} steps`;
}

function whenOf(summary: RunSummary, goesOn: boolean, now_s: number): string {
  if (goesOn) return "";
  const { elapsed_s } = summary;
  const when = ago(now_s - summary.updated_s);
  return elapsed_s > 0 ? `${when}, took ${duration(elapsed_s)}` : when;
}

function titleOf(summary: RunSummary, now_s: number): string {
  const versions = summary.versions_dlfb_lab === "" ? "" : `dlfb-lab ${summary.versions_dlfb_lab}`;
  return [
    summary.name,
    reasonOf(summary, now_s),
    originOf(summary),
    [summary.model, membersOf(summary), summary.task, summary.device].filter((text) => text !== "").join(" · "),
    timesOf(summary),
    [summary.run, versions].filter((text) => text !== "").join(" · "),
  ]
    .filter((text) => text !== "")
    .join("\n");
}

function originOf({ parent = "", parent_step = 0 }: RunSummary): string {
  return parent === "" ? "" : `from ${parent}@${parent_step}`;
}

function membersOf({ members = 0 }: RunSummary): string {
  return members > 0 ? `${count(members)} at once, scores are means` : "";
}

function timesOf({ started_s, elapsed_s }: RunSummary): string {
  if (!Number.isFinite(started_s)) return "";
  return `started ${new Date(1000 * started_s).toLocaleString("en-GB")}, trained ${clock(elapsed_s)}`;
}

function mainMetric(metrics: RunSummary["scores"][string]): string {
  return Object.keys(metrics).find((name) => name !== "loss") ?? "";
}

function named(metric: string, split: string): string {
  return split === "valid" || split === "" ? metric : `${split} ${metric}`;
}

function splitColumn(column: string): [split: string, metric: string] {
  const slash = column.indexOf("/");
  return slash < 0 ? ["", column] : [column.slice(0, slash), column.slice(slash + 1)];
}

function hasEnded({ state }: RunSummary): boolean {
  return ENDED.includes(state);
}
