// The few DOM verbs that the dashboard needs. Text goes in as text: names may hold markup.

export function el<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  className = "",
  text = "",
): HTMLElementTagNameMap[Tag] {
  const node = document.createElement(tag);
  if (className !== "") node.className = className;
  if (text !== "") node.textContent = text;
  return node;
}

/** An element that tests and styles find by `data-dlfb`. */
export function hook<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  name: string,
  className = "",
): HTMLElementTagNameMap[Tag] {
  const node = el(tag, className);
  node.dataset.dlfb = name;
  return node;
}

export function setText(node: HTMLElement, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}

/** One line below the other. */
export function setLines(node: HTMLElement, lines: readonly string[]): void {
  if (node.childElementCount === lines.length && lines.every((text, i) => node.children[i].textContent === text))
    return;
  node.replaceChildren(...lines.map((text) => el("div", "", text)));
}

export function table(head: readonly string[], rows: readonly (readonly string[])[]): HTMLElement {
  const node = el("table", "dlfb-table");
  const headRow = node.createTHead().insertRow();
  for (const text of head) {
    const cell = el("th", "", text);
    cell.scope = "col";
    headRow.append(cell);
  }
  const body = node.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    row.forEach((text, i) => {
      const cell = el(i === 0 ? "th" : "td", "", text);
      if (cell.tagName === "TH") cell.setAttribute("scope", "row");
      line.append(cell);
    });
  }
  const scroller = el("div", "dlfb-scroll");
  scroller.append(node);
  return scroller;
}
