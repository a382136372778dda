// Bundles each widget's entry, with its libraries and its styles, into dlfb_lab/views/static/.
import { build } from "esbuild";

await build({
  entryPoints: ["labextension/widget/dashboard.ts"],
  outdir: "dlfb_lab/views/static",
  bundle: true,
  format: "esm",
  target: "es2022",
  minify: true,
  legalComments: "inline",
  logLevel: "warning",
});
