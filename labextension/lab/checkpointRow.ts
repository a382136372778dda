// What the panel says about a checkpoint, from the server's summary: words and numbers only, no DOM.

import { ago, bytes, count, plural, value } from "../core/format";
import { toNumber } from "../core/runState";
import type { CheckpointsAnswer, CheckpointSummary, DeletedCheckpoint, RunSummary } from "./server";

const DAY_S = 86_400;
const HOUR_S = 3600;

/** What can be done with a checkpoint; those of the second line put a cell into the notebook. */
export const DOINGS = ["verify", "pin", "delete", "restore", "resume", "diff", "export"] as const;
export type Doing = (typeof DOINGS)[number];

export interface Offer {
  label: string;
  title: string;
  /** why it cannot be done; empty where it can */
  refusal: string;
}

export interface CheckpointRow {
  title: string;
  size: string;
  when: string;
  /** the monitored score, else the first */
  main: string;
  metrics: [name: string, value: string][];
  kept: string;
  /** "complete", "damaged", …, and "verifying" while that goes on */
  health: string;
  why: string;
  offers: Record<Doing, Offer>;
}

export function checkpointRow(of: CheckpointSummary, older: CheckpointSummary | null, now_s: number): CheckpointRow {
  const metrics = Object.entries(of.metrics).map(([name, score]): [string, string] => [name, value(toNumber(score))]);
  return {
    title: `step ${count(of.step)}`,
    size: bytes(of.bytes),
    when: of.saved_s === null ? "" : ago(now_s - of.saved_s),
    main: metrics.slice(0, 1).flat().join(" "),
    metrics,
    kept: of.kept,
    health: of.verifying ? "verifying…" : of.state,
    why: of.why || verifiedText(of, now_s),
    offers: offersOf(of, older),
  };
}

function verifiedText({ verified_s, verifying }: CheckpointSummary, now_s: number): string {
  return verified_s === null || verifying ? "" : `As it was saved; verified ${ago(now_s - verified_s)}.`;
}

function offersOf(of: CheckpointSummary, older: CheckpointSummary | null): Record<Doing, Offer> {
  const size = bytes(of.bytes);
  const unreadable = isReadable(of) ? "" : `This checkpoint is ${of.state}: ${of.why}`;
  const unusable = of.state === "complete" ? "" : `This checkpoint is ${of.state}: ${of.why}`;
  const hasFiles = of.state !== "partial" && of.state !== "newer";
  return {
    verify: {
      label: "Verify",
      title: "Read its files and compare their checksums",
      refusal: hasFiles ? "" : `This checkpoint is ${of.state}: there are no checksums to compare.`,
    },
    pin: of.pinned
      ? { label: "Unpin", title: "Let it go when it is no longer the latest or the best", refusal: "" }
      : { label: "Pin", title: "Keep it whatever comes", refusal: "" },
    delete: {
      label: `Delete (${size})`,
      title: `Put it into the trash, which frees ${size} in a week; until then it can be had back`,
      refusal: of.protected === "" ? "" : `It cannot be deleted: ${of.protected}.`,
    },
    restore: { label: "Restore", title: "Insert a cell that restores its state", refusal: unreadable },
    resume: { label: "Resume", title: "Insert a cell that goes on with training from here", refusal: unusable },
    diff: {
      label: "Diff",
      title: older === null ? "" : `Insert a cell that compares it with that of step ${count(older.step)}`,
      refusal: unreadable || (older === null ? "There is no older checkpoint to compare it with." : ""),
    },
    export: { label: "Export", title: "Insert a cell that writes its arrays as safetensors", refusal: unreadable },
  };
}

/** Whether its arrays can be read. */
export function isReadable({ state }: CheckpointSummary): boolean {
  return state === "complete" || state === "not finite";
}

/** The next older one whose arrays can be read; null where there is none. */
export function olderThan(of: CheckpointSummary, { checkpoints }: CheckpointsAnswer): CheckpointSummary | null {
  return checkpoints.find((other) => other.step < of.step && isReadable(other)) ?? null;
}

export function totalText({ checkpoints }: CheckpointsAnswer): string {
  return checkpoints.length === 0
    ? "No checkpoints"
    : `${plural(checkpoints.length, "checkpoint")}, ${bytes(sum(checkpoints))}`;
}

export function trashText({ trash }: CheckpointsAnswer): string {
  return trash.length === 0 ? "" : `In the trash: ${plural(trash.length, "checkpoint")}, ${bytes(sum(trash))}`;
}

export function deletedText({ step, bytes: size, until_s }: DeletedCheckpoint, now_s: number): string {
  return `step ${count(step)}, ${bytes(size)}, freed ${untilText(until_s - now_s)}`;
}

/** When something comes, in the unit that suits it: in 7 days, in 3 hours. */
export function untilText(seconds: number): string {
  if (seconds < HOUR_S) return "within the hour";
  const days = Math.round(seconds / DAY_S);
  return days > 1 ? `in ${days} days` : `in ${plural(Math.round(seconds / HOUR_S), "hour")}`;
}

/** The runs that began from a run's checkpoints. */
export function childrenOf(runs: readonly RunSummary[], run: string): RunSummary[] {
  return runs.filter(({ parent }) => parent === run);
}

function sum(sizes: readonly { bytes: number }[]): number {
  return sizes.reduce((total, { bytes: size }) => total + size, 0);
}
