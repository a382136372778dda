// The panel's view of the machine: GPUs, what JAX says it holds of them, processor, memory, disk.

import type { Message } from "@lumino/messaging";
import { Widget } from "@lumino/widgets";

import { el, hook, setText } from "../core/dom";
import { areaPath, linePath } from "../core/sparkline";
import { Curve } from "./curve";
import { allocations, GAP_S, type Allocation, type Device, type DeviceHistory, type Figure } from "./deviceFigures";
import type { DevicesModel } from "./devicesModel";
import type { RunsModel } from "./runsModel";

export class DeviceView extends Widget {
  private note = hook("p", "note", "dlfb-note");
  private gpus = hook("div", "gpus");
  private noGpus = hook("p", "no-gpus", "dlfb-quiet");
  private jax = hook("section", "jax", "dlfb-device");
  private allocated = el("div");
  private host = hook("div", "host");
  private cards = new Map<string, Card>();
  private claims = new Map<string, Claim>();

  constructor(
    private devices: DevicesModel,
    private runs: RunsModel,
  ) {
    super();
    this.addClass("dlfb-devices");
    this.title.label = "Devices";
    this.note.setAttribute("role", "status");
    const head = el("h4", "dlfb-device-name", "What JAX holds");
    head.title =
      "A GPU looks full once JAX has taken its pool in advance. This is what its allocator says: dark is in use now, " +
      "the mark is the most there ever was, light is the pool.";
    this.jax.append(head, this.allocated);
    this.node.append(this.note, this.gpus, this.noGpus, this.jax, this.host);
    devices.changed.connect(() => {
      this.update();
    });
    runs.changed.connect(() => {
      // Where the server had no dlfb_lab nobody asked on; now it may have.
      if (devices.problem !== "" && runs.problem === null && this.isVisible) devices.watch(true);
      this.update();
    });
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    this.onAfterShow(message);
  }

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this.devices.watch(this.isVisible);
    this.update();
  }

  protected override onAfterHide(message: Message): void {
    super.onAfterHide(message);
    this.devices.watch(false);
  }

  protected override onBeforeDetach(message: Message): void {
    super.onBeforeDetach(message);
    this.devices.watch(false);
  }

  protected override onUpdateRequest(): void {
    if (!this.isVisible) return;
    const { history, problem } = this.devices;
    setText(this.note, problem);
    this.note.hidden = problem === "";
    const noGpus = history.answer?.no_gpus ?? "";
    setText(this.noGpus, noGpus === "" ? "" : `GPU: ${noGpus}`);
    const host = history.host();
    const gpus = history.gpus();
    const devices = host === null ? gpus : [...gpus, host];
    for (const [key, { node }] of this.cards) {
      if (devices.some((device) => device.key === key)) continue;
      node.remove();
      this.cards.delete(key);
    }
    for (const device of devices) this.card(device).update(device, history);
    this.showAllocations(allocations(this.runs.runs, this.runs.now_s));
  }

  private card({ key }: Device): Card {
    let card = this.cards.get(key);
    if (card === undefined) {
      card = new Card();
      this.cards.set(key, card);
      (key === "host" ? this.host : this.gpus).append(card.node);
    }
    return card;
  }

  private showAllocations(all: readonly Allocation[]): void {
    this.jax.hidden = all.length === 0;
    for (const [key, { node }] of this.claims) {
      if (all.some((allocation) => allocation.key === key)) continue;
      node.remove();
      this.claims.delete(key);
    }
    for (const allocation of all) {
      let claim = this.claims.get(allocation.key);
      if (claim === undefined) {
        claim = new Claim();
        this.claims.set(allocation.key, claim);
        this.allocated.append(claim.node);
      }
      claim.update(allocation);
    }
  }
}

/** A device's figures, each with its last ten minutes. */
class Card {
  readonly node = el("section", "dlfb-device");
  private name = el("h4", "dlfb-device-name");
  private about = el("span", "dlfb-device-about");
  private grid = el("div", "dlfb-figures");
  private tiles = new Map<string, Tile>();

  constructor() {
    const head = el("div", "dlfb-device-head");
    head.append(this.name, this.about);
    this.node.append(head, this.grid);
  }

  update(device: Device, history: DeviceHistory): void {
    setText(this.name, device.name);
    setText(this.about, device.about);
    this.about.title = device.about;
    this.grid.dataset.count = String(device.figures.length);
    for (const figure of device.figures) {
      let tile = this.tiles.get(figure.name);
      if (tile === undefined) {
        tile = new Tile(figure.name);
        this.tiles.set(figure.name, tile);
        this.grid.append(tile.node);
      }
      tile.update(figure, history);
    }
  }
}

class Tile {
  readonly node = el("div", "dlfb-figure");
  private curve = new Curve("dlfb-history", "dlfb-history-area", "dlfb-history-line");
  private value = el("b");
  private of = el("span");
  private missing = el("span", "dlfb-figure-missing");

  constructor(name: string) {
    this.node.dataset.dlfb = name;
    const now = el("span", "dlfb-figure-now");
    now.append(this.value, " ", this.of);
    this.node.append(el("span", "dlfb-figure-name", name), now, this.missing, this.curve.node);
  }

  update({ value, of, missing, about, points, y }: Figure, history: DeviceHistory): void {
    this.node.title = about === "" ? "The last ten minutes" : `${about}, the last ten minutes`;
    setText(this.value, value);
    setText(this.of, of);
    setText(this.missing, missing);
    this.node.classList.toggle("dlfb-figure-absent", value === "");
    this.curve.draw(areaPath(points, history.x, y, GAP_S), linePath(points, history.x, y, GAP_S));
  }
}

/** What one run's allocator says of one device. */
class Claim {
  readonly node = el("div", "dlfb-claim");
  private run = el("b", "dlfb-claim-run");
  private device = el("span", "dlfb-device-about");
  private bar = el("div", "dlfb-pool");
  private parts = ["taken", "peak", "in-use"].map((name) => el("div", `dlfb-pool-${name}`));
  private figures = el("div", "dlfb-claim-figures");
  private pool = el("div", "dlfb-claim-pool");

  constructor() {
    const head = el("div", "dlfb-device-head");
    head.append(this.run, this.device);
    this.bar.append(...this.parts);
    this.node.append(head, this.bar, this.figures, this.pool);
  }

  update({ run, device, reason, figures, pool, taken, peak, inUse }: Allocation): void {
    setText(this.run, run);
    setText(this.device, device);
    setText(this.figures, reason === "" ? figures : reason);
    setText(this.pool, pool);
    this.pool.hidden = pool === "";
    this.bar.hidden = !Number.isFinite(inUse);
    [taken, peak, inUse].forEach((part, i) => {
      this.parts[i].style.width = `${Number.isFinite(part) ? Math.min(100, 100 * part) : 0}%`;
    });
  }
}
