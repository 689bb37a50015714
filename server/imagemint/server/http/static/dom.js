// Small helpers for the document. Nothing here or elsewhere sets markup from text.

/** Returns the element with an id. */
export const byId = (id) => document.getElementById(id);

/** Creates an element: attributes, or properties and listeners if the value is no text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Creates the image of a blob, whose memory is free once the image is gone. */
export function makePicture(blob, attributes) {
  const src = URL.createObjectURL(blob);
  const free = () => URL.revokeObjectURL(src);
  return make("img", { src, onload: free, onerror: free, ...attributes });
}

/** Copies text to the clipboard; returns whether that worked. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // pages over plain HTTP from other hosts have no clipboard
  }
}

/** Returns "1,234" for 1234. */
export const formatCount = (count) => count.toLocaleString("en");

/** Returns a time in seconds as text with its unit. */
export function formatSeconds(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 0.0995) return `${(seconds * 1e3).toFixed(seconds < 0.00995 ? 1 : 0)} ms`;
  return seconds < 1 ? `${Math.round(seconds * 1e3)} ms` : `${seconds.toFixed(1)} s`;
}

/** Waits; ends early if the signal aborts. */
export function sleep(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
