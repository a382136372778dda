import tseslint from "typescript-eslint";

const HOSTS = ["@jupyterlab/*", "@lumino/*", "@jupyter-widgets/*", "@anywidget/*"];

function forbid(...group) {
  return { "no-restricted-imports": ["error", { patterns: [{ group, message: "lab -> core <- widget" }] }] };
}

export default tseslint.config(
  { ignores: ["**/*.js", "**/*.mjs", "dlfb_lab/", "node_modules/", ".venv/"] },
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: { parserOptions: { project: "./tsconfig.tests.json", tsconfigRootDir: import.meta.dirname } },
    rules: {
      "@typescript-eslint/no-explicit-any": "error",
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
    },
  },
  { files: ["labextension/core/**"], rules: forbid("**/widget/**", "**/lab/**", ...HOSTS) },
  { files: ["labextension/widget/**"], rules: forbid("**/lab/**") },
  { files: ["labextension/lab/**"], rules: forbid("**/widget/**") },
  { files: ["tests/**"], rules: { "@typescript-eslint/no-floating-promises": "off" } },
);
