// The checkpoints of a run, below it in the panel: what there is, what can be done with it, and the trash.

import { el, hook, setText } from "../core/dom";
import { count } from "../core/format";
import { diffCell, exportCell, reference, restoreCell, resumeCell } from "./cells";
import { CheckpointItem, childLine } from "./checkpointItem";
import { childrenOf, deletedText, olderThan, totalText, trashText, type Doing } from "./checkpointRow";
import { CheckpointsModel, type CheckpointsSource } from "./checkpointsModel";
import type { Insert } from "./notebooks";
import type { CheckpointsAnswer, CheckpointSummary, DeletedCheckpoint, RunSummary } from "./server";

const NO_NOTEBOOK = "No notebook is open. Open one: the cell is put below its active cell.";

export interface CheckpointListHooks {
  source: CheckpointsSource;
  insert: Insert;
  runs(): readonly RunSummary[];
  now_s(): number;
  openRun: (run: RunSummary) => void;
}

export class CheckpointList {
  readonly node = hook("div", "checkpoint-list", "dlfb-checkpoints");
  private model: CheckpointsModel;
  private items = new Map<string, CheckpointItem>();
  private total = hook("span", "total");
  private verifyAll = hook("button", "verify-all", "dlfb-button");
  private said = hook("div", "said", "dlfb-checkpoints-said");
  private saidText = el("span");
  private undo = this.link("Undo", () => this.model.change("undo", this.model.said.undo));
  private list = el("ul", "dlfb-checkpoint-items");
  private orphans = hook("div", "orphans", "dlfb-checkpoint-children");
  private trash = hook("div", "trash", "dlfb-trash");
  private unsubscribe: () => void;

  constructor(
    run: RunSummary,
    private hooks: CheckpointListHooks,
  ) {
    const { store } = run;
    this.model = new CheckpointsModel(hooks.source, { store, run: run.run }, () => this.node.offsetParent === null);
    this.node.setAttribute("role", "group");
    this.node.ariaLabel = `Checkpoints of ${run.name}`;
    // Else what the run's row says would be said of each of them.
    this.node.title = "";
    this.verifyAll.type = "button";
    this.verifyAll.textContent = "Verify all";
    this.verifyAll.title = "Read the files of all checkpoints and compare their checksums";
    this.verifyAll.addEventListener("click", () => void this.model.change("verify"));
    this.said.setAttribute("role", "status");
    this.said.append(this.saidText, " ", this.undo);
    this.list.ariaLabel = "Checkpoints, latest first";
    const head = el("div", "dlfb-checkpoint-line");
    head.append(this.total, this.verifyAll);
    this.node.append(head, this.said, this.list, this.orphans, this.trash);
    const update = (): void => {
      this.update();
    };
    this.model.changed.connect(update);
    this.unsubscribe = () => this.model.changed.disconnect(update);
    this.update();
    this.model.start();
  }

  dispose(): void {
    this.unsubscribe();
    this.model.dispose();
    this.node.remove();
  }

  /** Shows what is known by now; times go on by themselves. */
  update(): void {
    const { answer, problem, said } = this.model;
    setText(this.total, answer === null ? problem || "Reading…" : totalText(answer));
    const text = said.text || (answer === null ? "" : problem);
    // It is always there, so that whoever listens to the page is told when it changes.
    this.said.dataset.empty = String(text === "");
    this.said.classList.toggle("dlfb-refusal", said.isRefusal || said.text === "");
    setText(this.saidText, text);
    this.undo.hidden = said.undo === "";
    this.verifyAll.hidden = answer === null || answer.checkpoints.length === 0;
    const isBusy = answer?.checkpoints.some(({ verifying }) => verifying) === true;
    this.verifyAll.ariaDisabled = String(isBusy || this.model.isPending("verify", ""));
    if (answer === null) return;
    this.arrange(answer);
    this.showOrphans(answer);
    this.showTrash(answer);
  }

