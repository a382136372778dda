// The server's answers for the tests of the panel.

import type { DevicesAnswer, DeviceSample, Memory, RunSummary } from "../../labextension/lab/server";

export const NOW_S = 1_700_000_000;

export function summary(changes: Partial<RunSummary> = {}): RunSummary {
  return {
    store: "0123456789abcdef",
    run: "20231114-221320-xor",
    name: "xor",
    model: "MLP",
    task: "binary",
    device: "cpu",
    versions_dlfb_lab: "0.1.0",
    state: "finished",
    life: "gone",
    reason: "",
    started_s: NOW_S - 120,
    updated_s: NOW_S - 90,
    elapsed_s: 30,
    step: 1000,
    steps_total: 1000,
    best: { column: "valid/loss", value: 0.123, step: 800 },
    scores: { valid: { loss: 0.13, accuracy: 0.98, auc: 0.99 } },
    baseline: { name: "majority class", split: "valid", metrics: { loss: 0.66, accuracy: 0.62 } },
    curve: { steps: [0, 500, 1000], losses: [0.7, 0.3, 0.1] },
    valid: { steps: [500, 1000], values: [0.35, 0.13], metric: "loss" },
    warnings: 0,
    memory: [],
    reading: false,
    ...changes,
  };
}

export function running(changes: Partial<RunSummary> = {}): RunSummary {
  return summary({ state: "running", life: "alive", step: 439, updated_s: NOW_S - 1, ...changes });
}

export function memory(changes: Partial<Memory> = {}): Memory {
  return {
    device: "cuda:0",
    device_kind: "NVIDIA H100",
    in_use_bytes: "NaN",
    peak_bytes: "NaN",
    limit_bytes: "NaN",
    pool_bytes: "NaN",
    preallocated: false,
    reason: "",
    ...changes,
  };
}

export function sample(time_s: number, changes: Partial<DeviceSample> = {}): DeviceSample {
  return { time_s, cpu_percent: 50, memory_used_bytes: 2 ** 31, disk_used_bytes: 2 ** 35, gpus: [], ...changes };
}

export function devices(changes: Partial<DevicesAnswer> = {}): DevicesAnswer {
  return {
    version: "0.1.0",
    schema: 1,
    host: { name: "bench", cpu_count: 2, disk_path: "/" },
    interval_s: 1,
    next: 3,
    reset: true,
    samples: [sample(NOW_S - 2), sample(NOW_S - 1), sample(NOW_S)],
    memory_total_bytes: 2 ** 33,
    disk_total_bytes: 2 ** 36,
    memory_of: "machine",
    missing: {},
    gpus: [],
    no_gpus: "no NVIDIA driver was found",
    ...changes,
  };
}
