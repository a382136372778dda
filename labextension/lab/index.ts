// The plugins that JupyterLab finds in this extension.

import "uplot/dist/uPlot.min.css";
import "../core/theme.css";

import type { JupyterFrontEndPlugin } from "@jupyterlab/application";

import { panelPlugin, statusPlugin } from "./panelPlugins";
import { rendererPlugin } from "./renderer";
import { sourcesPlugin } from "./sources";

const plugins: JupyterFrontEndPlugin<unknown>[] = [sourcesPlugin, rendererPlugin, panelPlugin, statusPlugin];

export default plugins;
