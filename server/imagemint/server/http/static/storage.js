// What the browser keeps for this page; with blocked site data, only as long as the page is open.

const kept = new Map();

/** Returns a kept text; null for none. `area` is "localStorage" or "sessionStorage". */
export function recall(area, name) {
  try {
    return window[area].getItem(name);
  } catch {
    return kept.get(name) ?? null;
  }
}

/** Keeps a text; null or an empty one removes it. */
export function keep(area, name, text) {
  if (text) kept.set(name, text);
  else kept.delete(name);
  try {
    if (text) window[area].setItem(name, text);
    else window[area].removeItem(name);
  } catch {
    // `recall` reads the copy
  }
}
