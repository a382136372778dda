// What lies below the charts: warnings, the final scores, and the folded-in details.

import type { JsonValue } from "./events";
import { el, hook, table } from "./dom";
import { count, duration, plural, value } from "./format";
import { dispatchTimes } from "./progress";
import { evaluationsOf, hasEnded, toNumber, type Metrics, type RunState } from "./runState";
import { splitsOf } from "./plots";

export interface Pane {
  node: HTMLElement;
  update(state: RunState): void;
}

export function warnings(): Pane {
  const node = hook("div", "notices", "dlfb-warnings");
  let shown = -1;
  return {
    node,
    update(state) {
      if (state.notices.length === shown) return;
      shown = state.notices.length;
      const texts = state.notices.filter(({ level }) => level === "warning");
      node.hidden = texts.length === 0;
      node.replaceChildren(...texts.map(({ step, text }) => el("p", "dlfb-warning", `${text} (step ${count(step)})`)));
    },
  };
}

/** The scores of each part of the data, beside the baselines', once the run has ended. */
export function finalScores(): Pane {
  const node = hook("div", "final", "dlfb-final");
  let shown = "";
  return {
    node,
    update(state) {
      const key = hasEnded(state) ? `${state.state} ${state.evaluations.length} ${state.baselines.length}` : "";
      if (key === shown) return;
      shown = key;
      const columns = key === "" ? [] : finalColumns(state);
      node.hidden = columns.length === 0;
      const names = [...new Set(columns.flatMap(({ metrics }) => Object.keys(metrics)))];
      const rows = names.map((name) => [
        name,
        ...columns.map(({ metrics }) => (name in metrics ? value(metrics[name]) : "–")),
      ]);
      node.replaceChildren(table(["", ...columns.map(({ head }) => head)], rows));
    },
  };
}

function finalColumns(state: RunState): { head: string; metrics: Metrics }[] {
  const columns: { head: string; metrics: Metrics }[] = [];
  for (const split of splitsOf(state)) {
    const all = evaluationsOf(state, split);
    const last = all[all.length - 1];
    const best = state.best;
    const isMonitored = best?.column.startsWith(`${split}/`) === true;
    const atBest = isMonitored ? all.find(({ step }) => step === best.step) : undefined;
    if (atBest !== undefined && atBest.step !== last.step) {
      columns.push({ head: `${split}, best (step ${count(atBest.step)})`, metrics: atBest.metrics });
    }
    columns.push({ head: `${split} (step ${count(last.step)})`, metrics: last.metrics });
  }
  if (columns.length === 0) return [];
  const several = new Set(state.baselines.map(({ split }) => split)).size > 1;
  for (const { name, split, metrics } of state.baselines) {
    columns.push({ head: several ? `${name} (${split})` : name, metrics });
  }
  return columns;
}

/** A fold-out whose body is made only while it is open, and again only when `key` changes. */
function foldOut(
  name: string,
  title: (state: RunState) => string,
  key: (state: RunState) => string,
  body: (state: RunState) => Node[],
): Pane {
  const node = hook("details", name, "dlfb-fold");
  const summary = el("summary");
  const content = el("div", "dlfb-fold-body");
  node.append(summary, content);
  let current: RunState | null = null;
  let shown = "";
  const fill = (): void => {
    if (current === null || !node.open || key(current) === shown) return;
    shown = key(current);
    content.replaceChildren(...body(current));
  };
  node.addEventListener("toggle", fill);
  return {
    node,
    update(state) {
      current = state;
      const text = title(state);
      node.hidden = text === "";
      if (summary.textContent !== text) summary.textContent = text;
      fill();
    },
  };
}

export function jitTimings(): Pane {
  return foldOut(
    "jit",
    () => "JIT timings",
    (state) => `${state.compilations.length} ${state.recent.at(-1)?.duration_s}`,
    (state) => {
      const rows = state.compilations.map((c) => [
        c.program,
        c.planned ? c.cause : `${c.cause} (not planned, step ${count(c.step)})`,
        ...[c.trace_s, c.lower_s, c.compile_s].map((seconds) => duration(toNumber(seconds))),
      ]);
      const { dispatch_s, steps } = dispatchTimes(state);
      const text = Number.isNaN(steps)
        ? "Nothing has been dispatched yet."
        : `${duration(dispatch_s)} a dispatch (median of the latest), ${plural(Math.round(steps), "step")} a dispatch, ${duration(dispatch_s / steps)} a step.`;
      const times = table(["program", "cause", "trace", "lower", "compile"], rows);
      return rows.length === 0 ? [el("p", "", text)] : [times, el("p", "", text)];
    },
  );
}

export function infos(): Pane {
  const list = (state: RunState): string[] =>
    state.notices.filter(({ level }) => level === "info").map(({ step, text }) => `${text} (step ${count(step)})`);
  return foldOut(
    "infos",
    (state) => (list(state).length === 0 ? "" : plural(list(state).length, "note")),
    (state) => String(state.notices.length),
    (state) => list(state).map((text) => el("p", "", text)),
  );
}

export function settings(): Pane {
  return foldOut(
    "settings",
    (state) => (state.plan === null ? "" : "Settings"),
    (state) => state.plan?.run_id ?? "",
    ({ plan }) => {
      if (plan === null) return [];
      const rows = Object.entries(plan.rows).map(([part, n]) => `${part} ${count(n)}`);
      const facts: [string, JsonValue][] = [
        ["run", plan.run_id],
        ["model", `${plan.model} (${plan.model_kind})`],
        ["device", plan.device],
        ["rows", rows.join(", ")],
        ["split hash", plan.split_hash],
        ...Object.entries(plan.settings),
        ...Object.entries(plan.versions),
      ];
      const list = el("dl", "dlfb-facts");
      for (const [name, fact] of facts) {
        const text = typeof fact === "string" ? fact : JSON.stringify(fact);
        const pair = el("div");
        pair.append(el("dt", "", name), el("dd", "", text));
        list.append(pair);
      }
      return [list];
    },
  );
}
