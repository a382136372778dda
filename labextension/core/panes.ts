// What lies below the charts: warnings, the final scores, and the folded-in details.

import type { JsonValue } from "./events";
import { el, hook, table } from "./dom";
import { count, deviation, duration, plural, value } from "./format";
import { deviationOf, memberNames } from "./members";
import { dispatchTimes, planText } from "./progress";
import { newestTrial, rateFigure } from "./rateTest";
import { bestMember, evaluationsOf, hasEnded, toNumber, type Metrics, type RunState, type Scores } from "./runState";
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
        ...columns.map(({ metrics, scores }) => (name in metrics ? valueOf(metrics, scores, name) : "–")),
      ]);
      node.replaceChildren(table(["", ...columns.map(({ head }) => head)], rows));
    },
  };
}

interface Column {
  head: string;
  metrics: Metrics;
  scores?: Scores;
}

function valueOf(metrics: Metrics, scores: Scores | undefined, name: string): string {
  const around = scores === undefined ? "" : deviation(deviationOf(scores, name));
  return `${value(metrics[name])} ${around}`.trim();
}

function finalColumns(state: RunState): Column[] {
  const columns: Column[] = [];
  for (const split of splitsOf(state)) {
    const all = evaluationsOf(state, split);
    const last = all[all.length - 1];
    const best = state.best;
    const isMonitored = best?.column.startsWith(`${split}/`) === true;
    const atBest = isMonitored ? all.find(({ step }) => step === best.step) : undefined;
    if (atBest !== undefined && atBest.step !== last.step) {
      const head = `${split}, best (step ${count(atBest.step)})`;
      columns.push({ head, metrics: atBest.metrics, scores: atBest });
    }
    columns.push({ head: `${split} (step ${count(last.step)})`, metrics: last.metrics, scores: last });
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
): Pane & { node: HTMLDetailsElement } {
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

/** Each member's best monitored score and its last scores; open once the run has ended. */
export function memberScores(): Pane {
  const pane = foldOut(
    "members",
    (state) => (memberNames(state).length === 0 ? "" : plural(memberNames(state).length, "member")),
    ({ evaluations, step, state }) => `${state} ${evaluations.length} ${step}`,
    (state) => [membersTable(state)],
  );
  const { node } = pane;
  let opened = false;
  return {
    node,
    update(state) {
      if (!opened && hasEnded(state) && memberNames(state).length > 0) node.open = opened = true;
      pane.update(state);
    },
  };
}

function membersTable(state: RunState): HTMLElement {
  const winner = bestMember(state);
  const last = evaluationsOf(state, "valid").at(-1);
  const metrics = Object.keys(last?.metrics ?? {});
  const monitor = winner === null ? [] : [`best ${winner.best.column}`, "at step"];
  const rows = memberNames(state).map((name, i) => {
    const best = state.memberBests.at(i) ?? null;
    const own = best === null ? ["–", "–"] : [value(best.value), count(best.step)];
    const scores = metrics.map((metric) => {
      const score = last?.members.at(i)?.[metric];
      return score === undefined ? "–" : value(score);
    });
    const loss = state.members?.latest.at(i);
    return [name, ...(winner === null ? [] : own), loss === undefined ? "–" : value(loss), ...scores];
  });
  const node = table(["", ...monitor, "training loss", ...metrics.map((metric) => `valid/${metric}`)], rows);
  node.classList.add("dlfb-members");
  if (winner !== null) node.querySelectorAll("tbody tr").item(winner.index).classList.add("dlfb-best-member");
  return node;
}

/** The latest test of learning rates, once it is no longer the newest thing. */
export function rateTest(): Pane {
  return foldOut(
    "rates",
    (state) => {
      const chosen = state.rateTests.at(-1)?.chosen;
      return chosen === undefined || newestTrial(state) !== null ? "" : `Learning rate ${value(chosen)} was chosen`;
    },
    (state) => String(state.rateTests.length),
    (state) =>
      state.rateTests
        .slice(-1)
        .flatMap((trial) => [
          rateFigure(trial, 440, 170),
          el("p", "", `${plural(trial.rates.length, "rate")} tried in ${duration(trial.duration_s)}.`),
        ]),
  );
}

export function jitTimings(): Pane {
  return foldOut(
    "jit",
    () => "JIT timings",
    (state) => `${state.compilations.length} ${state.plans.length} ${state.recent.at(-1)?.duration_s}`,
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
      const plans = state.plans.map((plan) =>
        el("p", "", `${planText(plan)} (step ${count(plan.step)}): ${plan.reason}`),
      );
      return [...(rows.length === 0 ? [] : [times]), ...plans, el("p", "", text)];
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
