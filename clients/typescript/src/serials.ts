/** Serial numbers: everything that determines one image, in one line of text. */

import { invalid, type InvalidRequest } from "./errors.js";

const FORM =
  /^(?<model>[a-z0-9][a-z0-9._-]{0,63})@(?<version>[1-9][0-9]*)(?:\+(?<variant>[a-z0-9][a-z0-9-]{0,31}))?\/(?<seed>0|[1-9][0-9]*)\/(?<index>0|[1-9][0-9]*)(?:\?(?<terms>.+))?$/;
const CLASS = /^class=(0|[1-9][0-9]*)$/;
const CAPTION = /^caption=((?:[A-Za-z0-9-]|%[0-9A-F]{2})+)$/;
const SOURCE = /^source=([0-9a-f]{32})$/;
const TRUNCATION = /^truncation=([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)$/;
const UINT64_MAX = 2n ** 64n - 1n;
/** Asks for model.onnx, which is what a serial number without a variant means. */
export const REFERENCE = "reference";
// These words ask for a variant, but no variant has such a name.
const NOT_VARIANTS = ["auto", REFERENCE];

/** One serial number, such as `mnist@3/42/17?class=7&truncation=0.7`, parsed. */
export interface Serial {
  /** Model name. */
  readonly model: string;
  /** Version, a positive decimal integer. */
  readonly version: string;
  /** Name of the variant; undefined for the reference, which a serial does not spell. */
  readonly variant?: string | undefined;
  /** Seed, 0 to 2^64 - 1. */
  readonly seed: bigint;
  /** Position in the sequence of the seed, 0 to 2^64 - 1. */
  readonly index: bigint;
  /** Class index; undefined for a model without classes. */
  readonly classId?: number | undefined;
  /** Caption in its normal form; undefined for a model without captions. */
  readonly caption?: string | undefined;
  /** Digest of the source; undefined for a model that translates none. */
  readonly source?: string | undefined;
  /** Truncation; undefined for none, which is not the same as 0. */
  readonly truncation?: number | undefined;
}

/**
 * Returns the serial that `text` spells.
 *
 * @throws InvalidRequest if `text` is not a serial number
 */
export function parseSerial(text: string): Serial {
  const groups = FORM.exec(text)?.groups;
  if (groups === undefined || NOT_VARIANTS.includes(groups["variant"] ?? "")) {
    throw malformed(text);
  }
  const terms = groups["terms"]?.split("&") ?? [];
  const [classId, caption, source, truncation] = [CLASS, CAPTION, SOURCE, TRUNCATION].map((form) => {
    const value = form.exec(terms[0] ?? "")?.[1];
    if (value !== undefined) {
      terms.shift();
    }
    return value;
  });
  const [seed, index] = [BigInt(groups["seed"]!), BigInt(groups["index"]!)];
  const isFinite = truncation === undefined || Number.isFinite(Number(truncation));
  if (terms.length > 0 || seed > UINT64_MAX || index > UINT64_MAX || !isFinite) {
    throw malformed(text);
  }
  return {
    model: groups["model"]!,
    version: groups["version"]!,
    variant: groups["variant"],
    seed,
    index,
    classId: classId === undefined ? undefined : Number(classId),
    caption: caption === undefined ? undefined : decode(caption, text),
    source,
    truncation: truncation === undefined ? undefined : Number(truncation),
  };
}

/** Returns the one spelling of a serial, equal to that of the server. */
export function formatSerial(serial: Serial): string {
  const maker = serial.variant ? `${serial.version}+${serial.variant}` : serial.version;
  const terms: string[] = [];
  if (serial.classId !== undefined) {
    terms.push(`class=${serial.classId}`);
  }
  if (serial.caption !== undefined) {
    terms.push(`caption=${quote(serial.caption)}`);
  }
  if (serial.source !== undefined) {
    terms.push(`source=${serial.source}`);
  }
  if (serial.truncation !== undefined) {
    terms.push(`truncation=${formatFloat(serial.truncation)}`);
  }
  const query = terms.length > 0 ? `?${terms.join("&")}` : "";
  return `${serial.model}@${maker}/${serial.seed}/${serial.index}${query}`;
}

/**
 * Returns the shortest decimal that reads back as `value`, in the spelling of Python's `repr`.
 *
 * JavaScript finds the same digits, but writes 1 for 1.0, 1e-9 for 1e-09, and uses the exponent
 * from 1e21 on and below 1e-6, where Python uses it from 1e16 on and below 1e-4.
 */
function formatFloat(value: number): string {
  const [digits, power] = value.toExponential().split("e") as [string, string];
  const exponent = Number(power);
  if (value !== 0 && (exponent < -4 || exponent >= 16)) {
    const sign = exponent < 0 ? "-" : "+";
    return `${digits}e${sign}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }
  const text = String(value); // plain digits in this range
  return text.includes(".") ? text : `${text}.0`;
}

/** Quotes all but letters, digits and hyphens; encodeURIComponent leaves a few characters more. */
function quote(caption: string): string {
  return encodeURIComponent(caption).replace(
    /[_.!~*'()]/g,
    (each) => `%${each.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

function decode(caption: string, text: string): string {
  try {
    return decodeURIComponent(caption);
  } catch {
    throw malformed(text); // not UTF-8
  }
}

function malformed(text: string): InvalidRequest {
  const example = "mnist@3/42/17?class=7&truncation=0.7";
  return invalid("serial", `${JSON.stringify(text)} is not a serial number, such as ${example}`);
}