  private arrange(answer: CheckpointsAnswer): void {
    const wanted = new Set(answer.checkpoints.map(({ name }) => name));
    for (const [name, { node }] of this.items) {
      if (wanted.has(name)) continue;
      // The keyboard goes where it can be undone.
      if (node.contains(document.activeElement)) (this.undo.hidden ? this.verifyAll : this.undo).focus();
      node.remove();
      this.items.delete(name);
    }
    const children = childrenOf(this.hooks.runs(), answer.run);
    let next = this.list.firstElementChild;
    for (const checkpoint of answer.checkpoints) {
      const { name, step } = checkpoint;
      let item = this.items.get(name);
      if (item === undefined) {
        item = new CheckpointItem(checkpoint, {
          act: (doing, about, refusal) => {
            this.act(doing, about, refusal);
          },
          openRun: this.hooks.openRun,
        });
        this.items.set(name, item);
      }
      if (item.node === next) next = next.nextElementSibling;
      else this.list.insertBefore(item.node, next);
      const began = children.filter(({ parent_step }) => parent_step === step);
      item.update(checkpoint, olderThan(checkpoint, answer), began, this.busyWith(checkpoint), this.hooks.now_s());
    }
  }

  private busyWith({ name, verifying }: CheckpointSummary): ReadonlySet<Doing> {
    const busy = new Set<Doing>();
    if (verifying || this.model.isPending("verify", name)) busy.add("verify");
    if (this.model.isPending("pin", name) || this.model.isPending("unpin", name)) busy.add("pin");
    if (this.model.isPending("delete", name)) busy.add("delete");
    return busy;
  }

  private act(doing: Doing, checkpoint: CheckpointSummary, refusal: string): void {
    const { answer } = this.model;
    if (answer === null || this.busyWith(checkpoint).has(doing)) return;
    if (refusal !== "") {
      this.model.say(refusal, true);
      return;
    }
    const { name, step, pinned } = checkpoint;
    const older = olderThan(checkpoint, answer);
    const named = (notebook: string, of = step): string => reference(answer, of, notebook);
    switch (doing) {
      case "verify":
      case "delete":
        void this.model.change(doing, name);
        break;
      case "pin":
        void this.model.change(pinned ? "unpin" : "pin", name);
        break;
      case "restore":
        this.insert((notebook) => restoreCell(named(notebook)));
        break;
      case "resume":
        this.insert((notebook) => resumeCell(named(notebook), answer.source));
        break;
      case "diff":
        this.insert((notebook) => diffCell(named(notebook, older?.step), named(notebook)));
        break;
      case "export":
        this.insert((notebook) => exportCell(named(notebook), answer.run, step));
        break;
    }
  }

  private insert(code: (notebook: string) => string): void {
    const notebook = this.hooks.insert(code);
    if (notebook === null) this.model.say(NO_NOTEBOOK, true);
    else this.model.say(`A cell was put into ${notebook}. Run it when you like.`);
  }

  /** Runs that began from checkpoints which are there no more. */
  private showOrphans(answer: CheckpointsAnswer): void {
    const steps = new Set(answer.checkpoints.map(({ step }) => step));
    const left = childrenOf(this.hooks.runs(), answer.run).filter(({ parent_step = 0 }) => !steps.has(parent_step));
    const key = JSON.stringify(left.map(({ store, run, name }) => [store, run, name]));
    if (this.orphans.dataset.shown === key) return;
    this.orphans.dataset.shown = key;
    this.orphans.replaceChildren(
      ...left.map((child) => childLine(child, this.hooks.openRun, `step ${count(child.parent_step ?? 0)}`)),
    );
  }

  private showTrash(answer: CheckpointsAnswer): void {
    const lines = answer.trash.map((deleted) => deletedText(deleted, this.hooks.now_s()));
    const key = JSON.stringify([lines, answer.trash.map(({ name }) => name)]);
    if (this.trash.dataset.shown === key) return;
    this.trash.dataset.shown = key;
    if (this.trash.contains(document.activeElement)) this.verifyAll.focus();
    this.trash.hidden = answer.trash.length === 0;
    const list = el("ul", "dlfb-checkpoint-items");
    list.append(...answer.trash.map((deleted, i) => this.trashLine(deleted, lines[i])));
    this.trash.replaceChildren(el("div", "", trashText(answer)), list);
  }

  private trashLine(deleted: DeletedCheckpoint, text: string): HTMLElement {
    const line = el("li", "dlfb-checkpoint-line");
    const undo = this.link("Undo", () => this.model.change("undo", deleted.name));
    undo.ariaLabel = `Take back step ${count(deleted.step)}`;
    line.append(el("span", "", text), undo);
    return line;
  }

  private link(text: string, act: () => Promise<void>): HTMLButtonElement {
    const link = hook("button", "undo", "dlfb-link");
    link.type = "button";
    link.textContent = text;
    link.addEventListener("click", () => void act());
    return link;
  }
}
