import assert from "node:assert/strict";
import { test } from "node:test";

import { meanAndDeviation, MeanSeries } from "../../labextension/core/meanSeries";

function near(given: readonly number[], wanted: readonly number[], within = 1e-9): void {
  assert.equal(given.length, wanted.length);
  wanted.forEach((value, i) => {
    const same = Number.isNaN(value) ? Number.isNaN(given[i]) : Math.abs(given[i] - value) <= within;
    assert.ok(same, `${given[i]} is not ${value} (${i})`);
  });
}

test("few steps are kept one by one", () => {
  const series = new MeanSeries(2);
  series.append(0, 1, [
    [1, 2],
    [3, 6],
  ]);
  series.append(2, 1, [[5], [NaN]]);
  assert.deepEqual(series.line(0, 0, 3, 0, 100), { xs: [0, 1, 2], ys: [1, 2, 5] });
  const { xs, mean, deviation } = series.spread(0, 3, 0, 100);
  assert.deepEqual(xs, [0, 1, 2]);
  near(mean, [2, 4, 5]);
  near(deviation, [Math.SQRT2, Math.sqrt(8), NaN]);
  assert.deepEqual([...series.brokenAt], [NaN, 2]);
  assert.deepEqual([...series.first], [1, 3]);
});

test("a long run is kept as means, however it came, in memory that does not grow", () => {
  const count = 100_000;
  const values = Float64Array.from({ length: count }, (_, i) => Math.sin(i / 5000) + (i % 2));
  const [whole, pieces] = [new MeanSeries(1), new MeanSeries(1)];
  whole.append(0, 1, [values]);
  for (let first = 0; first < count; first += 997) pieces.append(first, 1, [values.slice(first, first + 997)]);
  const { xs, ys } = whole.line(0, 0, count, 0, 200);
  const same = pieces.line(0, 0, count, 0, 200);
  assert.deepEqual(same.xs, xs);
  near(same.ys, ys);
  assert.ok(xs.length <= 201 && xs.length >= 100);
  near(
    ys,
    xs.map((x) => Math.sin(x / 5000) + 0.5),
    0.01,
  );
});

test("smoothing is the mean around a step, and narrower at the start", () => {
  const series = new MeanSeries(1);
  series.append(0, 1, [[8, 0, 4, 0, 4, 0]]);
  near(series.line(0, 0, 6, 2, 100).ys, [8, 4, 4 / 3, 8 / 3, 4 / 3, 2]);
});

test("losses of steps already known replace them, and mend what was broken", () => {
  const series = new MeanSeries(1);
  series.append(0, 1, [[1, 2, NaN, 4]]);
  series.append(2, 1, [[7]]);
  assert.deepEqual(series.line(0, 0, 9, 0, 100).ys, [1, 2, 7]);
  assert.ok(Number.isNaN(series.brokenAt[0]));
});

test("a shortened copy has no gaps, and what follows it within its last mean is added", () => {
  const series = new MeanSeries(1);
  series.append(0, 3, [[3, 6, 9]]);
  series.append(8, 1, [[1, 1, 1, 1]]);
  const { ys } = series.line(0, 0, 12, 0, 100);
  assert.ok(ys.every(Number.isFinite), String(ys));
  assert.equal(ys[0], 3 + 3 / 2);
});

test("a member that broke down leaves the others", () => {
  const series = new MeanSeries(3);
  const block = new Array<number>(400).fill(1);
  series.append(0, 1, [block, block.map((x) => x + 2), block.map((x, i) => (i < 100 ? x + 1 : NaN))]);
  assert.deepEqual(series.spreadAt(50, 20), { mean: 2, deviation: 1 });
  assert.deepEqual(series.spreadAt(150, 200), { mean: 2, deviation: Math.SQRT2 });
});

test("the mean and the deviation are of what is finite", () => {
  assert.deepEqual(meanAndDeviation([1, 3, Infinity]), { mean: 2, deviation: Math.SQRT2 });
  assert.deepEqual(meanAndDeviation([5, NaN]), { mean: 5, deviation: NaN });
  assert.deepEqual(meanAndDeviation([]), { mean: NaN, deviation: NaN });
});
