// What the machine is doing, asked for each second while somebody looks.

import { Poll } from "@lumino/polling";
import { Signal, type ISignal } from "@lumino/signaling";

import { DeviceHistory } from "./deviceFigures";
import { MOST_MS } from "./runsModel";
import { ServerError, type Server } from "./server";

export class DevicesModel {
  history = new DeviceHistory();
  /** why the last question had no answer; empty when it had */
  problem = "";
  private signal = new Signal<this, void>(this);
  private poll: Poll<void, unknown>;

  constructor(private server: Server) {
    this.poll = new Poll({
      name: "dlfb-lab:devices",
      factory: () => this.ask(),
      frequency: { interval: 1000, backoff: true, max: MOST_MS },
      standby: "when-hidden",
      auto: false,
    });
  }

  get changed(): ISignal<this, void> {
    return this.signal;
  }

  watch(isWatched: boolean): void {
    void (isWatched ? this.poll.refresh() : this.poll.stop());
  }

  dispose(): void {
    this.poll.dispose();
    Signal.clearData(this);
  }

  private async ask(): Promise<void> {
    try {
      this.history.take(await this.server.devices(this.history.answer?.next));
      this.problem = "";
    } catch (error) {
      this.problem = error instanceof Error ? error.message : String(error);
      if (error instanceof ServerError && error.code === "absent") {
        this.history = new DeviceHistory();
        void this.poll.stop();
      }
      throw error;
    } finally {
      this.signal.emit();
    }
  }
}
