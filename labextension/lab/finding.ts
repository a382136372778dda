// Which run a command is about, from its arguments or from what somebody typed.

import { isRef } from "./bundle";
import type { RunRef } from "./feed";
import type { RunSummary } from "./server";

export type NamedRef = RunRef & { name: string };

/** The run that the arguments name: one that is listed, or one that a complete reference may lead to; else null. */
export function refOf(runs: readonly RunSummary[], args: Readonly<Record<string, unknown>>): NamedRef | null {
  const { run, store, name } = args;
  const listed = runs.find((summary) => summary.run === run && (store === undefined || summary.store === store));
  if (listed !== undefined) return listed;
  return isRef(args) ? { store: args.store, run: args.run, name: typeof name === "string" ? name : "" } : null;
}

/** The runs that this text means: one for its whole line or its id, else all of that name. */
export function runsMeant(runs: readonly RunSummary[], lines: readonly string[], text: string): RunSummary[] {
  const at = lines.indexOf(text);
  if (at >= 0) return [runs[at]];
  const byId = runs.filter(({ run }) => run === text);
  return byId.length > 0 ? byId : runs.filter(({ name }) => name === text);
}
