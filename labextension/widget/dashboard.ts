// The anywidget of one run. The default export is a function, because anywidget calls it once for each model and then
// hands `initialize` and `render` different proxies of that model: the store that they share lives in this closure.

import type { AnyModel, InitializeProps, RenderProps } from "@anywidget/types";

import "uplot/dist/uPlot.min.css";
import "../core/theme.css";
import { mountDashboard } from "../core/dashboard";
import { hasEnded } from "../core/runState";
import { RunStore } from "../core/runStore";

interface Traits extends Record<string, unknown> {
  snapshot: unknown[];
  controls: string[];
  title: string;
}

interface Message {
  type?: unknown;
  first?: unknown;
  next?: unknown;
  events?: unknown;
}

export default function widget(): {
  initialize(props: InitializeProps<Traits>): () => void;
  render(props: RenderProps<Traits>): () => void;
} {
  let store: RunStore | null = null;
  return {
    initialize({ model }) {
      const created = createStore(model);
      store = created;
      return listen(model, created);
    },
    render({ model, el }) {
      store ??= createStore(model);
      el.classList.add("dlfb-host");
      return mountDashboard(el, store);
    },
  };
}

function createStore(model: AnyModel<Traits>): RunStore {
  const store = new RunStore({
    control(action) {
      model.send({ type: "control", action });
    },
    requestSnapshot() {
      model.send({ type: "snapshot" });
    },
  });
  store.restore(model.get("snapshot"));
  store.offer(model.get("title"), model.get("controls"));
  // The answer tells whether a kernel is still behind a run that was saved before its end.
  if (store.state.plan !== null && !hasEnded(store.state)) model.send({ type: "snapshot" });
  return store;
}

function listen(model: AnyModel<Traits>, store: RunStore): () => void {
  const restore = (): void => {
    store.restore(model.get("snapshot"));
  };
  const offer = (): void => {
    store.offer(model.get("title"), model.get("controls"));
  };
  const receive = (message: Message): void => {
    if (!Array.isArray(message.events)) return;
    const events = message.events as unknown[];
    if (message.type === "events" && typeof message.first === "number") {
      store.append(message.first, events, performance.now());
    } else if (message.type === "snapshot") {
      store.replace(events, typeof message.next === "number" ? message.next : events.length, performance.now());
    }
  };
  model.on("change:snapshot", restore);
  model.on("change:controls", offer);
  model.on("change:title", offer);
  model.on("msg:custom", receive);
  return () => {
    model.off("change:snapshot", restore);
    model.off("change:controls", offer);
    model.off("change:title", offer);
    model.off("msg:custom", receive);
  };
}
