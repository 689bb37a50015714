/**
 * Checks of arguments of programs without TypeScript. Without them, a wrong value would be sent as
 * something else, fail in the serialization of the message, or end the process in a timer.
 */

import { inspect } from "node:util";

import { invalid } from "./errors.js";

const MOST_LETTERS = 80;

/** Returns a short text of a value for an error message. */
export function describe(value: unknown): string {
  const text = inspect(value, {
    depth: 1,
    breakLength: Infinity,
    maxArrayLength: 5,
    maxStringLength: MOST_LETTERS,
  }).replace(/\s+/g, " ");
  return text.length > MOST_LETTERS ? `${text.slice(0, MOST_LETTERS)}…` : text;
}

/**
 * Returns `value`, a string.
 *
 * @throws InvalidRequest if it is none
 */
export function checkText(name: string, value: unknown): string {
  if (typeof value !== "string") {
    throw invalid(name, `${describe(value)} is not a string`);
  }
  return value;
}

/**
 * Returns `value`, a number. The server checks its range.
 *
 * @throws InvalidRequest if it is none
 */
export function checkNumber(name: string, value: unknown): number {
  if (typeof value !== "number") {
    throw invalid(name, `${describe(value)} is not a number`);
  }
  return value;
}

/**
 * Returns `value`, a boolean.
 *
 * @throws InvalidRequest if it is none
 */
export function checkFlag(name: string, value: unknown): boolean {
  if (typeof value !== "boolean") {
    throw invalid(name, `${describe(value)} is not a boolean`);
  }
  return value;
}

/**
 * Returns `value`, an array.
 *
 * @throws InvalidRequest if it is none
 */
export function checkArray<Item>(name: string, value: readonly Item[]): readonly Item[] {
  if (!Array.isArray(value)) {
    throw invalid(name, `${describe(value)} is not an array`);
  }
  return value;
}

/**
 * Returns the value of one of the choices.
 *
 * @throws InvalidRequest if `name` is none of them
 */
export function checkChoice<Value>(
  name: string,
  value: string,
  choices: Readonly<Record<string, Value>>,
): Value {
  if (typeof value !== "string" || !Object.hasOwn(choices, value)) {
    throw invalid(name, `${describe(value)} is none of ${Object.keys(choices).join(", ")}`);
  }
  return choices[value]!;
}
