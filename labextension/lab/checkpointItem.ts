// One checkpoint in the panel. It is made once and then kept up to date, so that focus stays.

import { el, hook, setText } from "../core/dom";
import { checkpointRow, DOINGS, type Doing } from "./checkpointRow";
import { rowOf } from "./runRow";
import type { CheckpointSummary, RunSummary } from "./server";

let made = 0;

export interface CheckpointHooks {
  /** does what a button says; one that cannot be done says why */
  act(doing: Doing, checkpoint: CheckpointSummary, refusal: string): void;
  openRun: (run: RunSummary) => void;
}

export class CheckpointItem {
  readonly node = el("li", "dlfb-checkpoint");
  private opener = hook("button", "checkpoint", "dlfb-checkpoint-name");
  private pin = hook("span", "pinned", "dlfb-checkpoint-pin");
  private size = hook("span", "size");
  private main = hook("span", "main");
  private when = hook("span", "saved");
  private kept = hook("div", "kept", "dlfb-checkpoint-kept");
  private health = hook("div", "health", "dlfb-checkpoint-health");
  private children = hook("div", "children", "dlfb-checkpoint-children");
  private details = el("div", "dlfb-checkpoint-details");
  private metrics = el("div", "dlfb-run-facts");
  private buttons = new Map<Doing, HTMLButtonElement>();
  private isOpen = false;
  private refusals: Partial<Record<Doing, string>> = {};

  constructor(
    private checkpoint: CheckpointSummary,
    private hooks: CheckpointHooks,
  ) {
    this.opener.type = "button";
    this.details.id = `dlfb-checkpoint-${++made}`;
    this.opener.setAttribute("aria-controls", this.details.id);
    this.opener.addEventListener("click", () => {
      this.open(!this.isOpen);
    });
    setText(this.pin, "pinned");
    const head = el("div", "dlfb-checkpoint-line");
    head.append(this.opener, this.pin, this.size);
    const about = el("div", "dlfb-checkpoint-line dlfb-checkpoint-about");
    about.append(this.main, this.when);
    const actions = el("div", "dlfb-checkpoint-actions");
    for (const doing of DOINGS) {
      const button = hook("button", doing, "dlfb-button");
      button.type = "button";
      button.addEventListener("click", () => {
        this.hooks.act(doing, this.checkpoint, this.refusals[doing] ?? "");
      });
      this.buttons.set(doing, button);
      actions.append(button);
    }
    this.details.append(this.metrics, actions);
    this.node.append(head, about, this.kept, this.health, this.children, this.details);
    this.open(false);
  }

  update(
    checkpoint: CheckpointSummary,
    older: CheckpointSummary | null,
    children: readonly RunSummary[],
    busy: ReadonlySet<Doing>,
    now_s: number,
  ): void {
    this.checkpoint = checkpoint;
    const row = checkpointRow(checkpoint, older, now_s);
    this.node.dataset.state = checkpoint.state;
    this.node.dataset.step = String(checkpoint.step);
    setText(this.opener, row.title);
    this.opener.ariaLabel = [row.title, row.main, row.size, row.kept, row.health].filter((t) => t !== "").join(", ");
    setText(this.size, row.size);
    const kept = row.kept === "" ? "" : `kept as ${row.kept}`;
    setText(this.main, row.main || kept);
    setText(this.when, row.when);
    this.when.title = checkpoint.saved_s === null ? "" : new Date(1000 * checkpoint.saved_s).toLocaleString("en-GB");
    this.pin.hidden = !checkpoint.pinned;
    setText(this.kept, row.main === "" ? "" : kept);
    const isPlain = checkpoint.state === "complete" && row.why === "" && !checkpoint.verifying;
    this.health.hidden = isPlain;
    this.health.dataset.state = checkpoint.verifying ? "verifying" : checkpoint.state;
    this.health.title = row.why;
    setText(
      this.health,
      checkpoint.state === "complete" && row.why !== ""
        ? row.why
        : [row.health, row.why].filter((t) => t !== "").join(": "),
    );
    this.showChildren(children);
    this.showMetrics(row.metrics.slice(1));
    for (const doing of DOINGS) {
      const button = this.buttons.get(doing);
      const { label, title, refusal } = row.offers[doing];
      if (button === undefined) continue;
      this.refusals[doing] = refusal;
      setText(button, label);
      button.ariaLabel = `${label}, ${row.title}`;
      button.title = refusal || title;
      // Not `disabled`: the keyboard must get there to be told why, and keep its place while something is on its way.
      button.ariaDisabled = String(refusal !== "" || busy.has(doing));
    }
  }

  open(isOpen: boolean): void {
    this.isOpen = isOpen;
    this.opener.ariaExpanded = String(isOpen);
    this.details.hidden = !isOpen;
  }

  private showMetrics(metrics: readonly [name: string, value: string][]): void {
    const key = JSON.stringify(metrics);
    if (this.metrics.dataset.shown === key) return;
    this.metrics.dataset.shown = key;
    this.metrics.replaceChildren(...metrics.flatMap(([name, score]) => [el("span", "", name), el("b", "", score)]));
  }

  private showChildren(children: readonly RunSummary[]): void {
    const key = JSON.stringify(children.map(({ store, run, name }) => [store, run, name]));
    if (this.children.dataset.shown === key) return;
    this.children.dataset.shown = key;
    this.children.replaceChildren(...children.map((child) => childLine(child, this.hooks.openRun)));
  }
}

export function childLine(child: RunSummary, openRun: (run: RunSummary) => void, from = ""): HTMLElement {
  const line = el("div", "", from === "" ? "began here: " : `began from ${from}: `);
  const link = hook("button", "child", "dlfb-link");
  link.type = "button";
  link.textContent = rowOf(child, 0).name;
  link.title = `Open ${child.run}`;
  link.addEventListener("click", () => {
    openRun(child);
  });
  line.append(link);
  return line;
}
