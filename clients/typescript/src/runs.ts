/** Cuts serial numbers into runs, which one call each can ask for. */

import { invalid } from "./errors.js";
import type { Condition, Selection } from "./requests.js";
import { parseSerial, REFERENCE, type Serial } from "./serials.js";

/** Serial numbers that one call can ask for: neighbours in one sequence. */
export interface Run {
  /** The first of them. */
  readonly first: Serial;
  /** Class of each; empty for an unconditional model. */
  readonly classIds: number[];
  /** Position of each in the list that the run was cut from. */
  readonly positions: number[];
}

/**
 * Returns the fewest calls that ask for every serial once.
 *
 * @param texts serials of one model, version and variant, in any order
 * @param limitOf most images that one call may ask of a model
 * @throws InvalidRequest for none, not a serial number, one with a source, or several models,
 *   versions or variants
 */
export async function cutIntoRuns(
  texts: readonly string[],
  limitOf: (model: string) => Promise<number>,
): Promise<Run[]> {
  const serials = texts.map(parseSerial);
  if (serials.some((each) => each.source !== undefined)) {
    const why = "an image of a translation is made again from its source: call translate()";
    throw invalid("serial", why);
  }
  const makers = new Set(serials.map(makerOf));
  if (makers.size !== 1) {
    const named = [...makers].join(", ") || "none";
    throw invalid("serial", `one call takes one model, version and variant, not ${named}`);
  }
  const limit = await limitOf(serials[0]!.model);
  const ordered = serials.map((serial, at) => ({ serial, at })).sort(compare);
  const runs: Run[] = [];
  for (const { serial, at } of ordered) {
    let run = runs.at(-1);
    if (run === undefined || run.positions.length >= limit || !follows(serial, run)) {
      run = { first: serial, classIds: [], positions: [] };
      runs.push(run);
    }
    run.positions.push(at);
    if (serial.classId !== undefined) {
      run.classIds.push(serial.classId);
    }
  }
  return runs;
}

/** Returns the options of generate() that ask for the images of a run. */
export function runSelection({ first, classIds, positions }: Run): Selection & { count: number } {
  return {
    count: positions.length,
    seed: first.seed,
    firstIndex: first.index,
    condition: conditionOf(first, classIds),
    truncation: first.truncation,
    version: first.version,
    variant: first.variant ?? REFERENCE,
  };
}

function conditionOf({ caption }: Serial, classIds: number[]): Condition | undefined {
  if (caption !== undefined) {
    return { caption };
  }
  return classIds.length > 0 ? { perImage: classIds } : undefined;
}

function makerOf({ model, version, variant }: Serial): string {
  return variant === undefined ? `${model}@${version}` : `${model}@${version}+${variant}`;
}

function follows(serial: Serial, { first, positions }: Run): boolean {
  const next = first.index + BigInt(positions.length);
  return sequenceOf(serial) === sequenceOf(first) && serial.index === next;
}

/** What neighbours have in common, as text. */
function sequenceOf({ seed, truncation, classId, caption }: Serial): string {
  return `${seed} ${truncation} ${classId !== undefined} ${caption}`;
}

function compare(a: { serial: Serial }, b: { serial: Serial }): number {
  const [x, y] = [sequenceOf(a.serial), sequenceOf(b.serial)];
  if (x !== y) {
    return x < y ? -1 : 1;
  }
  return a.serial.index < b.serial.index ? -1 : Number(a.serial.index > b.serial.index);
}
