// The status bar's one line about the runs that go on.

import { isLive, percent, rowOf, share } from "./runRow";
import type { RunSummary } from "./server";

export interface StatusText {
  text: string;
  title: string;
}

/** Newest first, as the server lists them; null when nothing goes on. */
export function statusOf(runs: readonly RunSummary[], now_s: number): StatusText | null {
  const live = runs.filter((run) => isLive(run, now_s));
  if (live.length === 0) return null;
  const paused = live.filter(({ state }) => state === "paused").length;
  const running = live.length - paused;
  const counted = [running > 0 ? `${running} running` : "", paused > 0 ? `${paused} paused` : ""].filter(
    (text) => text !== "",
  );
  const shown = live.find(({ state }) => state !== "paused") ?? live[0];
  const parts = [brief(shown), ...(live.length > 1 ? [counted.join(", ")] : [])];
  const lines = live.map((run) => `${brief(run)} (${rowOf(run, now_s).progress})`);
  return { text: parts.join(" · "), title: [...lines, "Click to see the runs"].join("\n") };
}

function brief(run: RunSummary): string {
  const name = run.name === "" ? run.run : run.name;
  const done = share(run);
  if (run.state === "compiling" || run.state === "waiting" || done === null) return `${name} ${run.state}`;
  return `${name} ${run.state === "paused" ? "paused at " : ""}${percent(done)}`;
}
