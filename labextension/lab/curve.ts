// A small picture of curves, as wide and as high as its styles say.

const NAMESPACE = "http://www.w3.org/2000/svg";

export class Curve {
  readonly node = document.createElementNS(NAMESPACE, "svg");
  private paths: SVGPathElement[];

  /** One path for each class name, the later above the earlier. */
  constructor(className: string, ...paths: string[]) {
    this.node.setAttribute("class", className);
    this.node.setAttribute("viewBox", "0 0 100 100");
    this.node.setAttribute("preserveAspectRatio", "none");
    // What it shows stands beside it in words.
    this.node.setAttribute("aria-hidden", "true");
    this.paths = paths.map((name) => {
      const path = document.createElementNS(NAMESPACE, "path");
      path.setAttribute("class", name);
      path.setAttribute("vector-effect", "non-scaling-stroke");
      return path;
    });
    this.node.append(...this.paths);
  }

  draw(...shapes: readonly string[]): void {
    this.paths.forEach((path, i) => {
      path.setAttribute("d", shapes[i]);
    });
  }
}
