import assert from "node:assert/strict";
import { test } from "node:test";

import { Client, InvalidRequest } from "../src/index.js";
import { imageSpec, remaining } from "../src/requests.js";

test("numbers that would lose digits or do not fit are refused", () => {
  for (const seed of [2 ** 53, 0.5, -1, 2n ** 64n]) {
    assert.throws(() => imageSpec("m", 1, { seed }), InvalidRequest, String(seed));
  }
  assert.deepEqual(imageSpec("m", 1, { seed: 2n ** 64n - 1n }).source, {
    case: "seed",
    value: 2n ** 64n - 1n,
  });
});

test("what remains of a request is cut where it lists images", () => {
  const spec = imageSpec("m", 3, {
    firstIndex: 5,
    condition: { perImage: [7, 8, 9] },
    latents: [[1, 2], [3, 4], [5, 6]],
  });
  const rest = remaining(spec, 2);
  assert.equal(rest.firstIndex, 7n);
  assert.equal(rest.count, 1n);
  assert.deepEqual(rest.source.case === "latents" && rest.source.value.values, [5, 6]);
  assert.deepEqual(rest.condition.case === "classPerImage" && rest.condition.value.classIds, [9]);
});

test("a seed and latents exclude each other", () => {
  assert.throws(() => imageSpec("m", 1, { seed: 1, latents: [[0]] }), InvalidRequest);
});

test("targets need a port", () => {
  for (const target of ["", "host", "a:1,b", "::1", "host:0", "host:65536"]) {
    assert.throws(() => new Client(target), TypeError, target);
  }
  new Client("a:1,[::1]:2").close();
});
