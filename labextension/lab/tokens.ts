// Names that other parts of JupyterLab may use: of plugins, of commands, of the output's type.

/** What a cell's output holds about a run; see `dlfb_lab/views/bundle.py`. */
export const RUN_MIME = "application/vnd.dlfb-lab.run+json";

export const PLUGINS = {
  sources: "dlfb-lab:sources",
  renderer: "dlfb-lab:renderer",
  panel: "dlfb-lab:panel",
  status: "dlfb-lab:status",
} as const;

export const COMMANDS = {
  openPanel: "dlfb-lab:open-panel",
  openLatest: "dlfb-lab:open-latest-run",
  openRun: "dlfb-lab:open-run",
  showRun: "dlfb-lab:show-run",
  pauseRun: "dlfb-lab:pause-run",
  resumeRun: "dlfb-lab:resume-run",
  stopRun: "dlfb-lab:stop-run",
} as const;
