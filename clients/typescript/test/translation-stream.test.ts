import assert from "node:assert/strict";
import { after, test } from "node:test";

import { status as Code } from "@grpc/grpc-js";

import {
  Cancelled,
  Client,
  ClientClosed,
  InvalidRequest,
  ServerError,
  Unavailable,
  type EncodedPicture,
  type SourcePixels,
} from "../src/index.js";
import { readSources, translateStreamRequest } from "../src/translation.js";
import { TranslationStream } from "../src/translation-stream.js";
import { answerOne, listenScripted, type ScriptedCall } from "./scripted-server.js";
import { given, Proxy } from "./server.js";

const client = new Client(given.address);
after(() => client.close());

function draw(number: number, height = 6, width = 8): SourcePixels {
  const pixels = Uint8Array.from({ length: height * width * 3 }, (_, at) => (at * number) % 256);
  return { pixels, height, width, channels: 3 };
}

function* drawMany(count: number): Generator<SourcePixels> {
  for (let number = 0; number < count; number += 1) {
    yield draw(number);
  }
}

async function collect(pictures: AsyncIterable<EncodedPicture>): Promise<EncodedPicture[]> {
  const found = [];
  for await (const picture of pictures) {
    found.push(picture);
  }
  return found;
}

const described = (pictures: readonly EncodedPicture[]) =>
  pictures.map(({ data, images }) => [images[0]!.serial, Buffer.from(data).toString("hex")]);

test("a stream resumes with the unanswered sources after its connection is cut", async () => {
  const options = { seed: 9, firstIndex: 5, condition: 3, format: "webp" } as const;
  const proxy = new Proxy(given.address);
  proxy.cutAfterBytes = 8_000;
  using cut = new Client(await proxy.listen());
  const streamed = await collect(cut.translateStream("drawn", drawMany(40), options));
  assert.ok(proxy.connections > 2, `${proxy.connections} connections`);
  proxy.close();
  const whole = await client.translate("drawn", [...drawMany(40)], options);
  assert.deepEqual(described(streamed), described(whole));
  assert.match(streamed[39]!.images[0]!.serial, /^drawn@1\/9\/44\?class=3&source=/);
});

test("the seed is one for all calls of a stream", async () => {
  const proxy = new Proxy(given.address);
  using cut = new Client(await proxy.listen());
  const seeds = new Set<bigint>();
  const indices: bigint[] = [];
  for await (const { seed, images } of cut.translateStream("drawn", drawMany(60))) {
    seeds.add(seed!);
    indices.push(images[0]!.index);
    if (indices.length % 20 === 0) {
      proxy.cut();
    }
  }
  assert.equal(seeds.size, 1);
  assert.deepEqual(indices, Array.from({ length: 60 }, (_, at) => BigInt(at)));
  assert.ok(proxy.connections > 1, `${proxy.connections} connections`);
  proxy.close();
});

test("a server that stays away ends the stream with Unavailable", async () => {
  const proxy = new Proxy(given.address);
  using lost = new Client(await proxy.listen(), { timeoutMs: 3_000 });
  const stream = lost.translateStream("sketch", drawMany(1_000));
  await stream.next();
  proxy.close();
  await assert.rejects(collect(stream), Unavailable);
});

test("sources are read a little ahead of the loop, and closed when it ends", async () => {
  for (const [source, ahead] of [[draw(1), 16], [draw(1, 600, 600), 4]] as const) {
    let taken = 0;
    let isClosed = false;
    let reportFull = () => {};
    const isFull = new Promise<void>((resolve) => (reportFull = resolve));
    const sources = (async function* () {
      try {
        for (;;) {
          taken += 1;
          if (taken === ahead + 1) {
            reportFull();
          }
          yield source;
        }
      } finally {
        isClosed = true;
      }
    })();
    for await (const picture of client.translateStream("sketch", sources, { fit: "stretch" })) {
      assert.equal(picture.mimeType, "image/png");
      await isFull;
      break;
    }
    assert.deepEqual([taken, isClosed], [ahead + 1, true]);
  }
});

test("a wrong source is named by its number, after the results before it", async () => {
  const sources = [...drawMany(40)];
  sources[19] = draw(19, 3);
  const stream = client.translateStream("sketch", sources);
  const found: EncodedPicture[] = [];
  await assert.rejects(
    async () => {
      for await (const picture of stream) {
        found.push(picture);
      }
    },
    (error: InvalidRequest) => {
      assert.ok(error instanceof InvalidRequest);
      assert.deepEqual(error.violations.map((each) => each.field), ["sources[19]"]);
      assert.match(error.message, /sources\[19\]/);
      return true;
    },
  );
  assert.equal(found.length, 19);
});

test("a source that is too large for the server is named by its number", async () => {
  const sources = [...drawMany(40), new Uint8Array(5_000_000), draw(41)];
  let results = 0;
  await assert.rejects(
    async () => {
      for await (const picture of client.translateStream("sketch", sources)) {
        results += picture.images.length;
      }
    },
    (error: InvalidRequest) => {
      assert.ok(error instanceof InvalidRequest);
      assert.equal(error.code, Code.RESOURCE_EXHAUSTED);
      assert.deepEqual(error.violations.map((each) => each.field), ["sources[40]"]);
      assert.match(error.message, /^sources\[40\]: too large for one call/);
      return true;
    },
  );
  assert.ok(results <= 40);
});

