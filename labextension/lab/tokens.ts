// Names that other parts of JupyterLab may use: of plugins, of commands, of the output's type.

import { Token } from "@lumino/coreutils";

import type { RunFeeds } from "./feed";

/** The runs that this page reads; every view of one run has the same feed. */
export const FEEDS = new Token<RunFeeds>("dlfb-lab:feeds", "dlfb_lab's runs as this page reads them");

/** What a cell's output holds about a run; see `dlfb_lab/views/bundle.py`. */
export const RUN_MIME = "application/vnd.dlfb-lab.run+json";

export const PLUGINS = {
  feeds: "dlfb-lab:feeds",
  sources: "dlfb-lab:sources",
  renderer: "dlfb-lab:renderer",
  panel: "dlfb-lab:panel",
  status: "dlfb-lab:status",
} as const;

export const COMMANDS = {
  openPanel: "dlfb-lab:open-panel",
  openLatest: "dlfb-lab:open-latest-run",
  openRun: "dlfb-lab:open-run",
  pauseRun: "dlfb-lab:pause-run",
  resumeRun: "dlfb-lab:resume-run",
  stopRun: "dlfb-lab:stop-run",
  forgetStore: "dlfb-lab:forget-store",
} as const;
