// What all parts of the extension share: the server's routes, the feeds of single runs, the list of all.

import type { JupyterFrontEndPlugin } from "@jupyterlab/application";
import { Token } from "@lumino/coreutils";

import { RunFeeds } from "./feed";
import { RunsModel } from "./runsModel";
import { Server } from "./server";
import { COMMANDS, PLUGINS } from "./tokens";

export interface Sources {
  server: Server;
  feeds: RunFeeds;
  runs: RunsModel;
}

export const ISources = new Token<Sources>("dlfb-lab:ISources", "Where dlfb_lab's views get runs from.");

export const sourcesPlugin: JupyterFrontEndPlugin<Sources> = {
  id: PLUGINS.sources,
  description: "Asks the server for dlfb_lab's runs, once for all views.",
  autoStart: true,
  provides: ISources,
  activate: ({ serviceManager, commands }) => {
    const server = new Server(serviceManager.serverSettings);
    const feeds = new RunFeeds(server, ({ store, run }) => {
      if (commands.hasCommand(COMMANDS.showRun)) void commands.execute(COMMANDS.showRun, { store, run });
    });
    // Polls stood by while the page was hidden; their next turn can be seconds away.
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) feeds.wake();
    });
    return { server, feeds, runs: new RunsModel(server) };
  },
};