test("an error of the sources follows the results before it, and is not retried", async () => {
  const failure = new Unavailable("another server");
  const sources = (function* () {
    yield* drawMany(3);
    throw failure;
  })();
  const stream = client.translateStream("sketch", sources);
  for (let number = 0; number < 3; number += 1) {
    assert.equal((await stream.next()).done, false);
  }
  await assert.rejects(stream.next(), (error) => error === failure);
});

test("an error of the call is thrown even if closing the sources fails, too", async () => {
  const sources = (function* () {
    try {
      for (;;) {
        yield draw(1, 3);
      }
    } finally {
      throw new Error("the file is gone");
    }
  })();
  await assert.rejects(collect(client.translateStream("sketch", sources)), InvalidRequest);
});

test("a stream without sources is empty", async () => {
  assert.deepEqual(await collect(client.translateStream("sketch", [])), []);
});

test("a stream that waits for a source ends with its signal, and with the client", async () => {
  const endless = async function* () {
    yield draw(1);
    await new Promise(() => {});
  };
  const abort = new AbortController();
  const stream = client.translateStream("sketch", endless(), { signal: abort.signal });
  await stream.next();
  const waiting = stream.next();
  abort.abort();
  await assert.rejects(waiting, Cancelled);
  const own = new Client(given.address);
  const active = own.translateStream("sketch", endless());
  await active.next();
  own.close();
  await assert.rejects(active.next(), ClientClosed);
});

test("values for each source are refused at once", () => {
  for (const options of [{ condition: { perImage: [1] } }, { latents: [[1]] }]) {
    assert.throws(() => client.translateStream("drawn", [], options as object), InvalidRequest);
  }
  assert.throws(() => client.translateStream("drawn", [], { quality: 0.5 }), InvalidRequest);
});

/** Runs a stream of five sources against a server that answers `call` number 0, 1, … as told. */
async function runScripted(
  script: readonly ((call: ScriptedCall) => void)[],
): Promise<{ results: number; error: unknown }> {
  const calls = script[Symbol.iterator]();
  const server = await listenScripted({ streamTranslate: (call) => calls.next().value!(call) });
  using scripted = new Client(server.address);
  let results = 0;
  let error: unknown;
  try {
    for await (const picture of scripted.translateStream("m", drawMany(5))) {
      results += picture.images.length;
    }
  } catch (thrown) {
    error = thrown;
  }
  server.close();
  return { results, error };
}

const lose = (call: ScriptedCall) => {
  call.write(answerOne());
  call.emit("error", { code: Code.UNAVAILABLE, details: "gone" });
};

test("another bundle or variant does not continue a stream", async () => {
  for (const [origin, reason] of [
    [{ bundleSha256: "cd" }, "BUNDLE_CHANGED"],
    [{ variant: "int8" }, "VARIANT_CHANGED"],
  ] as const) {
    const { results, error } = await runScripted([lose, (call) => call.write(answerOne(origin))]);
    assert.equal(results, 1);
    assert.ok(error instanceof ServerError);
    assert.equal(error.reason, reason);
  }
});

test("a server that names no variant may begin or continue a stream", async () => {
  for (const [before, after] of [["", "int8"], ["int8", ""]]) {
    const begin = (call: ScriptedCall) => {
      call.write(answerOne({ variant: before! }));
      call.emit("error", { code: Code.UNAVAILABLE, details: "gone" });
    };
    const goOn = (call: ScriptedCall) => {
      call.on("data", ({ sources }) => sources.length && call.write(answerOne({ variant: after! })));
      call.on("end", () => call.end());
    };
    assert.deepEqual(await runScripted([begin, goOn]), { results: 5, error: undefined });
  }
});

test("a stream goes on with the version of its first answer", async () => {
  const begun: (string | undefined)[] = [];
  const answerAll = (call: ScriptedCall) => {
    call.once("data", ({ images }) => begun.push(images?.version));
    call.on("data", ({ sources }) => sources.length && call.write(answerOne({ version: "7" })));
    call.on("end", () => call.end());
  };
  const begin = (call: ScriptedCall) => {
    call.write(answerOne({ version: "7" }));
    call.emit("error", { code: Code.UNAVAILABLE, details: "gone" });
  };
  assert.deepEqual(await runScripted([begin, answerAll]), { results: 5, error: undefined });
  assert.deepEqual(begun, ["7"]);
});

test("missing answers are found", async () => {
  const end = await runScripted([lose, (call) => call.end()]);
  assert.equal((end.error as ServerError).reason, "STREAM_TRUNCATED");
  const gap = await runScripted([(call) => call.write(answerOne({ translations: [] }))]);
  assert.equal((gap.error as ServerError).reason, "STREAM_GAP");
});

test("the time for a slow source does not count", async () => {
  const call = { write() {}, end() {}, cancel() {}, next: async () => answerOne() };
  const context = {
    ...{ server: "nowhere", timeoutMs: 1, signals: [] },
    translate: (error: unknown) => error as Error,
  };
  const slow = async function* () {
    yield draw(1);
    await new Promise((resolve) => setTimeout(resolve, 20));
    yield draw(2);
  };
  const request = translateStreamRequest("m", {});
  const sources = readSources(slow());
  const stream = new TranslationStream(context, async () => call as never, request, sources);
  const answers = stream.answers();
  for (let number = 0; number < 2; number += 1) {
    assert.equal((await answers.next()).done, false);
  }
  await answers.return();
});
