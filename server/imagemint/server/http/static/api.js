// Calls of the server. Every failure becomes a Failure with the members of a problem (RFC 9457).

import { keep, recall } from "./storage.js";

const KEY = "imagemint.key";

/** The API key of this tab; empty for none. */
export const getKey = () => recall("sessionStorage", KEY) ?? "";
export const setKey = (key) => keep("sessionStorage", KEY, key);

/** A failed call. `problem` has at least status and detail; status 0 means that nothing answered. */
export class Failure extends Error {
  constructor(problem) {
    super(problem.detail);
    this.problem = problem;
  }
}

function headers(more) {
  const key = getKey();
  if (/[^\x21-\x7e]/.test(key)) {
    // The browser would refuse the header, as if the server did not answer.
    throw new Failure({ status: 401, reason: "API_KEY_INVALID", detail: "The key has characters that no key has." });
  }
  // The server takes a form with this header for one of its own page; see origins.py.
  return { "x-requested-with": "imagemint", ...(key ? { authorization: `Bearer ${key}` } : {}), ...more };
}

/** Sends a request and returns the response; throws a Failure unless it is a success. */
export async function call(path, { method = "GET", body, accept = "application/json", signal, cache } = {}) {
  let response;
  const isForm = body instanceof FormData; // the browser writes its content type
  const sent = headers(body && !isForm ? { accept, "content-type": "application/json" } : { accept });
  try {
    response = await fetch(path, {
      method,
      signal,
      cache,
      headers: sent,
      body: body && !isForm ? JSON.stringify(body) : body,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure({ status: 0, reason: "UNREACHABLE", detail: "The server does not answer." });
  }
  if (!response.ok) throw new Failure(await readProblem(response));
  return response;
}

/** Returns the problem of a response, which may be of a proxy and no problem at all. */
async function readProblem(response) {
  const { status } = response;
  const found = await response.json().catch(() => null);
  return { ...found, status, detail: found?.detail ?? `The server answered ${status}.` };
}

const makeCut = () => new Failure({ status: 0, reason: "CUT", detail: "The connection was cut." });

/** Returns the body of a response as "json", "blob" or "text"; throws a Failure if that is not possible. */
async function readBody(response, kind) {
  try {
    return await response[kind]();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw error instanceof SyntaxError ? makeForeign() : makeCut();
  }
}

// Such as of a proxy that asks for a login.
const makeForeign = () => new Failure({ status: 0, reason: "FOREIGN", detail: "The answer is not one of imagemint." });

function parseLine(line) {
  try {
    return JSON.parse(line);
  } catch {
    throw makeForeign();
  }
}

/** Yields the messages of a stream of JSON lines. */
export async function* streamLines(path, body, signal) {
  const response = await call(path, { method: "POST", body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      throw error.name === "AbortError" ? error : makeCut();
    }
    if (part.done) {
      if (rest) throw makeCut();
      return;
    }
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const message = parseLine(line);
      if (message.error) throw new Failure(message.error);
      yield message;
    }
  }
}

const modelPath = (name) => `v1/models/${encodeURIComponent(name)}`;

/** Returns all models. */
export async function listModels() {
  const models = [];
  let token = "";
  do {
    const page = await readBody(await call(`v1/models?pageToken=${encodeURIComponent(token)}`), "json");
    models.push(...page.models);
    token = page.nextPageToken;
  } while (token);
  return models;
}

/** Yields chunks of images; `spec` is an ImageSpec in JSON. */
export const streamImages = (model, spec, signal) =>
  streamLines(`${modelPath(model)}:streamGenerate`, { images: spec, output: PNG, priority: "PRIORITY_HIGH" }, signal);

const PNG = { format: "IMAGE_FORMAT_PNG" };

/** Yields chunks of frames of the path through serial numbers. */
export const streamWalk = (model, serials, frames, signal) =>
  streamLines(`${modelPath(model)}:interpolate`, { serials, frames, output: PNG }, signal);

/** Returns the path through serial numbers, forwards and backwards, as an animated WebP. */
export async function fetchWalk(model, serials, frames) {
  const body = { serials, frames, animation: { bounces: true } };
  const response = await call(`${modelPath(model)}:interpolate`, { method: "POST", body, accept: "image/webp" });
  return readBody(response, "blob");
}

/** Returns the translation of a form as a blob, and its serial. */
export async function translate(model, form, signal) {
  const options = { method: "POST", body: form, accept: "image/png", signal };
  const response = await call(`${modelPath(model)}:translate`, options);
  const timing = parseServerTiming(response.headers.get("server-timing") ?? "");
  return { blob: await readBody(response, "blob"), serial: response.headers.get("imagemint-serial") ?? "", timing };
}

/** Returns the seconds of "queue;dur=0.5, inference;dur=12" by name, in the form of a Timing. */
function parseServerTiming(text) {
  const found = [...text.matchAll(/(\w+);dur=([\d.]+)/g)];
  return Object.fromEntries(found.map(([, name, ms]) => [name, `${Number(ms) / 1e3}s`]));
}

/** Returns the sample sheet of a bundle; null if it has none. */
export const fetchSamples = (model, version) =>
  nullIfAbsent(fetchPicture(`${modelPath(model)}/versions/${version}/samples.png`));

/** Returns the text of a bundle's card; null if it has none. */
export const fetchCard = (model, version) =>
  nullIfAbsent(
    call(`${modelPath(model)}/versions/${version}/card.md`, { accept: "text/markdown" })
      .then((response) => readBody(response, "text")),
  );

async function nullIfAbsent(found) {
  try {
    return await found;
  } catch (error) {
    if (error instanceof Failure && error.problem.status === 404) return null;
    throw error;
  }
}

/** Returns a picture as a blob; `fresh` asks the server again, whatever the browser has kept. */
export async function fetchPicture(path, fresh = false) {
  const response = await call(path, { accept: "image/png", cache: fresh ? "no-store" : "default" });
  const picture = await readBody(response, "blob");
  if (!picture.type.startsWith("image/")) throw makeForeign();
  return picture;
}

/** Returns the path of the URL of a serial number. */
export function pathOfSerial(serial) {
  const [, model, version, variant, seed, index, query] =
    serial.match(/^([^@]+)@(\d+)(?:\+([^/]+))?\/(\d+)\/(\d+)(?:\?(.*))?$/);
  const terms = [query, variant ? `variant=${variant}` : ""].filter(Boolean).join("&");
  return `${modelPath(model)}/versions/${version}/images/${seed}/${index}.png${terms ? `?${terms}` : ""}`;
}

/** Returns the PNG that base64 text holds. */
export function decodePicture(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type: "image/png" });
}

/** Returns the seconds of a duration such as "0.012s". */
export const parseDuration = (text) => (text ? Number.parseFloat(text) : 0);
