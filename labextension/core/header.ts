// The lines above the charts: what is trained, where it stands, how long it still takes, and the buttons.

import { el, hook, setLines, setText } from "./dom";
import { clock, count, remaining, tenths, value } from "./format";
import { memberNames } from "./members";
import { originOf } from "./plots";
import { epochAt, planText, secondsPerStep, timeLeft } from "./progress";
import { bestMember, hasEnded, type RunState } from "./runState";
import type { Action, RunStore } from "./runStore";
import { isLost } from "./standing";

const PENDING: Record<Action, string> = { pause: "pausing…", resume: "resuming…", stop: "stopping…" };
const LABELS: Record<Action, string> = { pause: "Pause", resume: "Resume", stop: "Stop" };

export class Header {
  readonly node = el("div", "dlfb-header");
  private name = hook("span", "name", "dlfb-name");
  private origin = hook("span", "origin", "dlfb-origin");
  private badge = hook("span", "state", "dlfb-badge");
  private reason = hook("span", "reason", "dlfb-reason");
  private about = hook("div", "about", "dlfb-about");
  private hint = hook("span", "hint", "dlfb-hint");
  private buttons = (["pause", "resume", "stop"] as const).map((action) => {
    const button = hook("button", action, "dlfb-button");
    button.type = "button";
    button.textContent = LABELS[action];
    button.addEventListener("click", () => {
      this.store.request(action);
    });
    return { action, button };
  });
  private progress = hook("span", "progress");
  private best = hook("span", "best", "dlfb-best");
  private time = hook("span", "time");
  private plan = hook("div", "plan", "dlfb-plan");
  private bar = el("div", "dlfb-bar");
  private filled = el("div", "dlfb-bar-filled");
  private notes = hook("div", "notes", "dlfb-notes");

  constructor(
    private store: RunStore,
    private readOnly: boolean,
    private openRun?: (run: string) => void,
  ) {
    const status = el("span", "dlfb-status");
    status.setAttribute("role", "status");
    status.setAttribute("aria-live", "polite");
    status.append(this.badge, this.reason);
    this.hint.ariaLive = "polite";
    const controls = el("span", "dlfb-controls");
    controls.append(this.hint, ...this.buttons.map(({ button }) => button));
    const top = el("div", "dlfb-top");
    top.append(this.name, this.origin, status, controls);
    this.bar.setAttribute("role", "progressbar");
    this.bar.ariaLabel = "steps done";
    this.bar.ariaValueMin = "0";
    this.bar.append(this.filled);
    const where = el("div", "dlfb-line");
    where.append(this.progress, this.time);
    const what = el("div", "dlfb-line");
    what.append(this.about, this.best);
    this.notes.setAttribute("role", "status");
    this.node.append(top, what, where, this.plan, this.bar, this.notes);
    this.node.tabIndex = -1;
  }

  /** `now_ms`: this page's clock. */
  update(now_ms: number): void {
    const { state, notes } = this.store;
    const { plan } = state;
    const shown = this.store.standing(now_ms);
    setText(this.name, this.store.title || plan?.name || "training run");
    this.showOrigin(state);
    this.badge.dataset.state = shown.state;
    setText(this.badge, shown.state);
    setText(this.reason, shown.reason);
    setText(this.about, aboutText(state));
    setText(this.progress, progressText(state));
    setText(this.time, timeText(this.store, now_ms));
    setText(this.best, bestText(state));
    const how = state.plans.at(-1);
    this.plan.hidden = how === undefined;
    setText(this.plan, how === undefined ? "" : planText(how));
    this.plan.title = how?.reason ?? "";
    const total = plan?.steps_total ?? 0;
    this.filled.style.width = `${total > 0 ? Math.min(100, (100 * state.step) / total) : 0}%`;
    // Where nobody knows the end there is no share of it.
    this.bar.classList.toggle("dlfb-bar-endless", plan !== null && total === 0);
    this.bar.ariaValueMax = total > 0 ? String(total) : null;
    this.bar.ariaValueNow = String(state.step);
    this.bar.dataset.state = shown.state;
    this.notes.hidden = notes.length === 0;
    setLines(this.notes, notes);
    this.updateControls();
  }

