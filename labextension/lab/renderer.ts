// Draws a run in a cell's output, from its journal.

import "./renderer.css";

import type { JupyterFrontEndPlugin } from "@jupyterlab/application";
import type { NotebookPanel } from "@jupyterlab/notebook";
import { IRenderMimeRegistry } from "@jupyterlab/rendermime";
import type { IRenderMime } from "@jupyterlab/rendermime-interfaces";
import { Panel, Widget } from "@lumino/widgets";

import { runOf, type NamedRun } from "./bundle";
import { mountRun, NOT_THERE, type RunFeed, type RunFeeds } from "./feed";
import { HandOver, type Host, type Reason } from "./handOver";
import { UNREACHABLE, type ServerError } from "./server";
import { ISources, type Sources } from "./sources";
import { PLUGINS, RUN_MIME } from "./tokens";

/** Above the widgets, whose manager takes -10 in each notebook. */
const RANK = -20;
/** A kernel may show a run a moment before its journal can be found. */
const GIVE_UP_MS = 5000;

const ENABLE =
  "The live view of JupyterLab needs dlfb_lab's server extension, which is not running here: type  " +
  "jupyter server extension enable dlfb_lab  in a terminal and restart JupyterLab.";

export const rendererPlugin: JupyterFrontEndPlugin<void> = {
  id: PLUGINS.renderer,
  description: "Draws dlfb_lab's runs in the outputs of cells, live.",
  autoStart: true,
  requires: [ISources, IRenderMimeRegistry],
  activate: ({ docRegistry }, { feeds }: Sources, everywhere: IRenderMimeRegistry) => {
    const add = (rendermime: IRenderMimeRegistry, panel: NotebookPanel | null): void => {
      const createRenderer = (): RunOutput => new RunOutput(feeds, { rendermime, panel });
      rendermime.addFactory({ safe: true, mimeTypes: [RUN_MIME], createRenderer }, RANK);
    };
    add(everywhere, null);
    docRegistry.addWidgetExtension("Notebook", {
      createNew: (panel: NotebookPanel) => {
        add(panel.content.rendermime, panel);
      },
    });
  },
};

/** One output. It draws the run itself, unless that cannot be read: then it gives way to what else the output holds. */
export class RunOutput extends Panel implements IRenderMime.IRenderer {
  private shown = "";
  private model: IRenderMime.IMimeModel | null = null;
  private handOver: HandOver | null = null;
  private keepTrying: (() => void) | null = null;
  private stopTrying: (() => void) | null = null;
  private endings: (() => void)[] = [];

  constructor(
    private feeds: RunFeeds,
    private host: Host,
  ) {
    super();
    this.addClass("dlfb-output");
  }

  /** Draws the output, and keeps the drawing where it is of the same run: a bundle grows while the run goes on. */
  renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    this.model = model;
    const run = runOf(model.data);
    const key = JSON.stringify([run, model.trusted]);
    if (run !== null && key === this.shown) {
      this.handOver?.keep(model);
      if (this.handOver !== null) this.keepTrying?.();
    } else {
      this.clear();
      this.shown = key;
      if (run === null) this.giveWay({ text: "", always: false });
      else this.draw(run, model.trusted);
    }
    return Promise.resolve();
  }

  override dispose(): void {
    this.clear();
    super.dispose();
  }

  private clear(): void {
    this.stopTrying?.();
    for (const end of this.endings.splice(0)) end();
    for (const widget of [...this.widgets]) widget.dispose();
    this.handOver = this.keepTrying = null;
  }

  private draw(run: NamedRun, trusted: boolean): void {
    const { feed, release } = this.feeds.take(run, run.name);
    const dashboard = new Widget();
    dashboard.addClass("dlfb-host");
    this.addWidget(dashboard);
    const arrange = (): void => {
      const failure = feed.known ? null : feed.failure;
      // Until the first answer it keeps its place without being seen: nothing flashes, and nothing jumps.
      dashboard.toggleClass("dlfb-asking", !feed.known && feed.store.notes.length === 0);
      dashboard.setHidden(failure !== null);
      if (failure === null) this.comeBack();
      else this.giveWay(reasonOf(failure), failure.code !== "absent");
    };
    this.keepTrying = () => {
      this.tryOn(feed);
    };
    this.endings.push(feed.store.subscribe(arrange), mountRun(dashboard.node, feed, !trusted), release);
    arrange();
  }

  private giveWay(reason: Reason, mayCome = false): void {
    if (this.handOver === null && this.model !== null) {
      this.handOver = new HandOver(this.host, this.model);
      this.addWidget(this.handOver);
      if (mayCome) this.keepTrying?.();
    }
    this.handOver?.explain(reason);
  }

  private comeBack(): void {
    this.stopTrying?.();
    this.handOver?.dispose();
    this.handOver = null;
  }

  /** Asks on, though the dashboard is not on the screen: for good while it is the network that fails. */
  private tryOn(feed: RunFeed): void {
    this.stopTrying?.();
    const unwatch = feed.watch();
    const timer = setInterval(() => {
      if (feed.failure?.code !== "unreachable") this.stopTrying?.();
    }, GIVE_UP_MS);
    this.stopTrying = () => {
      clearInterval(timer);
      unwatch();
      this.stopTrying = null;
    };
  }
}

function reasonOf({ code, message }: ServerError): Reason {
  if (code === "absent") return { text: ENABLE, always: true };
  const kept = "this is what the notebook kept of it.";
  if (NOT_THERE.includes(code))
    return { text: `This run's journal is not on this Jupyter server; ${kept}`, always: false };
  if (code === "unreachable") return { text: `${UNREACHABLE} to read this run's journal; ${kept}`, always: false };
  return { text: `This run's journal cannot be read: ${message}`, always: false };
}
