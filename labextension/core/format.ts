// Numbers as people read them. One language for all, as in the rest of the interface.

const SIGNIFICANT = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 4 });
const WHOLE = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const TENTHS = new Intl.NumberFormat("en-US", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const SHORT = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 4 });

/** Four significant digits: 0.1234, 26,300, 1.234e-5. */
export function value(x: number): string {
  if (Number.isNaN(x)) return "NaN";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
  const size = Math.abs(x);
  if (size !== 0 && (size < 1e-3 || size >= 1e7))
    return x
      .toExponential(3)
      .replace("e+", "e")
      .replace(/\.?0+e/, "e");
  return SIGNIFICANT.format(x);
}

/** A deviation beside its mean: two digits say all there is to know. */
export function deviation(x: number): string {
  return Number.isFinite(x) ? `± ${value(Number(x.toPrecision(2)))}` : "";
}

/** Always one decimal, so that a growing number does not jump: 3.2, 2,000.0. */
export function tenths(x: number): string {
  return TENTHS.format(x);
}

export function count(x: number): string {
  return WHOLE.format(x);
}

/** A tick on an axis: 0.25, 10k, 1e-5. */
export function tick(x: number): string {
  if (x === 0) return "0";
  const size = Math.abs(x);
  return size < 1e-3 || size >= 1e12 ? value(x) : SHORT.format(x).replace("K", "k");
}

/** Seconds in the unit that suits them: 350 µs, 12 ms, 1.2 s, 3 min 20 s, 2 h 05 min. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  const s = Math.max(0, seconds);
  if (s === 0) return "0 s";
  if (s < 1e-3) return `${three(s * 1e6)} µs`;
  if (s < 0.9995) return `${three(s * 1e3)} ms`;
  if (s < 9.95) return `${s.toFixed(1)} s`;
  const whole = Math.round(s);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  const minutes = Math.round(s / 60);
  return `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
}

/** Time on a running clock: 0.4 s, 12 s, 3 min 20 s. */
export function clock(seconds: number): string {
  return seconds < 1 ? `${tenths(Math.max(0, seconds))} s` : duration(seconds);
}

/** Time still to come, in whole seconds: its tenths are not known. */
export function remaining(seconds: number): string {
  if (seconds < 1) return "under 1 s";
  return seconds < 59.5 ? `${Math.round(seconds)} s` : duration(seconds);
}

/** How long ago, in one unit: just now, 40 s ago, 5 min ago, 3 h ago, 2 days ago. */
export function ago(seconds: number): string {
  if (!Number.isFinite(seconds)) return "";
  if (seconds < 10) return "just now";
  if (seconds < 59.5) return `${Math.round(seconds)} s ago`;
  if (seconds < 3570) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 84_600) return `${Math.round(seconds / 3600)} h ago`;
  return `${plural(Math.round(seconds / 86_400), "day")} ago`;
}

const BINARY = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** Bytes as the tools of a machine count them, in powers of 1,024: 512 B, 1.2 GiB, 80 GiB. */
export function bytes(x: number): string {
  const unit = binaryUnit(x);
  return `${inUnit(x, unit)} ${BINARY[unit]}`;
}

/** A part of a whole, both in the whole's unit: 1.2 and of 80.0 GiB. */
export function bytesOf(part: number, whole: number): [part: string, of: string] {
  const unit = binaryUnit(whole);
  return [inUnit(part, unit), `of ${inUnit(whole, unit)} ${BINARY[unit]}`];
}

function binaryUnit(x: number): number {
  const power = Math.floor(Math.log2(Math.max(1, Math.abs(x))) / 10);
  return Math.min(BINARY.length - 1, power);
}

function inUnit(x: number, unit: number): string {
  const size = x / 1024 ** unit;
  return size < 99.95 && unit > 0 ? tenths(size) : count(size);
}

export function plural(n: number, noun: string): string {
  return `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
}

function three(x: number): string {
  return String(Number(x.toPrecision(3)));
}

function two(x: number): string {
  return String(x).padStart(2, "0");
}
