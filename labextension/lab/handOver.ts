// What stands in an output whose run cannot be read from here: what the notebook kept of it, and the live widget where
// a kernel or the notebook still has that.

import type { NotebookPanel } from "@jupyterlab/notebook";
import type { IRenderMimeRegistry } from "@jupyterlab/rendermime";
import type { IRenderMime } from "@jupyterlab/rendermime-interfaces";
import { Panel, Widget } from "@lumino/widgets";

import { hook, setText } from "../core/dom";
import { staticPart, WIDGET_MIME, widgetOf } from "./bundle";

const WIDGET_STATE_MIME = "application/vnd.jupyter.widget-state+json";
/** A kernel that is free answers sooner. */
const SILENCE_MS = 1000;

/** Where an output is shown. */
export interface Host {
  /** how the other parts of the output are drawn there */
  rendermime: IRenderMimeRegistry;
  /** null where no widget can be shown, as in a console */
  panel: NotebookPanel | null;
}

/** Why the run is not drawn from its journal; empty when nobody needs to know. */
export interface Reason {
  text: string;
  /** not only beside what the notebook kept, but also beside the live widget */
  always: boolean;
}

export class HandOver extends Panel {
  private line = new Widget({ node: hook("div", "why", "dlfb-why") });
  private kept: Widget | null = null;
  private widget: Widget | null = null;
  private arrived = false;
  private reason: Reason = { text: "", always: false };
  private arrivals = new MutationObserver(() => {
    this.arrange();
  });

  constructor(
    private host: Host,
    model: IRenderMime.IMimeModel,
  ) {
    super();
    this.addClass("dlfb-hand-over");
    this.addWidget(this.line);
    this.keep(model);
    if (model.trusted) void this.mountWidget(model);
  }

  /** Shows what the output now holds without a server and a kernel. */
  keep({ data, metadata, trusted }: IRenderMime.IMimeModel): void {
    const { rendermime } = this.host;
    const part = staticPart(data);
    const mime = rendermime.preferredMimeType(part, trusted ? "any" : "ensure");
    this.kept?.dispose();
    this.kept = null;
    if (mime !== undefined) {
      const renderer = rendermime.createRenderer(mime);
      renderer.renderModel(rendermime.createModel({ data: part, metadata, trusted })).catch(() => {
        renderer.dispose();
      });
      this.addWidget(renderer);
      this.kept = renderer;
    }
    this.arrange();
  }

  explain(reason: Reason): void {
    this.reason = reason;
    this.arrange();
  }

  override dispose(): void {
    this.arrivals.disconnect();
    super.dispose();
  }

  /** A widget says "Loading" or an error until it has its model, if ever: it is hidden until it draws. */
  private async mountWidget(model: IRenderMime.IMimeModel): Promise<void> {
    const { panel, rendermime } = this.host;
    if (panel === null || rendermime.getFactory(WIDGET_MIME) === undefined) return;
    if (!(await hasWidget(panel, widgetOf(model.data))) || this.isDisposed) return;
    const renderer = rendermime.createRenderer(WIDGET_MIME);
    this.widget = renderer;
    this.arrivals.observe(renderer.node, { childList: true, subtree: true });
    this.arrange();
    this.addWidget(renderer);
    renderer.renderModel(model).catch(() => {
      renderer.dispose();
    });
  }

  private arrange(): void {
    this.arrived = (this.widget?.node.querySelector(".dlfb-dash") ?? null) !== null;
    const { text, always } = this.reason;
    this.widget?.setHidden(!this.arrived);
    this.kept?.setHidden(this.arrived);
    this.line.setHidden(text === "" || (this.arrived && !always));
    setText(this.line.node, text);
  }
}

/** Whether the notebook or its kernel has the widget's model: asking for one that is gone is an error in the console. */
async function hasWidget({ context, content, sessionContext }: NotebookPanel, id: string): Promise<boolean> {
  if (id === "") return false;
  await context.ready;
  const saved = content.model?.getMetadata("widgets") as SavedWidgets | undefined;
  if (saved?.[WIDGET_STATE_MIME]?.state?.[id] !== undefined) return true;
  await sessionContext.ready;
  const kernel = sessionContext.session?.kernel ?? null;
  if (kernel === null) return false;
  if (kernel.hasComm(id)) return true;
  const known = kernel.requestCommInfo({ target_name: "jupyter.widget" }).then(
    ({ content: reply }) => reply.status === "ok" && id in reply.comms,
    () => false,
  );
  // A kernel inside a cell answers only at its end, and may call itself idle: its subshells do. That cell may be the
  // one that shows the widget, and one that never draws stays hidden.
  return Promise.race([known, new Promise<boolean>((resolve) => setTimeout(resolve, SILENCE_MS, true))]);
}

type SavedWidgets = Record<string, { state?: Record<string, unknown> } | undefined>;