  /** Which checkpoint the run began from, with a way to that run where there is one. */
  private showOrigin(state: RunState): void {
    const origin = originOf(state);
    if (this.origin.dataset.shown === origin) return;
    this.origin.dataset.shown = origin;
    this.origin.hidden = origin === "";
    const parent = state.plan?.parent ?? "";
    const { openRun } = this;
    if (openRun === undefined) {
      setText(this.origin, `from ${origin}`);
      return;
    }
    const link = hook("button", "open-origin", "dlfb-link");
    link.type = "button";
    link.textContent = origin;
    link.title = "Show that run and its checkpoints";
    link.addEventListener("click", () => {
      openRun(parent);
    });
    this.origin.replaceChildren("from ", link);
  }

  private updateControls(): void {
    const { state, controls, pending, refusal, isLive } = this.store;
    const paused = state.state === "paused";
    for (const { action, button } of this.buttons) {
      const fits = action === "pause" ? !paused : action === "resume" ? paused : true;
      const hidden =
        this.readOnly || !isLive || !fits || !controls.includes(action) || pending === action || pending === "stop";
      // A button that goes while it has the focus would leave the keyboard nowhere.
      if (hidden && button === document.activeElement) this.node.focus({ preventScroll: true });
      button.hidden = hidden;
    }
    const alone = controls.length === 0 ? "interrupt the cell to stop and keep" : "";
    const waiting = !isLive ? "" : pending === null ? alone : PENDING[pending];
    setText(this.hint, this.readOnly ? "" : refusal || waiting);
  }
}

/** The engine's clock now: what it last said, and what has passed here since. */
function engineNow(store: RunStore, now_ms: number): number {
  const silence_s = store.silence_s(now_ms);
  const goesOn = store.isLive && !isLost(store.life, silence_s);
  return store.state.updated_s + (goesOn ? silence_s : 0);
}

function aboutText({ plan }: RunState): string {
  if (plan === null) return "";
  const parameters = plan.parameter_count > 0 ? `${count(plan.parameter_count)} parameters` : "";
  return [plan.task_sentence, plan.model, parameters].filter((text) => text !== "").join(" · ");
}

/** The best score; of several members that of the best one, and of their mean. */
function bestText(state: RunState): string {
  const { best } = state;
  const winner = bestMember(state);
  const at = ({ value: score, step }: { value: number; step: number }): string =>
    `${value(score)} at step ${count(step)}`;
  if (winner === null) return best === null ? "" : `best ${best.column} ${at(best)}`;
  const mean = best === null ? "" : `; best mean ${at(best)}`;
  return `best ${winner.best.column} ${at(winner.best)} by ${memberNames(state)[winner.index]}${mean}`;
}

function progressText(state: RunState): string {
  const { plan } = state;
  if (plan === null) return state.step > 0 ? `step ${count(state.step)}` : "";
  const parts = [`step ${count(state.step)}${plan.steps_total > 0 ? ` of ${count(plan.steps_total)}` : ""}`];
  if (plan.steps_per_epoch > 0) {
    const total = plan.steps_total / plan.steps_per_epoch;
    const of = total > 0 ? ` of ${value(Number(total.toFixed(1)))}` : "";
    parts.push(`epoch ${tenths(epochAt(state, state.step))}${of}`);
  }
  const perSecond = 1 / secondsPerStep(state.recent);
  if (Number.isFinite(perSecond)) parts.push(`${value(Number(perSecond.toPrecision(3)))} steps/s`);
  return parts.join(" · ");
}

function timeText(store: RunStore, now_ms: number): string {
  const { state } = store;
  if (state.plan === null) return "";
  const now_s = engineNow(store, now_ms);
  const elapsed = clock(now_s - state.started_s);
  if (hasEnded(state)) return `took ${elapsed}`;
  if (store.life === "gone") return `last heard after ${elapsed}`;
  const parts = [`elapsed ${elapsed}`];
  if (state.state === "compiling") parts.push(`compiling ${clock(now_s - state.stateSince_s)} so far`);
  const { train_s, evaluate_s } = timeLeft(state);
  const left = [];
  if (train_s > 0) left.push(`train ${remaining(train_s)}`);
  if (evaluate_s > 0) left.push(`evaluate ${remaining(evaluate_s)}`);
  if (left.length > 0) parts.push(`left: ${left.join(", ")}`);
  return parts.join(" · ");
}
