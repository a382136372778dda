// The panel's list of runs, newest first.

import type { Message } from "@lumino/messaging";
import { Widget } from "@lumino/widgets";

import { el, hook, setText } from "../core/dom";
import { count, plural } from "../core/format";
import { absent, noRuns } from "./emptyStates";
import { RunItem, type RunHooks } from "./runItem";
import { keyOf } from "./runRow";
import type { RunsModel } from "./runsModel";
import type { RunSummary, StoreSummary } from "./server";
import { disagreement } from "./versions";

/** Below this many the list is seen at a glance. */
const FILTER_FROM = 8;

export class RunList extends Widget {
  private items = new Map<string, RunItem>();
  private note = hook("p", "note", "dlfb-note");
  private filter = hook("input", "filter", "dlfb-filter");
  private filterRow = el("div", "dlfb-filter-row");
  private list = hook("ul", "runs", "dlfb-runs");
  private empty: HTMLElement;
  private absent: HTMLElement;
  private more = el("p", "dlfb-quiet");
  private stores = el("div", "dlfb-stores");

  constructor(
    private model: RunsModel,
    private hooks: RunHooks,
  ) {
    super();
    this.addClass("dlfb-run-list");
    this.title.label = "Runs";
    this.empty = noRuns();
    this.absent = absent(() => {
      model.start();
    });
    this.note.setAttribute("role", "status");
    this.filter.type = "search";
    this.filter.placeholder = "Filter by name, model or state";
    this.filter.ariaLabel = "Filter the runs";
    this.filter.addEventListener("input", () => {
      this.update();
    });
    this.list.ariaLabel = "Runs, newest first";
    this.list.addEventListener("keydown", (event) => {
      this.move(event);
    });
    this.list.addEventListener("focusin", ({ target }) => {
      const item = [...this.items.values()].find(({ node }) => node.contains(target as Node));
      if (item !== undefined) this.enterAt(item);
    });
    this.filterRow.append(this.filter);
    this.node.append(this.note, this.filterRow, this.empty, this.absent, this.list, this.more, this.stores);
    model.changed.connect(() => {
      this.update();
    });
  }

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this.update();
  }

  protected override onUpdateRequest(): void {
    if (!this.isVisible) return;
    const { answer, problem, runs, isAbsent } = this.model;
    const version = answer === null ? "" : disagreement(answer);
    setText(this.note, isAbsent ? "" : (problem?.message ?? version));
    this.note.hidden = this.note.textContent === "";
    this.absent.hidden = !isAbsent;
    this.empty.hidden = isAbsent || answer === null || runs.length > 0;
    this.node.ariaBusy = String(answer === null && problem === null);
    this.arrange(runs);
    const shown = this.narrow(runs);
    const more = [
      shown < runs.length ? `${count(shown)} of ${plural(runs.length, "run")} shown` : "",
      (answer?.reading ?? 0) > 0 ? `reading ${plural(answer?.reading ?? 0, "more journal")}…` : "",
      (answer?.hidden ?? 0) > 0 ? `${plural(answer?.hidden ?? 0, "older run")} not listed` : "",
    ];
    setText(this.more, more.filter((text) => text !== "").join(" · "));
    this.showStores((answer?.stores ?? []).filter((store) => store.problem !== ""));
  }

  /** Shows a run with its checkpoints, whatever the list was narrowed to. */
  reveal(run: RunSummary): void {
    this.filter.value = "";
    this.onUpdateRequest();
    const item = this.items.get(keyOf(run));
    if (item === undefined) return;
    item.open(true);
    item.opener.focus();
    item.node.scrollIntoView({ block: "nearest" });
  }

  /** Brings the rows in line with the runs; rows that stay are not touched, so they keep the focus. */
  private arrange(runs: readonly RunSummary[]): void {
    const { now_s } = this.model;
    const wanted = new Set(runs.map(keyOf));
    for (const [key, item] of this.items) {
      if (wanted.has(key)) continue;
      item.dispose();
      this.items.delete(key);
    }
    let next = this.list.firstElementChild;
    for (const run of runs) {
      let item = this.items.get(keyOf(run));
      if (item === undefined) {
        item = new RunItem(run, this.hooks);
        this.items.set(keyOf(run), item);
      }
      if (item.node === next) next = next.nextElementSibling;
      else this.list.insertBefore(item.node, next);
      item.update(run, this.model.askedOf(run), now_s);
    }
  }

  /** Hides what the filter leaves out; returns how many are left. */
  private narrow(runs: readonly RunSummary[]): number {
    this.filterRow.hidden = runs.length < FILTER_FROM && this.filter.value === "";
    const words = this.filter.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const { node, summary, opener } of this.items.values()) {
      const text = `${opener.ariaLabel ?? ""} ${summary.model} ${summary.task} ${summary.run}`.toLowerCase();
      const fits = words.every((word) => text.includes(word));
      node.hidden = !fits;
      if (fits) shown++;
    }
    const openers = this.openers();
    if (openers.length > 0 && openers.every(({ tabIndex }) => tabIndex !== 0)) openers[0].tabIndex = 0;
    return shown;
  }

  private openers(): HTMLButtonElement[] {
    return [...this.list.querySelectorAll<HTMLButtonElement>(".dlfb-run:not([hidden]) .dlfb-run-name")];
  }

  /** One stop of the tab key for the list, and arrows inside it. */
  private move(event: KeyboardEvent): void {
    const openers = this.openers();
    const at = openers.findIndex((opener) => opener.closest(".dlfb-run")?.contains(event.target as Node) === true);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: openers.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    openers.at(Math.min(Math.max(0, to), openers.length - 1))?.focus();
  }

  private enterAt(item: RunItem): void {
    for (const { opener } of this.items.values()) opener.tabIndex = opener === item.opener ? 0 : -1;
  }

  private showStores(stores: readonly StoreSummary[]): void {
    const key = JSON.stringify(stores);
    if (this.stores.dataset.shown === key) return;
    this.stores.dataset.shown = key;
    this.stores.replaceChildren(...stores.map((store) => this.storeLine(store)));
  }

  private storeLine({ store, path, problem }: StoreSummary): HTMLElement {
    const line = el("p", "dlfb-quiet");
    const forget = hook("button", "forget", "dlfb-link");
    forget.type = "button";
    forget.textContent = "Forget";
    forget.title = "Take this folder off the list. Nothing is deleted.";
    forget.addEventListener("click", () => {
      void this.model.forget(store).then((refusal) => {
        if (refusal !== "") line.append(el("span", "dlfb-refusal", ` ${refusal}`));
      });
    });
    line.append(el("span", "dlfb-path", path), `: ${problem} `, forget);
    return line;
  }
}
