import assert from "node:assert/strict";
import { test } from "node:test";

import { Client, DeadlineExceeded, InvalidRequest } from "../src/index.js";
import { animationSpec, generateRequest } from "../src/messages.js";
import { imageSpec, outputSpec, remaining } from "../src/requests.js";
import { translateRequest } from "../src/translation.js";

// As a program without TypeScript gives it.
const wrong = (value: unknown) => value as never;

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
  for (const target of ["", "host", "a:1,b", "::1", "host:0", "host:65536", [], wrong(["a:1", 2])]) {
    assert.throws(() => new Client(target), TypeError, String(target));
  }
  new Client("a:1,[::1]:2").close();
});

test("arguments of a wrong type are refused by name", () => {
  const selections: [string, Record<string, unknown>][] = [
    ["seed", { seed: "1" }],
    ["seed", { seed: null }],
    ["firstIndex", { firstIndex: true }],
    ["truncation", { truncation: "0.7" }],
    ["version", { version: {} }],
    ["variant", { variant: 8 }],
    ["priority", { priority: "urgent" }],
    ["condition", { condition: true }],
    ["condition", { condition: null }],
    ["condition", { condition: [3] }],
    ["condition", { condition: { caption: 3 } }],
    ["condition", { condition: { perImage: 3 } }],
    ["condition", { condition: { weights: "012" } }],
    ["latents", { latents: 3 }],
    ["latents", { latents: [["a"]] }],
    ["filter.minClassConfidence", { filter: { minClassConfidence: "high" } }],
    ["filter.rejectionSampling", { filter: { rejectionSampling: "yes" } }],
  ];
  const requests: [string, () => unknown][] = [
    ...selections.map(([field, options]): [string, () => unknown] => [
      field,
      () => generateRequest("m", options),
    ]),
    ["model", () => generateRequest(wrong(undefined), {})],
    ["format", () => outputSpec({ format: wrong("toString") })],
    ["format", () => animationSpec({ format: wrong("mp4") })],
    ["bounces", () => animationSpec({ bounces: wrong("yes") })],
    ["fit", () => translateRequest("m", [], { fit: wrong("toString") })],
    ["sources", () => translateRequest("m", wrong("face.png"), {})],
    ["sources", () => translateRequest("m", [wrong("face.png")], {})],
    ["sources", () => translateRequest("m", [{ frames: [wrong("face.png")] }], {})],
  ];
  for (const [field, request] of requests) {
    assert.throws(request, (error) => {
      assert.ok(error instanceof InvalidRequest, `${field}: ${error}`);
      assert.equal(error.violations[0]!.field, field);
      return true;
    });
  }
});

test("a version is a number or its text", () => {
  assert.deepEqual(
    [3, 3n, "3", undefined].map((version) => imageSpec("m", 1, { version }).version),
    ["3", "3", "3", ""],
  );
});

test("settings of a wrong type are refused, and a time that has passed sends nothing", async () => {
  const client = new Client("127.0.0.1:1");
  for (const settings of [{ timeoutMs: "5" }, { timeoutMs: NaN }, { signal: 3 }]) {
    await assert.rejects(client.models(wrong(settings)), InvalidRequest);
    await assert.rejects(client.mint("m@1/1/1", wrong(settings)), InvalidRequest);
    await assert.rejects(client.stream("m", wrong({ count: 1, ...settings })).next(), InvalidRequest);
  }
  for (const timeoutMs of [0, -1]) {
    await assert.rejects(client.models({ timeoutMs }), DeadlineExceeded);
  }
  client.close();
});

test("TLS settings of which a part is missing are refused at once", () => {
  for (const tls of [{ privateKeyPath: "key.pem" }, { certificateChainPath: "chain.pem" }, wrong(true)]) {
    assert.throws(() => new Client("a:1", { tls }), /^TypeError: tls/);
  }
});

test("metadata of a call that cannot be sent is refused without its value", async () => {
  const client = new Client("127.0.0.1:1");
  for (const metadata of [{ "a b": "secret" }, wrong({ a: ["secret"] })]) {
    await assert.rejects(client.models({ metadata }), (error) => {
      assert.ok(error instanceof InvalidRequest);
      assert.doesNotMatch(error.message, /secret/);
      return true;
    });
  }
  client.close();
});

test("metadata that cannot be sent is refused without its value", () => {
  const options = [
    { apiKey: "secret\n" },
    { metadata: { "a b": "secret" } },
    { metadata: { "a-bin": "secret" } },
    { metadata: wrong({ a: ["secret"] }) },
    { apiKey: wrong(null) },
    { apiKey: "secret", metadata: { Authorization: "secret" } },
  ];
  for (const each of options) {
    assert.throws(() => new Client("a:1", each), (error) => {
      assert.ok(error instanceof TypeError);
      assert.doesNotMatch(error.message, /secret/);
      return true;
    });
  }
});
