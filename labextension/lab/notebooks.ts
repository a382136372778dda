// Where cells are put in.

import type { JupyterFrontEnd } from "@jupyterlab/application";
import type { INotebookTracker } from "@jupyterlab/notebook";

/** Puts a cell below the active one; `code` is told the notebook's path. Returns the path, or null without a notebook. */
export type Insert = (code: (notebook: string) => string) => string | null;

export function inserter(tracker: INotebookTracker | null, shell: JupyterFrontEnd.IShell): Insert {
  return (code) => {
    const panel = tracker?.currentWidget ?? null;
    const model = panel?.content.model ?? null;
    if (panel === null || model === null) return null;
    const { content, context } = panel;
    const at = content.activeCell === null ? 0 : content.activeCellIndex + 1;
    const source = code(context.localPath);
    model.sharedModel.insertCell(at, { cell_type: "code", source, metadata: { trusted: true } });
    content.activeCellIndex = at;
    content.deselectAll();
    shell.activateById(panel.id);
    void content.scrollToItem(at);
    return context.localPath;
  };
}
