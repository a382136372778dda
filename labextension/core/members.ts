// What several models that are trained at once look like: their mean, and how far they lie apart.

import type { Band, Row, Span } from "./chart";
import { count, deviation as around, value } from "./format";
import { meanAndDeviation } from "./meanSeries";
import { evaluationsOf, type RunState, type Scores } from "./runState";

const POINTS = 160;
const MOST_LISTED = 24;

/** "mean of 8 ± sd"; empty for one model. */
export function membersNote({ plan, members }: RunState): string {
  const number = members?.rows ?? plan?.members.length ?? 0;
  return number > 0 ? `mean of ${count(number)} ± sd` : "";
}

/** The training loss of the members, as mean ± one standard deviation of their means over `width` steps. */
export function memberBand({ members }: RunState, [from, to]: Span, width: number): Band | null {
  if (members === null) return null;
  const { xs, mean, deviation } = members.spread(from, to, width, POINTS);
  return bandOf(xs, mean, deviation, "train");
}

/** A score on the validation part, as mean ± one standard deviation. */
export function scoreBand(state: RunState, metric: string): Band | null {
  const scored = evaluationsOf(state, "valid").filter(
    ({ metrics, members }) => metric in metrics && members.length > 1,
  );
  if (scored.length === 0) return null;
  return bandOf(
    scored.map(({ step }) => step),
    scored.map(({ metrics }) => metrics[metric]),
    scored.map((scores) => deviationOf(scores, metric)),
    "valid",
  );
}

export function deviationOf({ members }: Scores, metric: string): number {
  return meanAndDeviation(members.map((own) => own[metric])).deviation;
}

export function spreadRows({ members }: RunState, step: number, reach: number): Row[] {
  if (members === null) return [];
  const { deviation } = members.spreadAt(step, reach / 4);
  return Number.isFinite(deviation) ? [{ label: `sd of ${count(members.rows)}`, value: around(deviation) }] : [];
}

/** Each member's latest training loss, or its latest score on the validation part: one line each. */
export function latestOfMembers(state: RunState, what: "training loss" | { metric: string }): string {
  const names = memberNames(state);
  const scores = evaluationsOf(state, "valid").at(-1);
  const told =
    what === "training loss"
      ? [...(state.members?.latest ?? [])]
      : (scores?.members ?? []).map((own) => own[what.metric]);
  const lines = told.slice(0, MOST_LISTED).map((score, i) => `${names[i]}: ${value(score)}`);
  return [...lines, ...(told.length > MOST_LISTED ? [`and ${count(told.length - MOST_LISTED)} more`] : [])].join("\n");
}

/** The plan's names, and numbers where it has none. */
export function memberNames({ plan, members }: RunState): string[] {
  const names = plan?.members ?? [];
  return Array.from({ length: Math.max(names.length, members?.rows ?? 0) }, (_, i) => names.at(i) ?? `member ${i}`);
}

export function brokenMembers(state: RunState): { step: number; text: string }[] {
  const names = memberNames(state);
  return [...(state.members?.brokenAt ?? [])]
    .map((step, i) => ({ step, text: `${names[i]}: first loss that is not finite: step ${count(step)}` }))
    .filter(({ step }) => Number.isFinite(step));
}

function bandOf(xs: number[], mean: number[], deviation: number[], color: "train" | "valid"): Band | null {
  if (!deviation.some(Number.isFinite)) return null;
  return { xs, low: mean.map((y, i) => y - deviation[i]), high: mean.map((y, i) => y + deviation[i]), color };
}
