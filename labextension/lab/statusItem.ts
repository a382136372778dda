// The status bar's word about the runs that go on.

import { Widget } from "@lumino/widgets";

import { el, setText } from "../core/dom";
import type { RunsModel } from "./runsModel";
import { statusOf } from "./statusText";

export class StatusItem extends Widget {
  private button = el("button", "dlfb-status-item");

  constructor(
    private model: RunsModel,
    open: () => void,
  ) {
    super();
    this.addClass("jp-mod-highlighted");
    this.button.type = "button";
    this.button.dataset.dlfb = "status";
    this.button.addEventListener("click", open);
    this.node.append(this.button);
    model.changed.connect(() => {
      this.update();
    });
  }

  get isActive(): boolean {
    return statusOf(this.model.runs, this.model.now_s) !== null;
  }

  protected override onUpdateRequest(): void {
    const status = statusOf(this.model.runs, this.model.now_s);
    setText(this.button, status?.text ?? "");
    this.button.title = status?.title ?? "";
  }
}
