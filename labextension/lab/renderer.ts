// Draws a run in a cell's output, from its journal.

import type { JupyterFrontEndPlugin } from "@jupyterlab/application";

import { PLUGINS } from "./tokens";

export const rendererPlugin: JupyterFrontEndPlugin<void> = {
  id: PLUGINS.renderer,
  description: "Draws dlfb_lab's runs in the outputs of cells, live.",
  autoStart: true,
  activate: () => undefined,
};
