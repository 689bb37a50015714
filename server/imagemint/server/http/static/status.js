// The state of the server, the theme, and the API key.

import { byId, sleep } from "./dom.js";
import { getKey, setKey } from "./api.js";
import { keep, recall } from "./storage.js";

const THEME = "imagemint.theme";
const CHECK_MS = 2500;
const STATES = {
  ready: "Ready",
  waiting: "Not taking calls: starting or shutting down",
  offline: "No answer",
};

/** Follows /readyz while the page is visible, and tells each change. */
export async function followStatus(changed) {
  let last = "";
  for (;;) {
    if (!document.hidden) {
      const state = await readState();
      if (state !== last) {
        byId("status").dataset.state = state;
        byId("status-text").textContent = STATES[state];
        changed(state, last);
        last = state;
      }
    }
    await sleep(CHECK_MS);
  }
}

async function readState() {
  try {
    const response = await fetch("readyz", { cache: "no-store" });
    return response.ok ? "ready" : "waiting";
  } catch {
    return "offline";
  }
}

/** Connects the theme button: auto, light, dark. */
export function connectTheme() {
  const button = byId("theme-button");
  const themes = ["auto", "light", "dark"];
  const show = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
    keep("localStorage", THEME, theme);
  };
  button.addEventListener("click", () => {
    const at = themes.indexOf(recall("localStorage", THEME) ?? "auto");
    show(themes[(at + 1) % themes.length]);
  });
  show(recall("localStorage", THEME) ?? "auto");
}

/** Connects the dialog of the API key; `changed` is called after a change. */
export function connectKey(changed) {
  const dialog = byId("key-dialog");
  const open = () => {
    byId("key").value = getKey();
    dialog.returnValue = ""; // the Escape key leaves that of the time before
    dialog.showModal();
  };
  byId("key-button").addEventListener("click", open);
  dialog.addEventListener("close", () => {
    if (dialog.returnValue !== "save") return;
    setKey(byId("key").value.trim());
    changed();
  });
  return open;
}
