/** Whole numbers of a caller, checked before they go into messages. */

import { describe } from "./arguments.js";
import { invalid } from "./errors.js";

export const UINT64_MAX = 2n ** 64n - 1n;
const INT32_MAX = 2n ** 31n - 1n;

/** A whole number; use bigint above 2^53. */
export type Whole = number | bigint;

/** Returns `value` as a number that fits an int32 of 0 or more. */
export function smallNumber(name: string, value: Whole): number {
  return Number(wholeNumber(name, value, INT32_MAX));
}

/**
 * Returns `value` as a bigint.
 *
 * @throws InvalidRequest if it is not whole, not exact, or outside 0 to `largest`
 */
export function wholeNumber(name: string, value: Whole, largest: bigint): bigint {
  if (typeof value !== "number" && typeof value !== "bigint") {
    throw invalid(name, `${describe(value)} is not a whole number`);
  }
  if (typeof value === "number" && !Number.isSafeInteger(value)) {
    const hint = Number.isInteger(value) ? "is not exact; use a bigint" : "is not a whole number";
    throw invalid(name, `${value} ${hint}`);
  }
  const whole = BigInt(value);
  if (whole < 0n || whole > largest) {
    throw invalid(name, `${whole} is outside 0 to ${largest}`);
  }
  return whole;
}
