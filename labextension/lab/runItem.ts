// One run in the panel's list. It is made once and then kept up to date, so that focus and scrolling stay.

import { caretDownIcon, runIcon, stopIcon, type LabIcon } from "@jupyterlab/ui-components";

import { el, hook, setText } from "../core/dom";
import { lossCurves } from "../core/sparkline";
import type { Action } from "../core/runStore";
import { CheckpointList, type CheckpointListHooks } from "./checkpointList";
import { Curve } from "./curve";
import { pauseIcon } from "./icons";
import { percent, rowOf, type Fact } from "./runRow";
import type { Asked } from "./runsModel";
import type { RunSummary } from "./server";

const LABELS: Record<Action, string> = { pause: "Pause", resume: "Resume", stop: "Stop" };
const PENDING: Record<Action, string> = { pause: "pausing…", resume: "resuming…", stop: "stopping…" };
const ICONS: Record<Action, LabIcon> = { pause: pauseIcon, resume: runIcon, stop: stopIcon };

export interface RunHooks {
  open(run: RunSummary): void;
  control(run: RunSummary, action: Action): void;
  checkpoints: CheckpointListHooks;
}

export class RunItem {
  readonly node = el("li", "dlfb-run");
  readonly opener = hook("button", "open", "dlfb-run-name");
  private badge = hook("span", "state", "dlfb-badge");
  private facts = hook("div", "facts", "dlfb-run-facts");
  private curve = new Curve("dlfb-curve", "dlfb-curve-train", "dlfb-curve-valid");
  private track = el("div", "dlfb-run-track");
  private percent = el("span");
  private bar = el("div", "dlfb-bar");
  private filled = el("div", "dlfb-bar-filled");
  private reason = hook("div", "reason", "dlfb-run-reason");
  private when = hook("span", "when", "dlfb-run-when");
  private warnings = hook("span", "warnings", "dlfb-run-warnings");
  private refusal = hook("div", "refusal", "dlfb-refusal");
  // One button pauses and resumes, so that it keeps the focus.
  private pauser = new ActionButton(this);
  private stopper = new ActionButton(this);
  private fold = el("button", "dlfb-run-fold");
  private checkpoints: CheckpointList | null = null;
  private drawn = "";

  constructor(
    public summary: RunSummary,
    readonly hooks: RunHooks,
  ) {
    this.opener.type = "button";
    this.opener.tabIndex = -1;
    this.opener.addEventListener("click", () => {
      hooks.open(this.summary);
    });
    this.refusal.setAttribute("role", "status");
    this.bar.append(this.filled);
    this.bar.setAttribute("role", "progressbar");
    this.bar.ariaLabel = "steps done";
    this.fold.type = "button";
    this.fold.dataset.dlfb = "checkpoints";
    this.fold.append("Checkpoints", caretDownIcon.element({ tag: "span", width: "14px", height: "14px" }));
    this.fold.addEventListener("click", () => {
      this.open(this.checkpoints === null);
    });
    this.open(false);
    const head = el("div", "dlfb-run-head");
    head.append(this.opener, this.warnings, this.badge);
    const body = el("div", "dlfb-run-body");
    body.append(this.facts, this.curve.node);
    this.track.append(this.bar, this.percent);
    const foot = el("div", "dlfb-run-foot");
    foot.append(this.when, this.pauser.node, this.stopper.node, this.fold);
    this.node.append(head, body, this.reason, this.track, foot, this.refusal);
  }

  update(summary: RunSummary, asked: Asked | null, now_s: number): void {
    this.summary = summary;
    const row = rowOf(summary, now_s);
    this.node.title = row.title;
    this.node.dataset.state = row.state;
    setText(this.opener, row.name);
    this.opener.ariaLabel = [row.name, row.state, row.progress].filter((text) => text !== "").join(", ");
    this.badge.dataset.state = row.state;
    setText(this.badge, row.state);
    this.say(row.facts);
    setText(this.reason, row.reason);
    setText(this.warnings, row.warnings);
    this.warnings.hidden = row.warnings === "";
    this.warnings.title = row.warnings === "1" ? "1 warning" : `${row.warnings} warnings`;
    this.track.hidden = row.done === null;
    if (row.done !== null) {
      setText(this.percent, percent(row.done));
      this.bar.ariaValueNow = String(Math.floor(100 * row.done));
      this.bar.dataset.state = row.state;
      this.filled.style.width = `${100 * row.done}%`;
    }
    const [first, second] = row.actions;
    const pending = asked?.action ?? null;
    this.pauser.show(first, pending);
    this.stopper.show(second, pending);
    setText(this.when, pending !== null ? PENDING[pending] : row.progress || row.when);
    setText(this.refusal, asked?.refusal ?? "");
    this.fold.hidden = (summary.checkpoints ?? 0) === 0 && this.checkpoints === null;
    this.checkpoints?.update();
    this.draw(summary);
  }

  /** Shows the run's checkpoints below it, or no longer. */
  open(isOpen: boolean): void {
    this.fold.ariaExpanded = String(isOpen);
    if (isOpen === (this.checkpoints !== null)) return;
    this.checkpoints?.dispose();
    this.checkpoints = isOpen ? new CheckpointList(this.summary, this.hooks.checkpoints) : null;
    if (this.checkpoints !== null) this.node.append(this.checkpoints.node);
  }

  dispose(): void {
    this.open(false);
    this.node.remove();
  }

  private draw({ curve, valid, updated_s, parent_step }: RunSummary): void {
    const key = `${updated_s} ${curve.steps.length} ${valid.steps.length}`;
    if (key === this.drawn) return;
    this.drawn = key;
    const { train, valid: validated } = lossCurves(curve, valid, parent_step);
    this.curve.node.classList.toggle("dlfb-curve-none", train === "" && validated === "");
    this.curve.draw(train, validated);
  }

  private say(facts: readonly Fact[]): void {
    const key = JSON.stringify(facts);
    if (this.facts.dataset.shown === key) return;
    this.facts.dataset.shown = key;
    this.facts.replaceChildren(
      ...facts.flatMap(({ name, value, isBaseline }) => {
        const className = isBaseline ? "dlfb-fact-baseline" : "";
        return [el("span", className, name), el("b", className, value)];
      }),
    );
  }
}

class ActionButton {
  readonly node = el("button", "dlfb-icon-button");
  private action: Action | null = null;
  private isPending = false;

  constructor(item: RunItem) {
    this.node.type = "button";
    this.node.hidden = true;
    this.node.addEventListener("click", () => {
      if (this.action !== null && !this.isPending) item.hooks.control(item.summary, this.action);
    });
  }

  /** While a request is on its way the button stays, dimmed: one that vanished would take the focus with it. */
  show(action: Action | undefined, pending: Action | null): void {
    if (action === undefined && document.activeElement === this.node) {
      this.node.closest(".dlfb-run")?.querySelector("button")?.focus();
    }
    this.node.hidden = action === undefined;
    // A stop still overtakes what was asked for before it.
    this.isPending = pending !== null && (pending === action || pending === "stop");
    this.node.ariaDisabled = String(this.isPending);
    if (action === undefined || action === this.action) return;
    this.action = action;
    this.node.dataset.dlfb = action;
    this.node.title = LABELS[action];
    this.node.ariaLabel = LABELS[action];
    this.node.replaceChildren(ICONS[action].element({ tag: "span", width: "16px", height: "16px" }));
  }
}
