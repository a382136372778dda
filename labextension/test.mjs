// Bundles the TypeScript tests and hands them to Node's own test runner, whose exit status this script takes over.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "esbuild";

const sources = "tests/labextension";
const outdir = mkdtempSync(join(tmpdir(), "dlfb-lab-tests-"));
try {
  await build({
    entryPoints: readdirSync(sources)
      .filter((name) => name.endsWith(".test.ts"))
      .map((name) => join(sources, name)),
    outdir,
    outExtension: { ".js": ".mjs" },
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node20",
    // JupyterLab's packages ask for Node's own modules in CommonJS's way.
    banner: { js: 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);' },
    sourcemap: "inline",
    logLevel: "warning",
  });
  const files = readdirSync(outdir).map((name) => join(outdir, name));
  const { status } = spawnSync(process.execPath, ["--enable-source-maps", "--test", ...files], { stdio: "inherit" });
  process.exitCode = status ?? 1;
} finally {
  rmSync(outdir, { recursive: true, force: true });
}
