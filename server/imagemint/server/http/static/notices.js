// What the page says when something is wrong, and what the visitor can do about it.

import { byId, make, sleep } from "./dom.js";
import { getKey } from "./api.js";

const MOST_RETRIES = 5;
// The same request may be answered later: it was late, or too early, or there were too many.
const PASSING = [408, 425, 429];

/**
 * Hides the notice. The focus goes to the images if it was on a button of it.
 *
 * @param topic hides only a notice of this topic; without it, any.
 */
export function hideNotice(topic) {
  const notice = byId("notice");
  if (topic && notice.dataset.topic !== topic) return;
  if (!notice.hidden && notice.contains(document.activeElement)) byId("stage").focus({ preventScroll: true });
  notice.hidden = true;
}

function show(kind, topic, title, detail, ...rest) {
  const notice = byId("notice");
  notice.dataset.kind = kind;
  notice.dataset.topic = topic;
  notice.setAttribute("role", kind === "bad" ? "alert" : "status");
  notice.replaceChildren(make("strong", {}, title), make("p", {}, detail), ...rest.filter(Boolean));
  notice.hidden = false;
}

/** Says something that is not an error; once, because a screen reader would read it again. */
export function tell(topic, title, detail) {
  const said = byId("notice").querySelector("strong")?.textContent;
  if (byId("notice").hidden || said !== title) show("calm", topic, title, detail);
}

/**
 * Shows a failure.
 *
 * @param problem the problem of the server.
 * @param actions retry: asks again; askKey: opens the dialog of the key.
 * @param topic what has failed, for `hideNotice`.
 * @param attempt how often this request was retried by itself.
 */
export function showFailure(problem, { retry, askKey }, topic, attempt = 0) {
  const [kind, title] = describe(problem);
  const retryButton = make("button", { type: "button", class: "primary", onclick: () => retry(0) }, "Try again");
  const button = problem.status === 401 ? makeKeyButton(askKey) : isRefused(problem.status) ? null : retryButton;
  const buttons = button && make("div", { class: "actions" }, button);
  const id = problem.request_id
    ? make("p", { class: "small muted" }, `Request ${problem.request_id}, reason ${problem.reason}`) : null;
  // Without a key the server explains how programs send one; a visitor needs something else.
  const detail = problem.status === 401 && !getKey() ? "Its operator can give you one." : problem.detail;
  show(kind, topic, title, detail, buttons, id);
  if (problem.retry_delay_s !== undefined && attempt < MOST_RETRIES) countDown(problem.retry_delay_s, retryButton, () => retry(attempt + 1));
}

function describe({ status, reason, code, metadata }) {
  if (reason === "QUEUE_FULL") return ["busy", "The queue is full"];
  if (status === 429) return ["busy", "Too much at once"];
  if (reason === "DRAINING") return ["busy", "The server is shutting down"];
  if (reason === "MODEL_NOT_READY") return ["busy", "The model is not ready"];
  if (status === 401) return ["bad", "This server requires an API key"];
  if (reason === "NOT_ALLOWED" && metadata?.client) return ["bad", "This key may not do that"];
  if (status === 0) return ["bad", "No answer from the server"];
  if (code === "DEADLINE_EXCEEDED") return ["busy", "It took too long"];
  if (status === 413) return ["bad", "The picture is too large"];
  return ["bad", isRefused(status) ? "The server refuses this request" : "The server failed"];
}

/** Whether the server would give the same answer again. */
const isRefused = (status) => status >= 400 && status < 500 && !PASSING.includes(status);

const makeKeyButton = (askKey) => make("button", { type: "button", class: "primary", onclick: askKey }, "Enter a key");

/** Retries after a delay; a click on the button, or another notice, is faster. */
async function countDown(seconds, button, retry) {
  const until = performance.now() + seconds * 1e3;
  // A screen reader would read the whole notice again each second.
  const rest = make("span", { "aria-hidden": "true" });
  button.append(rest);
  while (button.isConnected && !byId("notice").hidden) {
    const left = Math.ceil((until - performance.now()) / 1e3);
    if (left <= 0) return retry();
    rest.textContent = ` (by itself in ${left} s)`;
    await sleep(200);
  }
}
