// What the panel says where there is nothing to list, and what to do about it.

import { Clipboard } from "@jupyterlab/apputils";

import { el, hook } from "../core/dom";

const FIRST_RUN = "%load_ext dlfb_lab\nrun = %dlfb_train model (x, y) --valid 0.2";
const ENABLE = "jupyter server extension enable dlfb_lab";
const COPIED_MS = 1500;

export function noRuns(): HTMLElement {
  const node = hook("div", "empty", "dlfb-nothing");
  node.append(
    el("p", "dlfb-nothing-title", "No runs yet"),
    el("p", "", "With a model and its data in a notebook, type:"),
    copyable(FIRST_RUN),
    el("p", "", "The run shows up here at once, and stays after the kernel is gone."),
  );
  return node;
}

export function absent(retry: () => void): HTMLElement {
  const node = hook("div", "absent", "dlfb-nothing");
  const again = el("button", "dlfb-button", "Try again");
  again.type = "button";
  again.addEventListener("click", retry);
  node.append(
    el("p", "dlfb-nothing-title", "Runs cannot be listed"),
    el("p", "", "dlfb_lab's server extension does not answer here. In a terminal on the Jupyter server, type:"),
    copyable(ENABLE),
    el(
      "p",
      "",
      "Then restart JupyterLab. Training works without it: its kernel draws it, and a picture of it is kept.",
    ),
    again,
  );
  return node;
}

function copyable(text: string): HTMLElement {
  const node = el("div", "dlfb-code");
  const copy = hook("button", "copy", "dlfb-link");
  copy.type = "button";
  copy.textContent = "Copy";
  copy.addEventListener("click", () => {
    Clipboard.copyToSystem(text);
    copy.textContent = "Copied";
    setTimeout(() => {
      copy.textContent = "Copy";
    }, COPIED_MS);
  });
  const lines = el("pre");
  lines.append(...text.split("\n").map((line) => el("span", "", line)));
  node.append(lines, copy);
  return node;
}
