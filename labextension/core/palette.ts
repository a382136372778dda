// The colours of the canvas, read from the stylesheet, which follows the host's theme.

export const COLORS = [
  "text",
  "muted",
  "grid",
  "train",
  "valid",
  "other",
  "baseline",
  "warning",
  "bad",
  "surface",
  "part1",
  "part2",
  "part3",
  "part4",
  "part5",
  "part6",
  "part7",
  "part8",
] as const;
export type Color = (typeof COLORS)[number];
export type Palette = Record<Color, string> & { font: string };

/** Marks `root` as light or dark after the background that the host gave it, and returns the colours. */
export function readPalette(root: HTMLElement): Palette {
  const style = getComputedStyle(root);
  const [red = 255, green = 255, blue = 255] = (style.backgroundColor.match(/[\d.]+/g) ?? []).map(Number);
  root.dataset.dlfbTheme = 0.299 * red + 0.587 * green + 0.114 * blue < 128 ? "dark" : "light";
  const colors = Object.fromEntries(COLORS.map((name) => [name, style.getPropertyValue(`--dlfb-${name}`).trim()]));
  return { ...(colors as Record<Color, string>), font: style.fontFamily };
}

/** Calls back when the host or the system changes between light and dark. */
export function watchTheme(changed: () => void, signal: AbortSignal): void {
  const observer = new MutationObserver(changed);
  const attributeFilter = ["class", "style", "theme", "data-jp-theme-name", "data-vscode-theme-kind"];
  for (const node of [document.documentElement, document.body])
    observer.observe(node, { attributes: true, attributeFilter });
  signal.addEventListener("abort", () => {
    observer.disconnect();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed, { signal });
}
