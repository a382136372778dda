// The side panel with its tabs and commands, and the status bar's item.

import "./panel.css";

import { ILayoutRestorer, type JupyterFrontEndPlugin } from "@jupyterlab/application";
import { ICommandPalette, WidgetTracker } from "@jupyterlab/apputils";
import { INotebookTracker } from "@jupyterlab/notebook";
import { IStatusBar } from "@jupyterlab/statusbar";

import { addCommands, fillPalette } from "./commands";
import { DevicesModel } from "./devicesModel";
import { inserter } from "./notebooks";
import { RunsPanel } from "./panel";
import type { RunTab } from "./runTab";
import type { RunSummary } from "./server";
import { ISources, type Sources } from "./sources";
import { StatusItem } from "./statusItem";
import { COMMANDS, PLUGINS } from "./tokens";

const PANEL_RANK = 350;

export const panelPlugin: JupyterFrontEndPlugin<void> = {
  id: PLUGINS.panel,
  description: "Lists dlfb_lab's runs and shows what the machine is doing; opens runs in tabs.",
  autoStart: true,
  requires: [ISources],
  optional: [ICommandPalette, ILayoutRestorer, INotebookTracker],
  activate: (
    app,
    sources: Sources,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null,
    notebooks: INotebookTracker | null,
  ) => {
    const { feeds, runs, server } = sources;
    const tabs = new WidgetTracker<RunTab>({ namespace: "dlfb-run" });
    const open = ({ store, run, name }: RunSummary): void =>
      void app.commands.execute(COMMANDS.openRun, { store, run, name });
    const panel = new RunsPanel(runs, new DevicesModel(server), {
      open,
      control: (run, action) => void runs.control(run, action),
      checkpoints: {
        source: server,
        insert: inserter(notebooks, app.shell),
        runs: () => runs.runs,
        now_s: () => runs.now_s,
        openRun: open,
      },
    });
    addCommands({ app, runs, feeds, tabs, panel });
    if (palette !== null) fillPalette(palette);
    app.shell.add(panel, "left", { rank: PANEL_RANK });
    restorer?.add(panel, panel.id);
    void restorer?.restore(tabs, {
      command: COMMANDS.openRun,
      args: ({ content: { ref, name } }) => ({ ...ref, name, restored: true }),
      name: ({ content: { ref } }) => `${ref.store}/${ref.run}`,
    });
    void app.started.then(() => {
      runs.start();
    });
  },
};

export const statusPlugin: JupyterFrontEndPlugin<void> = {
  id: PLUGINS.status,
  description: "Says in the status bar which of dlfb_lab's runs go on.",
  autoStart: true,
  requires: [ISources, IStatusBar],
  activate: ({ commands }, { runs }: Sources, statusBar: IStatusBar) => {
    const item = new StatusItem(runs, () => void commands.execute(COMMANDS.openPanel));
    statusBar.registerStatusItem(PLUGINS.status, {
      item,
      align: "left",
      rank: 900,
      isActive: () => item.isActive,
      activeStateChanged: runs.changed,
    });
  },
};
