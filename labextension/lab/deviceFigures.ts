// What the panel says about the machine: figures with their last ten minutes, or why there are none. No DOM.

import type { Span } from "../core/chart";
import { bytes, bytesOf, count, plural } from "../core/format";
import { toNumber } from "../core/runState";
import type { Points } from "../core/sparkline";
import { isLive, keyOf } from "./runRow";
import type { DeviceSample, DevicesAnswer, Gpu, GpuSample, Memory, RunSummary } from "./server";

export const HISTORY_S = 600;
/** Samples further apart have a gap between them. While nobody looks the server takes one each five seconds. */
export const GAP_S = 15;

export interface Figure {
  name: string;
  /** now; empty when it cannot be had */
  value: string;
  /** what the value is a part of, with the unit of both; empty where it is of nothing */
  of: string;
  /** why it cannot be had; empty when it can */
  missing: string;
  /** what else there is to say of it; may be empty */
  about: string;
  points: Points;
  y: Span;
}

/** A GPU, or the machine itself. */
export interface Device {
  key: string;
  name: string;
  about: string;
  figures: Figure[];
}

type Said = [value: string, of: string];

function percent(x: number): Said {
  return [`${count(x)} %`, ""];
}

/** The samples of the last ten minutes and what they are of. */
export class DeviceHistory {
  answer: DevicesAnswer | null = null;
  private samples: DeviceSample[] = [];

  take(answer: DevicesAnswer): void {
    this.answer = answer;
    // Two questions can be under way at once, with one answer to both.
    const newer = answer.samples.filter(({ time_s }) => time_s > this.end_s);
    this.samples = answer.reset ? answer.samples : [...this.samples, ...newer];
    const from_s = this.end_s - HISTORY_S;
    this.samples = this.samples.filter(({ time_s }) => time_s >= from_s);
  }

  /** The time axis that all charts have in common. */
  get x(): Span {
    return [this.end_s - HISTORY_S, this.end_s];
  }

  gpus(): Device[] {
    return (this.answer?.gpus ?? []).map((gpu, i) => ({
      key: `gpu ${gpu.index}`,
      name: `GPU ${gpu.index}`,
      about: gpu.name,
      figures: this.gpuFigures(gpu, i),
    }));
  }

  host(): Device | null {
    const { answer } = this;
    if (answer === null) return null;
    const { host, missing, memory_total_bytes, disk_total_bytes } = answer;
    const memoryName = answer.memory_of === "container" ? "Container memory" : "Memory";
    return {
      key: "host",
      name: host.name,
      about: plural(host.cpu_count, "core"),
      figures: [
        this.figure("CPU", (s) => s.cpu_percent, missing.cpu_percent, percent, 100),
        this.bytesFigure(memoryName, (s) => s.memory_used_bytes, missing.memory_used_bytes, memory_total_bytes),
        {
          ...this.bytesFigure("Disk", (s) => s.disk_used_bytes, missing.disk_used_bytes, disk_total_bytes),
          about: `The disk that holds ${host.disk_path}`,
        },
      ],
    };
  }

  private gpuFigures(gpu: Gpu, i: number): Figure[] {
    const of =
      (name: keyof GpuSample) =>
      (sample: DeviceSample): number | null =>
        sample.gpus.at(i)?.[name] ?? null;
    const { missing, memory_total_bytes, power_limit_w } = gpu;
    const degrees = (x: number): Said => [`${count(x)} °C`, ""];
    const watts = (x: number): Said =>
      power_limit_w === null ? [`${count(x)} W`, ""] : [count(x), `of ${count(power_limit_w)} W`];
    return [
      this.figure("Utilisation", of("utilisation_percent"), missing.utilisation_percent, percent, 100),
      this.bytesFigure("Memory", of("memory_used_bytes"), missing.memory_used_bytes, memory_total_bytes),
      this.figure("Temperature", of("temperature_c"), missing.temperature_c, degrees, 100),
      this.figure("Power", of("power_w"), missing.power_w, watts, power_limit_w),
    ];
  }

  private bytesFigure(
    name: string,
    read: (sample: DeviceSample) => number | null,
    reason: string | undefined,
    total: number | null,
  ): Figure {
    return this.figure(name, read, reason, (x) => (total === null ? [bytes(x), ""] : bytesOf(x, total)), total);
  }

  private figure(
    name: string,
    read: (sample: DeviceSample) => number | null,
    reason: string | undefined,
    say: (x: number) => Said,
    limit: number | null,
  ): Figure {
    const xs = this.samples.map(({ time_s }) => time_s);
    const ys = this.samples.map((sample) => read(sample) ?? NaN);
    const last = ys.at(-1) ?? NaN;
    const top = limit ?? Math.max(1, ...ys.filter(Number.isFinite)) * 1.1;
    const [value, of] = Number.isFinite(last) ? say(last) : ["", ""];
    return {
      name,
      value,
      of,
      missing: Number.isFinite(last) ? "" : (reason ?? (ys.length === 0 ? "not measured yet" : "not reported")),
      about: "",
      points: { xs, ys },
      // Room for the width of a line at the limit.
      y: [0, 1.04 * top],
    };
  }

  private get end_s(): number {
    return this.samples.at(-1)?.time_s ?? 0;
  }
}

/** What JAX's allocator says of one device, for one run that goes on. */
export interface Allocation {
  key: string;
  run: string;
  device: string;
  /** why there are no figures; empty when there are */
  reason: string;
  figures: string;
  pool: string;
  /** of the limit, or of what else is known of the device's size: 0 to 1, NaN when not reported */
  inUse: number;
  peak: number;
  taken: number;
}

export function allocations(runs: readonly RunSummary[], now_s: number): Allocation[] {
  return runs
    .filter((run) => isLive(run, now_s))
    .flatMap((run) => run.memory.map((memory) => allocationOf(run, memory)));
}

function allocationOf(run: RunSummary, memory: Memory): Allocation {
  const [inUse, peak, limit, pool] = [
    memory.in_use_bytes,
    memory.peak_bytes,
    memory.limit_bytes,
    memory.pool_bytes,
  ].map(toNumber);
  const whole = Number.isFinite(limit) ? limit : Number.isFinite(pool) ? pool : peak;
  return {
    key: `${keyOf(run)}/${memory.device}`,
    run: run.name === "" ? run.run : run.name,
    device: [memory.device, memory.device_kind].filter((text) => text !== "").join(" · "),
    reason: memory.reason,
    figures: [["in use", inUse] as const, ["peak", peak] as const, ["limit", limit] as const]
      .filter(([, size]) => Number.isFinite(size))
      .map(([name, size]) => `${name} ${bytes(size)}`.replaceAll(" ", "\u00a0"))
      .join(" · "),
    pool: poolOf(pool, inUse, memory.preallocated),
    inUse: inUse / whole,
    peak: peak / whole,
    taken: pool / whole,
  };
}

function poolOf(pool: number, inUse: number, preallocated: boolean): string {
  if (!Number.isFinite(pool)) return "";
  const used = Number.isFinite(inUse) ? `; of it in use ${bytes(inUse)}` : "";
  return preallocated
    ? `pool JAX took in advance: ${bytes(pool)}${used} – this is not a leak`
    : `pool JAX has taken so far: ${bytes(pool)}${used}`;
}
