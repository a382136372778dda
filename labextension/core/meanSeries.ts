// Several series over the same steps as means of equal spans of steps: what lies beside the losses (their parts, each
// member's loss) may cost neither memory nor time with every step of a long run.

const SPANS = 2048;

export interface Spread {
  xs: number[];
  mean: number[];
  /** sample standard deviation over the rows; NaN where fewer than two have a value */
  deviation: number[];
}

export class MeanSeries {
  /** of each row */
  readonly latest: Float64Array;
  /** the first value of each row that is finite */
  readonly first: Float64Array;
  /** step of each row's first value that is not finite; NaN while all are */
  readonly brokenAt: Float64Array;
  /** steps that a span is wide */
  private width = 1;
  private begin = Infinity;
  private end = -1;
  /** for each row and span: the sum of the finite values, and the number of steps that they stand for */
  private sums: Float64Array;
  private counts: Float64Array;

  constructor(readonly rows: number) {
    this.latest = new Float64Array(rows).fill(NaN);
    this.first = new Float64Array(rows).fill(NaN);
    this.brokenAt = new Float64Array(rows).fill(NaN);
    this.sums = new Float64Array(rows * SPANS);
    this.counts = new Float64Array(rows * SPANS);
  }

  /** Adds a block for each row. Values of steps already known replace them and what followed: the run went back. */
  append(firstStep: number, stride: number, blocks: readonly ArrayLike<number>[]): void {
    const count = blocks[0]?.length ?? 0;
    if (count === 0) return;
    if (firstStep <= this.end) this.truncate(firstStep);
    this.begin = Math.min(this.begin, firstStep);
    this.end = firstStep + (count - 1) * stride;
    // A span that no value falls into would be a gap.
    while (this.end >= this.width * SPANS || this.width < stride) this.widen();
    blocks.forEach((block, row) => {
      this.add(row, firstStep, stride, block);
    });
  }

  /** A row as a line between two steps, each point the mean of `width` steps around it. */
  line(row: number, from: number, to: number, width: number, points: number): { xs: number[]; ys: number[] } {
    const xs = this.places(from, to, points);
    return { xs, ys: this.means(row, xs, width) };
  }

  /** The rows' mean and deviation between two steps; of each row's mean of `width` steps around a point. */
  spread(from: number, to: number, width: number, points: number): Spread {
    return this.spreadOf(this.places(from, to, points), width);
  }

  /** The same at one step. */
  spreadAt(step: number, width: number): { mean: number; deviation: number } {
    const { mean, deviation } = this.spreadOf([step], width);
    return { mean: mean[0], deviation: deviation[0] };
  }

  private spreadOf(xs: number[], width: number): Spread {
    const lines = Array.from({ length: this.rows }, (_, row) => this.means(row, xs, width));
    const found = xs.map((_, i) => meanAndDeviation(lines.map((line) => line[i])));
    return { xs, mean: found.map(({ mean }) => mean), deviation: found.map(({ deviation }) => deviation) };
  }

  private add(row: number, firstStep: number, stride: number, block: ArrayLike<number>): void {
    const { sums, counts, width } = this;
    const offset = row * SPANS;
    for (let i = 0; i < block.length; i++) {
      const value = block[i];
      const step = firstStep + i * stride;
      if (!Number.isFinite(value)) {
        if (Number.isNaN(this.brokenAt[row])) this.brokenAt[row] = step;
        continue;
      }
      if (Number.isNaN(this.first[row])) this.first[row] = value;
      const span = offset + Math.floor(step / width);
      sums[span] += value * stride;
      counts[span] += stride;
    }
    this.latest[row] = block[block.length - 1];
  }

  /** Steps in the middle of spans, at most `points` of them. */
  private places(from: number, to: number, points: number): number[] {
    const { width } = this;
    const first = Math.max(0, Math.floor(Math.max(from, this.begin) / width));
    const last = Math.min(SPANS - 1, Math.floor(Math.min(to, this.end) / width));
    const every = Math.max(1, Math.ceil((last - first + 1) / points));
    const xs: number[] = [];
    for (let span = first; span <= last; span += every) xs.push(this.middle(span));
    if (xs.length > 0 && (last - first) % every !== 0) xs.push(this.middle(last));
    return xs;
  }

  private middle(span: number): number {
    return Math.min(this.end, span * this.width + (this.width - 1) / 2);
  }

  /** Narrower at the start, where a wide mean would hide the first fall. */
  private means(row: number, xs: readonly number[], width: number): number[] {
    const { sums, counts } = this;
    const offset = row * SPANS;
    const start = Math.floor(this.begin / this.width);
    return xs.map((x) => {
      const at = Math.floor(x / this.width);
      const half = Math.max(0, Math.min(Math.floor(width / this.width / 2), at - start));
      // Without a value of its own a row is broken here, whatever lies around.
      if (counts[offset + at] === 0 && Number.isFinite(this.brokenAt[row])) return NaN;
      let sum = 0;
      let count = 0;
      for (let span = Math.max(0, at - half); span <= Math.min(SPANS - 1, at + half); span++) {
        sum += sums[offset + span];
        count += counts[offset + span];
      }
      return count === 0 ? NaN : sum / count;
    });
  }

  private widen(): void {
    this.width *= 2;
    for (const values of [this.sums, this.counts]) {
      for (let row = 0; row < this.rows; row++) {
        const offset = row * SPANS;
        for (let i = 0; i < SPANS / 2; i++) values[offset + i] = values[offset + 2 * i] + values[offset + 2 * i + 1];
        values.fill(0, offset + SPANS / 2, offset + SPANS);
      }
    }
  }

  private truncate(step: number): void {
    const from = Math.floor(step / this.width);
    for (let row = 0; row < this.rows; row++) {
      this.sums.fill(0, row * SPANS + from, (row + 1) * SPANS);
      this.counts.fill(0, row * SPANS + from, (row + 1) * SPANS);
      if (this.brokenAt[row] >= step) this.brokenAt[row] = NaN;
    }
  }
}

/** Of the values that are finite: NaN where there is none, and no deviation where there are fewer than two. */
export function meanAndDeviation(values: readonly number[]): { mean: number; deviation: number } {
  const finite = values.filter(Number.isFinite);
  const mean = finite.reduce((sum, value) => sum + value, 0) / finite.length;
  const squares = finite.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, deviation: finite.length < 2 ? NaN : Math.sqrt(squares / (finite.length - 1)) };
}
