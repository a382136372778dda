// What a cell's output says about a run. A notebook can come from anywhere, so nothing of it is taken on trust.

import type { RunRef } from "./feed";
import { RUN_MIME } from "./tokens";

export const WIDGET_MIME = "application/vnd.jupyter.widget-view+json";
const STATIC_MIMES = ["text/html", "image/svg+xml", "text/plain"];

type Bundle = Readonly<Record<string, unknown>>;

export interface NamedRun extends RunRef {
  name: string;
}

/** The run that the output is about, or null where it does not say so in the words of this version. */
export function runOf(bundle: Bundle): NamedRun | null {
  const reference = (bundle[RUN_MIME] ?? {}) as Bundle;
  if (!isRef(reference)) return null;
  const { store, run, name } = reference;
  return { store, run, name: typeof name === "string" ? name : "" };
}

/** Whether these can be the parts of a run's address; that there is such a run only the server knows. */
export function isRef<T extends { readonly store?: unknown; readonly run?: unknown }>(value: T): value is T & RunRef {
  const { store, run } = value;
  return (
    typeof store === "string" &&
    /^[0-9a-f]{16}$/.test(store) &&
    typeof run === "string" &&
    /^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$/.test(run)
  );
}

/** What of the output needs neither a server nor a kernel. */
export function staticPart<T extends Bundle>(bundle: T): Partial<T> {
  return Object.fromEntries(Object.entries(bundle).filter(([mime]) => STATIC_MIMES.includes(mime))) as Partial<T>;
}

/** The id of the widget that the output can show instead; empty when it has none. */
export function widgetOf(bundle: Bundle): string {
  const { model_id } = (bundle[WIDGET_MIME] ?? {}) as Bundle;
  return typeof model_id === "string" ? model_id : "";
}
