// Faults of a request at the fields of the form.

import { byId } from "./dom.js";

// The element of a field, by the beginning of its name in the messages or in the options of a form.
const PLACES = [
  [/^(images\.)?seed$/, "seed"],
  [/^(images\.)?caption$/, "caption"],
  [/^(images\.)?truncation$/, "truncation"],
  [/^(images\.)?count$/, "count"],
  [/^(images\.)?version$/, "version"],
  [/^(images\.)?class/, "class-field"],
  [/^(sources?|frame)\b/, "source-file"],
  [/^mask$/, "mask-file"],
  [/^fit$/, "fit"],
];
const ERROR = "form-error";

/** Removes the faults of the request before. */
export function clearFaults() {
  byId(ERROR).hidden = true;
  for (const element of document.querySelectorAll(`[aria-describedby~="${ERROR}"]`)) {
    element.removeAttribute("aria-invalid");
    describe(element, (ids) => ids.filter((id) => id !== ERROR));
  }
}

/**
 * Shows faults at their fields, and focuses the first; returns false if one is of no field.
 *
 * @param faults the `field` and the `description` of each, or the whole `text`.
 */
export function showFaults(faults) {
  clearFaults();
  const places = faults.map(({ field }) => PLACES.find(([name]) => name.test(field))?.[1]);
  if (!faults.length || places.includes(undefined)) return false;
  byId(ERROR).textContent = faults.map(({ field, description, text }) => text ?? `${field}: ${description}`).join("\n");
  byId(ERROR).hidden = false;
  const elements = places.map(byId);
  for (const element of elements) {
    if (element.matches("input, select")) element.setAttribute("aria-invalid", "true");
    describe(element, (ids) => [...new Set([...ids, ERROR])]);
  }
  const first = elements[0].matches("fieldset") ? elements[0].querySelector("select, :checked") : elements[0];
  first?.focus();
  return true;
}

function describe(element, change) {
  const ids = change((element.getAttribute("aria-describedby") ?? "").split(" ").filter(Boolean));
  if (ids.length) element.setAttribute("aria-describedby", ids.join(" "));
  else element.removeAttribute("aria-describedby");
}
