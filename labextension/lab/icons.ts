// Pictures in JupyterLab's manner: its classes give them the theme's colours.

import { LabIcon } from "@jupyterlab/ui-components";

const svg = (body: string): string =>
  `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">${body}</svg>`;

/** A loss that falls. The theme fills whatever has a `fill`, even "none", so the lines have none. */
export const runsIcon = new LabIcon({
  name: "dlfb-lab:runs",
  svgstr: svg(
    `<g class="jp-icon3" style="fill:none" stroke="#616161" stroke-width="2" stroke-linecap="round" stroke-linejoin="round">` +
      `<path d="M3.5 3v17.5H21"/><path d="M7 5c1.2 7.5 4 11 13 11.5"/></g>` +
      `<g class="jp-icon3" fill="#616161"><circle cx="20" cy="16.5" r="2"/></g>`,
  ),
});

export const pauseIcon = new LabIcon({
  name: "dlfb-lab:pause",
  svgstr: svg(`<path class="jp-icon3" fill="#616161" d="M7 5h4v14H7zM13 5h4v14h-4z"/>`),
});
