// Bundles each widget's entry, with its libraries and its styles, into dlfb_lab/views/static/, and the extension of
// JupyterLab into dlfb_lab/labextension/.
import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import { build } from "esbuild";

const options = { bundle: true, format: "esm", target: "es2022", legalComments: "inline", logLevel: "warning" };

await build({
  ...options,
  entryPoints: ["labextension/widget/dashboard.ts"],
  outdir: "dlfb_lab/views/static",
  minify: true,
  banner: {
    js: "/*! Contains uPlot, Copyright (c) 2022 Leon Sorokin, MIT licence: https://github.com/leeoniya/uPlot */",
  },
});
await build({
  ...options,
  entryPoints: ["labextension/lab/index.ts"],
  outdir: "labextension/lib",
  // JupyterLab has one copy of its own for all extensions; what the builder bundles comes with its licence.
  external: ["@jupyterlab/*", "@lumino/*", "uplot"],
});

// JupyterLab's builder needs no Python: what its command line passes on is the list of packages that the host shares.
const { resolve } = createRequire(import.meta.url);
const command = [
  resolve("@jupyter/builder/lib/build-labextension.js"),
  ...["--core-package-file", resolve("@jupyterlab/core-meta/core.package.json"), "."],
];
try {
  execFileSync(process.execPath, command, { stdio: "pipe" });
} catch (error) {
  process.stderr.write(`${error.stdout ?? ""}${error.stderr ?? error}\n`);
  process.exitCode = 1;
}
