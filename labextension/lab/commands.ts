// What can be done from the palette, the keyboard, and by other extensions.

import type { JupyterFrontEnd } from "@jupyterlab/application";
import { InputDialog, showErrorMessage, type ICommandPalette, type WidgetTracker } from "@jupyterlab/apputils";
import type { ReadonlyPartialJSONObject } from "@lumino/coreutils";

import type { Action } from "../core/runStore";
import type { RunFeeds, RunRef } from "./feed";
import { refOf, runsMeant } from "./finding";
import { runsIcon } from "./icons";
import { PANEL_ID, type RunsPanel } from "./panel";
import { actionsOf, keyOf, rowOf, stateOf } from "./runRow";
import type { RunsModel } from "./runsModel";
import { runTab, tabId, type RunTab } from "./runTab";
import type { RunSummary } from "./server";
import { COMMANDS } from "./tokens";

const CATEGORY = "dlfb_lab";
const NOT_FOUND = "This run was not found";

const RUN_ARGS = {
  args: {
    type: "object",
    properties: {
      run: { type: "string", description: "The run's id, the name of its folder" },
      store: { type: "string", description: "The key of the store that the run is in, where an id is not enough" },
      name: { type: "string", description: "The run's name, shown until its journal has been read" },
      restored: { type: "boolean", description: "Whether this is a tab of the last session: a lost one is let go" },
    },
  },
} as const;

const NO_ARGS = { args: { type: "object", properties: {} } } as const;

export interface Parts {
  app: JupyterFrontEnd;
  runs: RunsModel;
  feeds: RunFeeds;
  tabs: WidgetTracker<RunTab>;
  panel: RunsPanel;
}

export function addCommands(parts: Parts): void {
  const { commands, shell } = parts.app;
  commands.addCommand(COMMANDS.openPanel, {
    label: "Show the training runs",
    caption: "The runs of all notebooks, and what the machine is doing",
    icon: runsIcon,
    describedBy: NO_ARGS,
    execute: () => {
      shell.activateById(PANEL_ID);
    },
  });
  commands.addCommand(COMMANDS.openLatest, {
    label: "Open the latest run",
    caption: "The dashboard of the run that was started last",
    icon: runsIcon,
    describedBy: NO_ARGS,
    isEnabled: () => parts.runs.runs.length > 0,
    execute: () => {
      const latest = parts.runs.runs.at(0);
      if (latest !== undefined) openTab(parts, latest, latest.name);
    },
  });
  commands.addCommand(COMMANDS.openRun, {
    label: "Open a run…",
    caption: "The dashboard of a run",
    icon: runsIcon,
    describedBy: RUN_ARGS,
    execute: async (args) => {
      if (args.restored !== true && args.run === undefined) {
        const picked = await pick(parts.runs);
        if (picked !== null) openTab(parts, picked, picked.name);
        return;
      }
      const ref = refOf(parts.runs.runs, args);
      if (ref !== null) openTab(parts, ref, ref.name);
      // The restorer forgets a tab whose command fails.
      else if (args.restored === true) throw new Error(NOT_FOUND);
      else await showErrorMessage(NOT_FOUND, notFound(parts.runs, JSON.stringify(args.run)));
    },
  });
  commands.addCommand(COMMANDS.showRun, {
    label: "Show a run in the panel",
    caption: "The run in the list of all runs, with its checkpoints",
    icon: runsIcon,
    describedBy: RUN_ARGS,
    execute: async (args) => {
      const { runs } = parts.runs;
      const run =
        runs.find((one) => one.run === args.run && one.store === args.store) ??
        runs.find((one) => one.run === args.run);
      if (run === undefined) {
        await showErrorMessage(NOT_FOUND, notFound(parts.runs, JSON.stringify(args.run)));
        return;
      }
      shell.activateById(PANEL_ID);
      parts.panel.reveal(run);
    },
  });
  const actions: [string, Action, string][] = [
    [COMMANDS.pauseRun, "pause", "Pause the running run"],
    [COMMANDS.resumeRun, "resume", "Resume the paused run"],
    [COMMANDS.stopRun, "stop", "Stop the running run"],
  ];
  for (const [id, action, label] of actions) {
    const of = (args: ReadonlyPartialJSONObject): RunSummary | null => target(parts, action, args);
    commands.addCommand(id, {
      label: (args) => {
        const run = of(args);
        return run === null ? label : `${label} (${rowOf(run, 0).name})`;
      },
      caption: "The one that is open, else the latest",
      describedBy: RUN_ARGS,
      isEnabled: (args) => of(args) !== null,
      execute: async (args) => {
        const run = of(args);
        if (run !== null) await parts.runs.control(run, action);
      },
    });
  }
  keepCurrent(parts);
}

