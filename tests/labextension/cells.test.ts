import assert from "node:assert/strict";
import { test } from "node:test";

import { diffCell, exportCell, literal, reference, restoreCell, resumeCell } from "../../labextension/lab/cells";

const RUN = "mlp-20260105-101500-3f2a";
const LINE = "%dlfb_train model (x, y) --valid 0.2  # a comment";

/** Folders that would end a text, a line or a cell, were they not quoted. */
const FOLDERS = [
  '/a "quoted" folder',
  "/it's",
  "/both \" and '",
  "/back\\slash\\",
  "/two\nlines",
  '/x"); import os; os.system("id") #',
  "/%%bash\nrm -rf ~",
  "/{x} $HOME `id` !id ?",
  "/\u2028%magic\u0085!id\u000b\r",
  "/\u202egnp.\u200b",
  "/\udc80 not UTF-8",
  "/Übung/日本/🙂",
  "/--into x --store",
  "/#",
];

/** What Python's and JSON's common literals mean. */
function meant(text: string): string {
  return JSON.parse(text) as string;
}

test("a run is named by its id beside the notebook, and by its folder elsewhere", () => {
  const run = { run: RUN, folder: `/data/notes/dlfb_runs/${RUN}`, below: "notes/dlfb_runs" };
  assert.equal(reference(run, 340, "notes/notebook.ipynb"), `${RUN}@340`);
  assert.equal(reference(run, 340, "notebook.ipynb"), `${run.folder}@340`);
  assert.equal(reference({ ...run, below: "dlfb_runs" }, 340, "notebook.ipynb"), `${RUN}@340`);
  assert.equal(reference({ ...run, below: "notes/other" }, 340, "notes/notebook.ipynb"), `${run.folder}@340`);
  assert.equal(reference({ ...run, below: null }, 340, "notes/notebook.ipynb"), `${run.folder}@340`);
});

test("cells go on from a checkpoint", () => {
  assert.equal(restoreCell(`${RUN}@340`), `%dlfb_restore ${RUN}@340 --into state`);
  assert.equal(restoreCell("/a b/run@3"), '%dlfb_restore "/a b/run@3" --into state');
  assert.equal(diffCell("a@1", "a@2"), 'import dlfb_lab\n\ndlfb_lab.diff("a@1", "a@2")');
  assert.equal(exportCell("a@2", "a", 2), 'import dlfb_lab\n\ndlfb_lab.export("a@2", "a-2.safetensors")');
});

test("the line that trained goes on, whatever stands at its end", () => {
  assert.equal(
    resumeCell(`${RUN}@340`, LINE),
    `run = %dlfb_train --resume ${RUN}@340 model (x, y) --valid 0.2  # a comment`,
  );
  assert.match(resumeCell("/a b/run@3", LINE), /^run = %dlfb_train --resume "\/a b\/run@3" model/);
});

for (const source of [
  ...["", "%%dlfb_train model (x, y)\nx = 1", `${LINE}\n!id`, `${LINE}\u2028!id`, "%dlfb_training", "!id %dlfb_train"],
  ...["%dlfb_train model (x, y) --resume other", "dlfb_lab.train(model, (x, y))"],
]) {
  test(`where there is no such line it is said what to add: ${JSON.stringify(source)}`, () => {
    const cell = resumeCell(`${RUN}@340`, source);
    assert.ok(cell.split("\n").every((line) => line.startsWith("# ")));
    assert.ok(cell.includes(`--resume ${RUN}@340`) && cell.includes(`resume="${RUN}@340"`));
  });
}

for (const folder of FOLDERS) {
  const name = `${folder}/${RUN}@340`;
  test(`a folder's name stays a name: ${JSON.stringify(folder)}`, () => {
    const quoted = literal(name);
    assert.equal(meant(quoted), name);
    assert.doesNotMatch(quoted, /[\n\r\v\f\u0085\u2028\u2029\u202e\u200b]/);
    assert.doesNotThrow(() => encodeURIComponent(quoted), "a notebook's file holds it");
    assert.equal(diffCell(name, name), `import dlfb_lab\n\ndlfb_lab.diff(${quoted}, ${quoted})`);
    const isEscaped = quoted.includes("\\");
    assert.equal(
      restoreCell(name),
      isEscaped
        ? `import dlfb_lab\n\nstate = dlfb_lab.restore(${quoted}, into=state)`
        : `%dlfb_restore ${quoted} --into state`,
    );
    const resumed = resumeCell(name, "%dlfb_train m d");
    assert.equal(resumed, `run = %dlfb_train --resume ${isEscaped ? `(${quoted})` : quoted} m d`);
    assert.equal(resumed.split(/[\n\r\u2028\u2029\u0085\v\f]/).length, 1);
    for (const line of resumeCell(name, "").split(/[\n\r\u2028\u2029\u0085\v\f]/)) assert.ok(line.startsWith("# "));
  });
}
