// The training losses of a run, kept so that a frame costs the pixels drawn and not the steps taken:
// above the values lie levels, each summarising 16 blocks of the one below. A copy of a long run comes shortened, each
// value the mean of several steps; all values are then such means, or the chart would look noisier from there on.

const FANOUT = 16;

export interface Summary {
  min: number;
  max: number;
  sum: number;
  /** finite values */
  count: number;
}

export interface Points {
  xs: number[];
  /** NaN breaks the line */
  ys: number[];
}

/** Values without a gap. */
interface Segment {
  index: number;
  step: number;
}

interface Level {
  min: Float64Array;
  max: Float64Array;
  sum: Float64Array;
  count: Float64Array;
}

export class LossSeries {
  length = 0;
  /** steps that each value is the mean of */
  stride = 1;
  firstNonFiniteStep: number | null = null;
  private values: Float64Array = new Float64Array(1024);
  private levels: Level[] = [];
  private segments: Segment[] = [];

  /** The step after the last one that a value can stand for. */
  get endStep(): number {
    const last = this.segments.at(-1);
    return last === undefined ? 0 : last.step + (this.length - last.index) * this.stride;
  }

  /** Adds losses in O(block). Losses of steps already known replace them and what followed: the run went back. */
  append(firstStep: number, stride: number, block: ArrayLike<number>): void {
    if (block.length === 0) return;
    if (stride > this.stride) this.coarsen(stride);
    if (this.length > 0 && firstStep < this.endStep) this.truncate(firstStep);
    if (this.firstNonFiniteStep === null) {
      for (let i = 0; i < block.length; i++) {
        if (!Number.isFinite(block[i])) {
          this.firstNonFiniteStep = firstStep + i * stride;
          break;
        }
      }
    }
    // The last value, if it stands for fewer steps than it can, takes in what follows.
    const start = firstStep < this.endStep ? this.length - 1 : this.length;
    if (firstStep > this.endStep || this.length === 0) this.segments.push({ index: this.length, step: firstStep });
    if (stride === this.stride && start === this.length) this.extend(block);
    else this.extendWithMeans(firstStep, stride, block);
    this.summarise(start, this.length);
  }

  stepAt(index: number): number {
    const segment = this.segmentOf((s) => s.index <= index);
    return segment.step + (index - segment.index) * this.stride;
  }

  valueAt(index: number): number {
    return this.values[index];
  }

  /** Index of the first value at `step` or later. */
  indexAt(step: number): number {
    if (this.segments.length === 0) return 0;
    const at = lastWhere(this.segments, (s) => s.step <= step);
    if (at < 0) return 0;
    const segment = this.segments[at];
    const end = at + 1 < this.segments.length ? this.segments[at + 1].index : this.length;
    return Math.min(segment.index + Math.ceil((step - segment.step) / this.stride), end);
  }

  /** Summary of the values from `start` to before `end`, in O(log). */
  range(start: number, end: number): Summary {
    const summary = { min: Infinity, max: -Infinity, sum: 0, count: 0 };
    let a = Math.max(0, start);
    let b = Math.min(this.length, end);
    for (let level = 0; a < b; level++) {
      const aboveA = Math.ceil(a / FANOUT);
      const aboveB = Math.floor(b / FANOUT);
      if (level >= this.levels.length || aboveA >= aboveB) {
        this.add(summary, level, a, b);
        break;
      }
      this.add(summary, level, a, aboveA * FANOUT);
      this.add(summary, level, aboveB * FANOUT, b);
      a = aboveA;
      b = aboveB;
    }
    return summary;
  }

  /** Mean of about `width` steps around `step`: narrower at the start, where a wide one would hide the first fall. */
  meanAround(step: number, width: number): number {
    const half = Math.max(0, Math.min(width / 2, step - (this.segments[0]?.step ?? 0)));
    const { sum, count } = this.range(this.indexAt(step - half), this.indexAt(step + half + 1));
    return count === 0 ? NaN : sum / count;
  }

