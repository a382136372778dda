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
  private feed!: RunFeed;
  private release: (() => void) | null = null;
  private unmount: (() => void) | null = null;
  private dashboard = el("div", "dlfb-host");
  private gone = hook("div", "gone", "dlfb-nothing");

  constructor(
    private feeds: RunFeeds,
    readonly ref: RunRef,
    private givenName: string,
  ) {
    super();
    this.addClass("dlfb-tab");
    this.title.icon = runsIcon;
    this.gone.setAttribute("role", "status");
    this.node.append(this.dashboard, this.gone);
    this.take();
  }

  get name(): string {
    return this.feed.store.state.plan?.name ?? (this.givenName || this.ref.run);
  }

  override dispose(): void {
    if (this.isDisposed) return;
    super.dispose();
    this.release?.();
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    this.mount();
  }

  protected override onBeforeDetach(message: Message): void {
    this.rest();
    super.onBeforeDetach(message);
  }

  protected override onUpdateRequest(): void {
    const { known, failure } = this.feed;
    const { run } = this.ref;
    this.title.label = this.name;
    this.title.caption = `Training run ${run}`;
    const isGone = !known && failure !== null && GONE.includes(failure.code);
    this.gone.hidden = !isGone;
    if (!isGone) return;
    this.rest();
    const again = el("button", "dlfb-button", "Look again");
    again.type = "button";
    again.addEventListener("click", () => {
      this.take();
      this.mount();
    });
    this.gone.replaceChildren(
      el(
        "p",
        "dlfb-nothing-title",
        this.name === run ? "This run is not there any more" : `${this.name} is not there any more`,
      ),
      el("p", "", failure.message.includes(run) ? failure.message : `${run}: ${failure.message}`),
      again,
    );
  }

  /** A feed that found nothing asks no more; looking again takes another. */
  private take(): void {
    this.release?.();
    const { feed, release } = this.feeds.take(this.ref, this.givenName);
    const unsubscribe = feed.store.subscribe(() => {
      this.update();
    });
    this.feed = feed;
    this.release = (): void => {
      unsubscribe();
      release();
    };
    this.onUpdateRequest();
  }

  private mount(): void {
    this.unmount ??= mountRun(this.dashboard, this.feed);
  }

  private rest(): void {
    this.unmount?.();
    this.unmount = null;
  }
}
