// The code of cells that go on from a checkpoint. Names of folders can hold anything, so all of them are quoted.

import type { CheckpointsAnswer } from "./server";

/** What is known of a run where a cell is to name it. */
export type Naming = Pick<CheckpointsAnswer, "run" | "folder" | "below">;

const STORE = "dlfb_runs";
/** All that Python or a notebook may take for the end of a line, and what changes the order in which text is read. */
const UNSEEN = /[\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
const LINE_ENDS = /[\n\v\f\r\u001c-\u001e\u0085\u2028\u2029]/;
const NO_QUOTES = /^[A-Za-z0-9_./@-]+$/;

/** RUN@STEP where the notebook's kernel looks for runs by itself, else with the run's folder; `notebook` is its path. */
export function reference({ run, folder, below }: Naming, step: number, notebook: string): string {
  const beside = notebook.split("/").slice(0, -1).concat(STORE).join("/");
  return `${below === beside ? run : folder}@${step}`;
}

/** Python's literal for a text, in one line whatever it holds. JSON writes but for a few characters the same. */
export function literal(text: string): string {
  return JSON.stringify(text).replace(
    UNSEEN,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

export function restoreCell(checkpoint: string): string {
  if (isPlain(checkpoint)) return `%dlfb_restore ${word(checkpoint)} --into state`;
  return `import dlfb_lab\n\nstate = dlfb_lab.restore(${literal(checkpoint)}, into=state)`;
}

export function diffCell(older: string, newer: string): string {
  return `import dlfb_lab\n\ndlfb_lab.diff(${literal(older)}, ${literal(newer)})`;
}

export function exportCell(checkpoint: string, run: string, step: number): string {
  return `import dlfb_lab\n\ndlfb_lab.export(${literal(checkpoint)}, ${literal(`${run}-${step}.safetensors`)})`;
}

/** The line that began the run, going on from the checkpoint; where there is no such line, what to add to the cell. */
export function resumeCell(checkpoint: string, source: string): string {
  // What is in brackets is an expression.
  const option = `--resume ${isPlain(checkpoint) ? word(checkpoint) : `(${literal(checkpoint)})`}`;
  const line = source.trim();
  const rest = /^%dlfb_train\s+(.+)$/.exec(line)?.[1];
  if (rest !== undefined && !LINE_ENDS.test(line) && !/--resume\b/.test(line))
    // In front, where no comment at the line's end can swallow it.
    return `run = %dlfb_train ${option} ${rest}`;
  return [
    "# To go on from this checkpoint, run the cell that trained again, with this added to its %dlfb_train:",
    `#   ${option}`,
    "# or to its dlfb_lab.train(...):",
    `#   resume=${literal(checkpoint)}`,
  ].join("\n");
}

/** A text as a word of a magic's line. */
function word(text: string): string {
  return NO_QUOTES.test(text) ? text : literal(text);
}

/** Whether a magic, which knows quotes but nothing that is escaped, takes the text as it is meant. */
function isPlain(text: string): boolean {
  return !literal(text).includes("\\");
}