export function fillPalette(palette: ICommandPalette): void {
  const { openPanel, openLatest, openRun, pauseRun, resumeRun, stopRun } = COMMANDS;
  for (const command of [openPanel, openLatest, openRun, pauseRun, resumeRun, stopRun]) {
    palette.addItem({ command, category: CATEGORY });
  }
}

function openTab({ app, feeds, tabs }: Parts, ref: RunRef, name: string): void {
  let tab = tabs.find(({ id }) => id === tabId(ref));
  if (tab === undefined) {
    tab = runTab(feeds, { store: ref.store, run: ref.run }, name);
    void tabs.add(tab);
  }
  if (!tab.isAttached) app.shell.add(tab, "main");
  app.shell.activateById(tab.id);
}

function notFound({ answer, problem }: RunsModel, called: string): string {
  if (answer === null) return problem?.message ?? "The runs have not been listed yet.";
  return `There is no run ${called} on this Jupyter server.`;
}

/** Asks until one run is meant, or nobody wants one any more. */
async function pick(model: RunsModel): Promise<RunSummary | null> {
  let { runs } = model;
  let label = runs.length === 0 ? "There are no runs yet." : "Its name or its id; typing narrows the list.";
  for (;;) {
    const lines = runs.map((run) => {
      const { name, state, when } = rowOf(run, model.now_s);
      return [name, state, when, run.run].filter((text) => text !== "").join(" · ");
    });
    const { value } = await InputDialog.getItem({
      title: "Open a run",
      label,
      // The dialog fills in the first item; an empty one leaves room to type.
      items: ["", ...lines],
      editable: true,
      okLabel: "Open",
    });
    const text = value?.trim() ?? "";
    if (text === "") return null;
    const meant = runsMeant(runs, lines, text);
    if (meant.length === 1) return meant[0];
    runs = meant.length > 0 ? meant : model.runs;
    label = meant.length > 0 ? `${meant.length} runs are called “${text}”. Which one?` : notFound(model, `“${text}”`);
  }
}

/** The run that a command without arguments is about: the one in front, if it can do this, else the latest that can. */
function target({ runs, tabs, app }: Parts, action: Action, args: ReadonlyPartialJSONObject): RunSummary | null {
  const able = (run: RunSummary | null): boolean => run !== null && actionsOf(run).includes(action);
  if (typeof args.run === "string") {
    const ref = refOf(runs.runs, args);
    const run = ref === null ? null : runs.find(ref.store, ref.run);
    return able(run) ? run : null;
  }
  const front = tabs.find((tab) => tab === app.shell.currentWidget);
  const open = front === undefined ? null : runs.find(front.content.ref.store, front.content.ref.run);
  return able(open) ? open : (runs.live.find(able) ?? null);
}

/** What is enabled depends on the runs and on the tab in front. */
function keepCurrent({ app, runs }: Parts): void {
  let last = "";
  runs.changed.connect(() => {
    const now = JSON.stringify([runs.runs.length > 0, runs.live.map((run) => [keyOf(run), stateOf(run)])]);
    if (now === last) return;
    last = now;
    app.commands.notifyCommandChanged();
  });
  app.shell.currentChanged?.connect(() => {
    app.commands.notifyCommandChanged(COMMANDS.stopRun);
    app.commands.notifyCommandChanged(COMMANDS.pauseRun);
    app.commands.notifyCommandChanged(COMMANDS.resumeRun);
  });
}
