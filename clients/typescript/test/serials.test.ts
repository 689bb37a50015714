import assert from "node:assert/strict";
import { test } from "node:test";

import { formatSerial, InvalidRequest, parseSerial } from "../src/index.js";
import { cutIntoRuns } from "../src/runs.js";
import { given } from "./server.js";

test("serials are spelled and parsed as the engine does", () => {
  assert.ok(given.spelled.length > 100);
  for (const { text, seed, index, classId, caption, source, ...rest } of given.spelled) {
    const { truncation, variant } = rest;
    const serial = {
      model: "mnist",
      version: "3",
      variant: variant ?? undefined,
      seed: BigInt(seed),
      index: BigInt(index),
      classId: classId ?? undefined,
      caption: caption ?? undefined,
      source: source ?? undefined,
      truncation: truncation ?? undefined,
    };
    assert.equal(formatSerial(serial), text);
    assert.deepEqual(parseSerial(text), serial);
  }
});

test("every character but letters, digits and hyphens is quoted", () => {
  const text = "mnist@3/42/17?caption=-%21%22%27%28%29%2A_~.%C3%A9".replace("_~.", "%5F%7E%2E");
  const serial = parseSerial(text);
  assert.equal(serial.caption, "-!\"'()*_~.é");
  assert.equal(formatSerial(serial), text);
});

test("one call asks for neighbours, and for no more images than the limit", async () => {
  const last = 2n ** 64n - 1n;
  const indices = [last, 3n, 1n, 0n, 2n, last - 1n, 2n];
  const texts = indices.map((index) => `mnist@3/42/${index}`);
  const runs = await cutIntoRuns(texts, async () => 2);
  const found = runs.map((run) => [run.first.index, run.positions]);
  assert.deepEqual(found, [
    [0n, [3, 2]],
    [2n, [4]],
    [2n, [6, 1]],
    [last - 1n, [5, 0]],
  ]);
});

const MALFORMED = [
  "",
  "mnist",
  "mnist@3/42",
  "Mnist@3/42/17",
  "mnist@0/42/17",
  "mnist@03/42/17",
  "mnist@3/042/17",
  "mnist@3/42/-1",
  "mnist@3+/42/17",
  "mnist@3+reference/42/17",
  "mnist@3/42/18446744073709551616",
  "mnist@3/42/17?",
  "mnist@3/42/17&class=7",
  "mnist@3/42/17?class=7&",
  "mnist@3/42/17?class=7&class=7",
  "mnist@3/42/17?truncation=0.7&class=7",
  "mnist@3/42/17?truncation=nan",
  "mnist@3/42/17?truncation=1e999",
  "mnist@3/42/17?caption=",
  "mnist@3/42/17?caption=red hair",
  "mnist@3/42/17?caption=%FF",
  "mnist@3/42/17?caption=red&class=1",
];

test("other texts are refused", () => {
  for (const text of MALFORMED) {
    assert.throws(() => parseSerial(text), InvalidRequest, text);
  }
});
