// The side panel: the runs above, the machine below. JupyterLab keeps the sizes of the two, and which is folded in.

import { SidePanel } from "@jupyterlab/ui-components";
import type { Message } from "@lumino/messaging";
import { AccordionPanel } from "@lumino/widgets";

import { readPalette, watchTheme } from "../core/palette";
import { DeviceView } from "./deviceView";
import type { DevicesModel } from "./devicesModel";
import { runsIcon } from "./icons";
import type { RunHooks } from "./runItem";
import { RunList } from "./runList";
import type { RunsModel } from "./runsModel";
import type { RunSummary } from "./server";

export const PANEL_ID = "dlfb-lab-panel";
const SHARES = [3, 2];

export class RunsPanel extends SidePanel {
  private life = new AbortController();
  private list: RunList;

  constructor(
    private runs: RunsModel,
    devices: DevicesModel,
    hooks: RunHooks,
  ) {
    super();
    this.id = PANEL_ID;
    this.title.icon = runsIcon;
    this.title.caption = "Training runs";
    this.node.ariaLabel = "Training runs";
    this.list = new RunList(runs, hooks);
    for (const section of [this.list, new DeviceView(devices, runs)]) {
      section.addClass("dlfb-panel");
      this.addWidget(section);
    }
    if (this.content instanceof AccordionPanel) this.content.setRelativeSizes(SHARES);
    watchTheme(() => {
      this.readTheme();
    }, this.life.signal);
  }

  /** Shows a run with its checkpoints. */
  reveal(run: RunSummary): void {
    if (this.content instanceof AccordionPanel) this.content.expand(0);
    this.list.reveal(run);
  }

  override dispose(): void {
    this.life.abort();
    super.dispose();
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    this.readTheme();
    this.runs.watch(this.isVisible);
  }

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this.runs.watch(true);
  }

  protected override onAfterHide(message: Message): void {
    super.onAfterHide(message);
    this.runs.watch(false);
  }

  protected override onBeforeDetach(message: Message): void {
    this.runs.watch(false);
    super.onBeforeDetach(message);
  }

  private readTheme(): void {
    for (const { node } of this.widgets) readPalette(node);
  }
}
