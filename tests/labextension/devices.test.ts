import assert from "node:assert/strict";
import { test } from "node:test";

import { ago, bytes, bytesOf } from "../../labextension/core/format";
import { allocations, DeviceHistory, type Figure } from "../../labextension/lab/deviceFigures";
import { devices, memory, NOW_S, running, sample, summary } from "./summaries";

const GiB = 2 ** 30;

function historyOf(...answers: ReturnType<typeof devices>[]): DeviceHistory {
  const history = new DeviceHistory();
  for (const answer of answers) history.take(answer);
  return history;
}

function said(figures: readonly Figure[] = []): string[][] {
  return figures.map(({ name, value, of, missing }) => [name, `${value} ${of}`.trim(), missing]);
}

test("the machine's figures are said with their wholes, a container's memory as such", () => {
  const host = historyOf(devices({ memory_of: "container" })).host();
  assert.equal(host?.about, "2 cores");
  assert.deepEqual(said(host.figures), [
    ["CPU", "50 %", ""],
    ["Container memory", "2.0 of 8.0 GiB", ""],
    ["Disk", "32.0 of 64.0 GiB", ""],
  ]);
  assert.equal(historyOf(devices({ memory_total_bytes: null })).host()?.figures[1].value, "2.0 GiB");
});

test("a figure that cannot be had says why, and is never a zero", () => {
  const gpus = [{ utilisation_percent: 0, memory_used_bytes: GiB, temperature_c: null, power_w: null }];
  const answer = devices({
    samples: [sample(NOW_S, { cpu_percent: null, gpus })],
    missing: { cpu_percent: "no permission to read /proc" },
    gpus: [
      {
        index: 3,
        name: "NVIDIA H100",
        memory_total_bytes: 80 * GiB,
        power_limit_w: 700,
        missing: { power_w: "not supported by this GPU" },
      },
    ],
    no_gpus: "",
  });
  const history = historyOf(answer);
  assert.equal(history.gpus()[0].name, "GPU 3");
  assert.deepEqual(said(history.gpus()[0].figures), [
    ["Utilisation", "0 %", ""],
    ["Memory", "1.0 of 80.0 GiB", ""],
    ["Temperature", "", "not reported"],
    ["Power", "", "not supported by this GPU"],
  ]);
  assert.deepEqual(said(history.host()?.figures)[0], ["CPU", "", "no permission to read /proc"]);
  assert.deepEqual(said(historyOf(devices({ samples: [] })).host()?.figures)[0], ["CPU", "", "not measured yet"]);
});

test("samples of the last ten minutes are kept, each once, and gaps stay gaps", () => {
  const first = devices({ samples: [sample(NOW_S - 700), sample(NOW_S - 300, { cpu_percent: null })] });
  const more = devices({ reset: false, samples: [sample(NOW_S - 300), sample(NOW_S)] });
  const history = historyOf(first, more, more);
  assert.deepEqual(history.host()?.figures[0].points, { xs: [NOW_S - 300, NOW_S], ys: [NaN, 50] });
  assert.deepEqual(history.x, [NOW_S - 600, NOW_S]);
  history.take(devices());
  assert.equal(history.host()?.figures[0].points.xs.length, 3);
});

test("JAX's pool is named as what it is", () => {
  const figures = { in_use_bytes: 1.2 * GiB, peak_bytes: 4 * GiB, limit_bytes: 60 * GiB, pool_bytes: 60 * GiB };
  const [held] = allocations([running({ memory: [memory({ ...figures, preallocated: true })] })], NOW_S);
  assert.equal(held.device, "cuda:0 · NVIDIA H100");
  assert.equal(held.figures.replaceAll("\u00a0", " "), "in use 1.2 GiB · peak 4.0 GiB · limit 60.0 GiB");
  assert.equal(held.pool, "pool JAX took in advance: 60.0 GiB; of it in use 1.2 GiB – this is not a leak");
  assert.deepEqual([held.inUse, held.taken], [0.02, 1]);
  const [grown] = allocations([running({ memory: [memory({ ...figures, pool_bytes: 6 * GiB })] })], NOW_S);
  assert.equal(grown.pool, "pool JAX has taken so far: 6.0 GiB; of it in use 1.2 GiB");
});

test("an allocator without figures says why, and only runs that go on are asked", () => {
  const silent = [memory({ device: "cpu:0", device_kind: "cpu", reason: "the cpu backend reports no figures" })];
  const [held, ...others] = allocations([running({ memory: silent }), summary({ memory: silent })], NOW_S);
  assert.equal(others.length, 0);
  assert.deepEqual([held.reason, held.figures, held.pool], ["the cpu backend reports no figures", "", ""]);
});

test("bytes and times gone by are written for people", () => {
  assert.deepEqual([0, 512, 2048, 1.5 * GiB, 300 * GiB].map(bytes), ["0 B", "512 B", "2.0 KiB", "1.5 GiB", "300 GiB"]);
  assert.equal(bytesOf(0.05 * GiB, 80 * GiB).join(" "), "0.1 of 80.0 GiB");
  assert.deepEqual([-5, 3, 40, 300, 7200, 86_400, 5e5].map(ago), [
    "just now",
    "just now",
    "40 s ago",
    "5 min ago",
    "2 h ago",
    "1 day ago",
    "6 days ago",
  ]);
});
