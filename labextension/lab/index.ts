// The plugins that JupyterLab finds in this extension.

import "uplot/dist/uPlot.min.css";
import "../core/theme.css";

import type { JupyterFrontEndPlugin } from "@jupyterlab/application";

import { rendererPlugin } from "./renderer";

const plugins: JupyterFrontEndPlugin<unknown>[] = [rendererPlugin];

export default plugins;
