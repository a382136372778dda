// The side panel with its tabs and commands, and the status bar's item.

import "./panel.css";

import { ILayoutRestorer, type JupyterFrontEndPlugin } from "@jupyterlab/application";
import { ICommandPalette, WidgetTracker } from "@jupyterlab/apputils";
import { IStatusBar } from "@jupyterlab/statusbar";

import { addCommands, fillPalette } from "./commands";
import { DevicesModel } from "./devicesModel";
import { RunsPanel } from "./panel";
import type { RunTab } from "./runTab";
import { ISources, type Sources } from "./sources";
import { StatusItem } from "./statusItem";
import { COMMANDS, PLUGINS } from "./tokens";

const PANEL_RANK = 350;

export const panelPlugin: JupyterFrontEndPlugin<void> = {
  id: PLUGINS.panel,
  description: "Lists dlfb_lab's runs and shows what the machine is doing; opens runs in tabs.",
  autoStart: true,
  requires: [ISources],
  optional: [ICommandPalette, ILayoutRestorer],
  activate: (app, sources: Sources, palette: ICommandPalette | null, restorer: ILayoutRestorer | null) => {
    const { feeds, runs, server } = sources;
    const tabs = new WidgetTracker<RunTab>({ namespace: "dlfb-run" });
    addCommands({ app, runs, feeds, tabs });
    if (palette !== null) fillPalette(palette);
    const panel = new RunsPanel(runs, new DevicesModel(server), {
      open: ({ store, run, name }) => void app.commands.execute(COMMANDS.openRun, { store, run, name }),
      control: (run, action) => void runs.control(run, action),
    });
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
