import assert from "node:assert/strict";
import { test } from "node:test";

import { LossSeries } from "../../labextension/core/lossSeries";

function naive(values: readonly number[]): { min: number; max: number; count: number } {
  const finite = values.filter(Number.isFinite);
  return { min: Math.min(...finite), max: Math.max(...finite), count: finite.length };
}

test("summaries agree with the values, however they came and whatever was taken back", () => {
  const series = new LossSeries();
  let values: number[] = [];
  let seed = 1;
  const random = (): number => (seed = (seed * 16807) % 2147483647) / 2147483647;
  for (let round = 0; round < 200; round++) {
    const first = round % 17 === 16 ? Math.floor(values.length * random()) : values.length;
    const block = Array.from({ length: 1 + Math.floor(60 * random()) }, () => (random() < 0.02 ? NaN : random()));
    series.append(first, 1, block);
    values = [...values.slice(0, first), ...block];
    assert.equal(series.length, values.length);
    const start = Math.floor(values.length * random());
    const end = start + Math.floor((values.length - start) * random());
    const { min, max, count } = series.range(start, end);
    assert.deepEqual({ min, max, count }, naive(values.slice(start, end)));
    const whole = series.range(0, values.length);
    assert.deepEqual({ min: whole.min, max: whole.max, count: whole.count }, naive(values));
  }
});

test("few values are drawn one by one, with a gap where a value is not finite", () => {
  const series = new LossSeries();
  series.append(0, 1, [3, 2, NaN, 1]);
  const { xs, ys } = series.decimate(0, 4, 100);
  assert.deepEqual(xs, [0, 1, 2, 3]);
  assert.deepEqual(ys, [3, 2, NaN, 1]);
});

test("many values become each column's extremes", () => {
  const series = new LossSeries();
  const values = Array.from({ length: 100_000 }, (_, i) => Math.sin(i));
  values[54_321] = 9;
  series.append(0, 1, values);
  const { xs, ys } = series.decimate(0, 100_000, 500);
  assert.equal(xs.length, 1000);
  assert.equal(Math.max(...ys), 9);
  assert.equal(Math.abs(xs[ys.indexOf(9)] - 54_321) <= 200, true);
  assert.ok(xs.every((x, i) => i === 0 || x > xs[i - 1]));
});

test("steps that are missing break the line", () => {
  const series = new LossSeries();
  series.append(0, 1, [1, 1]);
  series.append(10, 1, [2, 2]);
  assert.deepEqual(series.decimate(0, 12, 100).ys, [1, 1, NaN, 2, 2]);
  assert.equal(series.indexAt(5), 2);
  assert.equal(series.stepAt(2), 10);
});

test("what follows a shortened copy is averaged like it", () => {
  const series = new LossSeries();
  series.append(0, 4, [4, 3]);
  series.append(8, 1, [2, 1]);
  assert.deepEqual(series.decimate(0, 12, 100), { xs: [0, 4, 8], ys: [4, 3, 1.5] });
  series.append(10, 1, [3, 6, 5, 7]);
  assert.equal(series.stride, 4);
  assert.deepEqual(series.decimate(0, 16, 100), { xs: [0, 4, 8, 12], ys: [4, 3, 3, 6] });
  series.append(14, 2, [0]);
  assert.deepEqual(series.decimate(0, 16, 100).ys, [4, 3, 3, 3]);
});

test("a shortened copy whose last mean is of fewer steps goes on within it", () => {
  const series = new LossSeries();
  series.append(0, 4, [4, 2]);
  series.append(6, 1, [5, 5, 1]);
  assert.deepEqual(series.decimate(0, 12, 100), { xs: [0, 4, 8], ys: [4, 3.5, 1] });
});

test("what was known before a shortened piece is averaged like it", () => {
  const series = new LossSeries();
  series.append(0, 1, [1, 2, 3, 4, 5, 6]);
  series.append(9, 1, [9]);
  series.append(12, 3, [7]);
  assert.deepEqual(series.decimate(0, 15, 100), { xs: [0, 3, 9, 9, 12], ys: [2, 5, NaN, 9, 7] });
  assert.deepEqual(series.range(0, 4), { min: 2, max: 9, sum: 23, count: 4 });
});

test("means of one width become means of a wider one, and a NaN in them stays", () => {
  const series = new LossSeries();
  series.append(0, 2, [1, 3, 5, NaN]);
  series.append(8, 4, [2]);
  assert.deepEqual(series.decimate(0, 12, 100).ys, [2, NaN, 2]);
  assert.equal(series.firstNonFiniteStep, 6);
});

test("a frame of a million steps looks at few of them", () => {
  const series = new LossSeries();
  for (let first = 0; first < 1_000_000; first += 10_000) series.append(first, 1, new Float64Array(10_000).fill(first));
  series.decimate(0, 1_000_000, 1000);
  const before = performance.now();
  for (let i = 0; i < 10; i++) series.decimate(0, 1_000_000, 1000);
  // One by one, ten million values take several times as long.
  assert.ok(performance.now() - before < 200);
});
