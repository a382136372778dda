// Page, server and kernel can each have a dlfb_lab of their own.

import { version as VERSION } from "../../package.json";
import { SCHEMA } from "../core/events";
import type { Answer } from "./server";

/** What to do where page and server are not of one version; empty where they are. */
export function disagreement({ version, schema }: Answer): string {
  if (version === VERSION && schema === SCHEMA) return "";
  return `This page has dlfb-lab ${VERSION} and the server ${version}. Reload the page; if that does not help, restart JupyterLab.`;
}

/** The same for the page, the server, and the kernel of a run that goes on; only one note, the nearest first. */
export function kernelDisagreement(answer: Answer, kernel: string | undefined): string {
  const nearer = disagreement(answer);
  if (nearer !== "" || kernel === undefined || kernel === answer.version) return nearer;
  return `This run's kernel has dlfb-lab ${kernel} and the Jupyter server ${answer.version}. Restart the kernel before the next run; if that does not help, restart JupyterLab.`;
}
