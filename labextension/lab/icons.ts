// Pictures in JupyterLab's manner: its classes give them the theme's colours.

import { LabIcon } from "@jupyterlab/ui-components";

const svg = (body: string): string =>
  `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">${body}</svg>`;

/** A loss that falls, and the scores of the validation data over it. */
export const runsIcon = new LabIcon({
  name: "dlfb-lab:runs",
  svgstr: svg(
    `<g class="jp-icon3" fill="none" stroke="#616161" stroke-width="2" stroke-linecap="round" stroke-linejoin="round">` +
      `<path d="M3.5 3.5v17h17"/><path d="M7 5.5c1.5 8 4.5 10.5 13 11"/></g>` +
      `<g class="jp-icon3" fill="#616161"><circle cx="12.5" cy="8.5" r="1.4"/><circle cx="19" cy="11" r="1.4"/></g>`,
  ),
});

export const pauseIcon = new LabIcon({
  name: "dlfb-lab:pause",
  svgstr: svg(`<path class="jp-icon3" fill="#616161" d="M7 5h4v14H7zM13 5h4v14h-4z"/>`),
});
