import assert from "node:assert/strict";
import { after, test } from "node:test";

import { Client, cycle, FailedPrecondition, InvalidRequest, type Filter } from "../src/index.js";
import { given, Proxy } from "./server.js";

const client = new Client(given.address);
after(() => client.close());

const bright: Filter = { minClassConfidence: 0.5, maxTries: 1_000 };
const hex = (pixels: Uint8Array) => Buffer.from(pixels).toString("hex");

test("filtered images, scores and serials are those of the Python client", async () => {
  const options = { seed: 3, count: 12, condition: cycle(), filter: bright };
  const { images } = await client.generate("judged", options);
  const found = images.map(({ serial, pixels, scores }) => ({
    serial,
    pixels: hex(pixels),
    ...scores!,
  }));
  assert.deepEqual(found, given.filtered);
  assert.ok(given.filtered.some((each) => each.rejected > 1));
  const again = await client.mint(images.map((each) => each.serial));
  assert.deepEqual(again.images.map((each) => hex(each.pixels)), found.map((each) => each.pixels));
  assert.equal(again.images[0]!.scores, undefined);
});

test("each condition is sent, and a filter without any only scores", async () => {
  const scored = async (filter: Filter) => {
    const { images } = await client.generate("judged", { seed: 9, count: 60, filter });
    return images.map((each) => each.scores!);
  };
  for (const scores of await scored({})) {
    assert.equal(scores.rejected, 0);
    assert.ok(Math.abs(scores.realness! / 5 - scores.trainingDistance!) < 1e-5);
  }
  assert.ok((await scored({})).some((each) => each.trainingDistance! < 0.9));
  const far = await scored({ minTrainingDistance: 0.9, maxTries: 1_000 });
  assert.ok(far.every((each) => each.trainingDistance! >= 0.9));
  const drawn = await scored({ rejectionSampling: true, maxTries: 1_000 });
  assert.ok(drawn.some((each) => each.rejected > 0));
});

test("a filtered stream resumes with the same images after its connection is cut", async () => {
  const options = { seed: 9, count: 200, filter: bright };
  const proxy = new Proxy(given.address);
  proxy.cutAfterBytes = 9_000;
  using cut = new Client(await proxy.listen());
  const streamed = [];
  for await (const batch of cut.stream("judged", { ...options, chunkSize: 16 })) {
    streamed.push(...batch.images);
  }
  assert.ok(proxy.connections > 2, `${proxy.connections} connections`);
  proxy.close();
  const whole = [];
  for await (const batch of client.stream("judged", options)) {
    whole.push(...batch.images);
  }
  assert.deepEqual(streamed, whole);
  assert.equal(whole.length, 200);
  assert.ok(whole.every((each) => each.scores!.classConfidence! >= 0.5));
});

test("pictures have scores, alone, in a stream and on a sheet", async () => {
  const options = { seed: 3, count: 4, filter: bright };
  const pictures = await client.encoded("judged", options);
  for await (const [streamed] of client.streamEncoded("judged", { ...options, chunkSize: 1 })) {
    assert.deepEqual(streamed!.images, pictures.shift()!.images);
    assert.ok(streamed!.images[0]!.scores!.classConfidence! >= 0.5);
  }
  assert.equal(pictures.length, 0);
  const sheet = await client.sheet("judged", options);
  assert.ok(sheet.images.every((each) => each.scores!.classConfidence! >= 0.5));
});

test("filters that cannot be met have their reasons", async () => {
  const refuse = (model: string, filter: Filter, check: (error: FailedPrecondition) => void) =>
    assert.rejects(client.generate(model, { count: 4, seed: 0, filter }), (error: Error) => {
      assert.ok(error instanceof FailedPrecondition);
      check(error);
      return true;
    });
  await refuse("judged", { minClassConfidence: 1, maxTries: 5 }, (error) => {
    assert.equal(error.reason, "FILTER_EXHAUSTED");
    assert.equal(error.metadata["tries"], "5");
    assert.match(error.message, /class_confidence up to 0/);
  });
  await refuse("digits", {}, (error) => assert.equal(error.reason, "SCORE_UNSUPPORTED"));
  const outside = client.generate("judged", { filter: { minClassConfidence: 2 } });
  await assert.rejects(outside, InvalidRequest);
  await assert.rejects(client.generate("judged", { filter: { maxTries: 0.5 } }), InvalidRequest);
});