  /** What to draw between two steps in `columns` columns: every value if they fit, else each column's extremes. */
  decimate(from: number, to: number, columns: number): Points {
    const points: Points = { xs: [], ys: [] };
    const first = this.indexAt(from);
    const end = this.indexAt(to + 1);
    let previousEnd = first > 0 ? this.stepAt(first) : NaN;
    const breakBefore = (index: number): void => {
      const step = this.stepAt(index);
      if (step > previousEnd) push(points, step, NaN);
    };
    if (end - first <= 2 * columns) {
      for (let i = first; i < end; i++) {
        breakBefore(i);
        push(points, this.stepAt(i), this.values[i]);
        previousEnd = this.endOf(i);
      }
      return points;
    }
    const width = (to - from) / columns;
    for (let column = 0, i = first; column < columns && i < end; column++) {
      const j = column === columns - 1 ? end : Math.min(end, this.indexAt(from + (column + 1) * width));
      if (j <= i) continue;
      breakBefore(i);
      const { min, max, count } = this.range(i, j);
      const x = from + column * width;
      push(points, x + width / 4, count === 0 ? NaN : min);
      push(points, x + (3 * width) / 4, count === 0 ? NaN : max);
      previousEnd = this.endOf(j - 1);
      i = j;
    }
    return points;
  }

  private endOf(index: number): number {
    const segment = this.segmentOf((s) => s.index <= index);
    return segment.step + (index + 1 - segment.index) * this.stride;
  }

  private segmentOf(matches: (segment: Segment) => boolean): Segment {
    return this.segments[Math.max(0, lastWhere(this.segments, matches))];
  }

  private extend(block: ArrayLike<number>): void {
    this.values = grown(this.values, this.length + block.length);
    this.values.set(block, this.length);
    this.length += block.length;
  }

  private extendWithMeans(firstStep: number, stride: number, block: ArrayLike<number>): void {
    const segment = this.segments[this.segments.length - 1];
    this.values = grown(this.values, this.length + Math.ceil((block.length * stride) / this.stride) + 1);
    for (let i = 0; i < block.length; i++) {
      const steps = firstStep + i * stride - segment.step;
      const index = segment.index + Math.floor(steps / this.stride);
      const before = steps % this.stride;
      if (index < this.length)
        this.values[index] = (this.values[index] * before + block[i] * stride) / (before + stride);
      else this.values[this.length++] = block[i];
    }
  }

  private coarsen(stride: number): void {
    const { values, segments, length, stride: finer } = this;
    this.stride = stride;
    this.length = 0;
    this.segments = [];
    segments.forEach(({ index, step }, i) => {
      this.append(step, finer, values.slice(index, segments.at(i + 1)?.index ?? length));
    });
  }

  private truncate(step: number): void {
    this.length = this.indexAt(step);
    this.segments = this.segments.filter((segment) => segment.index < this.length);
    if (this.firstNonFiniteStep !== null && this.firstNonFiniteStep >= step) this.firstNonFiniteStep = null;
  }

  private add(into: Summary, level: number, start: number, end: number): void {
    if (level === 0) {
      for (let i = start; i < end; i++) {
        const value = this.values[i];
        if (!Number.isFinite(value)) continue;
        if (value < into.min) into.min = value;
        if (value > into.max) into.max = value;
        into.sum += value;
        into.count++;
      }
      return;
    }
    const { min, max, sum, count } = this.levels[level - 1];
    for (let i = start; i < end; i++) {
      if (min[i] < into.min) into.min = min[i];
      if (max[i] > into.max) into.max = max[i];
      into.sum += sum[i];
      into.count += count[i];
    }
  }

  private summarise(start: number, end: number): void {
    let below = end;
    for (let number = 1, a = start, b = end; below >= FANOUT; number++) {
      a = Math.floor(a / FANOUT);
      b = Math.ceil(b / FANOUT);
      const level = (this.levels[number - 1] ??= emptyLevel());
      level.min = grown(level.min, b);
      level.max = grown(level.max, b);
      level.sum = grown(level.sum, b);
      level.count = grown(level.count, b);
      for (let block = a; block < b; block++) {
        const summary = { min: Infinity, max: -Infinity, sum: 0, count: 0 };
        this.add(summary, number - 1, block * FANOUT, Math.min(below, (block + 1) * FANOUT));
        level.min[block] = summary.min;
        level.max[block] = summary.max;
        level.sum[block] = summary.sum;
        level.count[block] = summary.count;
      }
      below = b;
    }
  }
}

function emptyLevel(): Level {
  const make = (): Float64Array => new Float64Array(FANOUT);
  return { min: make(), max: make(), sum: make(), count: make() };
}

function grown(array: Float64Array, length: number): Float64Array {
  if (length <= array.length) return array;
  const larger = new Float64Array(Math.max(length, array.length * 2));
  larger.set(array);
  return larger;
}

function lastWhere<T>(items: readonly T[], matches: (item: T) => boolean): number {
  let low = 0;
  let high = items.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (matches(items[middle])) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

function push(points: Points, x: number, y: number): void {
  points.xs.push(x);
  points.ys.push(y);
}
