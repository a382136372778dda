// One run in the main area.

import { MainAreaWidget } from "@jupyterlab/apputils";
import type { Message } from "@lumino/messaging";
import { Widget } from "@lumino/widgets";

import { el, hook } from "../core/dom";
import { mountRun, type RunFeed, type RunFeeds, type RunRef } from "./feed";
import { runsIcon } from "./icons";

/** The run cannot be read, now or ever; anything else is a matter of waiting. */
const GONE = ["no_store", "no_run", "no_journal", "bad_name", "outside"];

export type RunTab = MainAreaWidget<RunView>;

export function runTab(feeds: RunFeeds, ref: RunRef, name: string): RunTab {
  const tab = new MainAreaWidget({ content: new RunView(feeds, ref, name) });
  tab.id = tabId(ref);
  return tab;
}

export function tabId({ store, run }: RunRef): string {
  return `dlfb-run-${store}-${run}`;
}

export class RunView extends Widget {
  private feed: RunFeed;
  private releaseFeed: () => void;
  private unsubscribe: () => void;
  private unmount: (() => void) | null = null;
  private dashboard = el("div", "dlfb-host");
  private gone = hook("div", "gone", "dlfb-nothing");

  constructor(
    feeds: RunFeeds,
    readonly ref: RunRef,
    private givenName: string,
  ) {
    super();
    const { feed, release } = feeds.take(ref, givenName);
    this.feed = feed;
    this.releaseFeed = release;
    this.addClass("dlfb-tab");
    this.title.icon = runsIcon;
    this.gone.setAttribute("role", "status");
    this.node.append(this.dashboard, this.gone);
    this.unsubscribe = feed.store.subscribe(() => {
      this.update();
    });
    this.onUpdateRequest();
  }

  get name(): string {
    return this.feed.store.state.plan?.name ?? (this.givenName || this.ref.run);
  }

  override dispose(): void {
    if (this.isDisposed) return;
    this.unsubscribe();
    super.dispose();
    this.releaseFeed();
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    this.unmount ??= mountRun(this.dashboard, this.feed);
  }

  protected override onBeforeDetach(message: Message): void {
    this.unmount?.();
    this.unmount = null;
    super.onBeforeDetach(message);
  }

  protected override onUpdateRequest(): void {
    const { known, failure } = this.feed;
    this.title.label = this.name;
    this.title.caption = `Training run ${this.ref.run}`;
    const isGone = !known && failure !== null && GONE.includes(failure.code);
    this.gone.hidden = !isGone;
    // Not hidden: the dashboard reads on while it is on the screen, and so the run can come back.
    this.dashboard.classList.toggle("dlfb-host-gone", isGone);
    if (!isGone) return;
    this.gone.replaceChildren(
      el("p", "dlfb-nothing-title", `The run ${this.name} is not there any more`),
      el("p", "", failure.message),
      el("p", "", `It was ${this.ref.run}. If its folder comes back, it shows up here.`),
    );
  }
}
