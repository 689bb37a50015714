import assert from "node:assert/strict";
import { after, mock, test } from "node:test";

import { create } from "@bufbuild/protobuf";
import { Metadata, type Client as GrpcClient } from "@grpc/grpc-js";

import { ServerStream } from "../src/calls.js";
import { openChannel, planChannel } from "../src/channel.js";
import { CONNECTION_LOST } from "../src/errors.js";
import {
  GenerationService,
  StreamGenerateResponseSchema,
  type StreamGenerateRequest,
  type StreamGenerateResponse,
} from "../src/gen/imagemint/v1/generation_service_pb.js";
import {
  Cancelled,
  Client,
  ClientClosed,
  cycle,
  InvalidRequest,
  QueueFull,
  ServerError,
  Unavailable,
} from "../src/index.js";
import { streamRequest } from "../src/messages.js";
import { ImageStream } from "../src/streams.js";
import { given, Proxy } from "./server.js";

const client = new Client(given.address);
after(() => client.close());

test("a stream resumes at the next index after its connection is cut", async () => {
  const proxy = new Proxy(given.address);
  proxy.cutAfterBytes = 6_000;
  using cut = new Client(await proxy.listen());
  const serials: string[] = [];
  const options = { seed: 9, count: 300, chunkSize: 16, condition: cycle([3, 1]) };
  for await (const batch of cut.stream("digits", options)) {
    serials.push(...batch.images.map((each) => each.serial));
  }
  const wanted = Array.from(
    { length: 300 },
    (_, index) => `digits@1/9/${index}?class=${index % 2 === 0 ? 3 : 1}`,
  );
  assert.deepEqual(serials, wanted);
  assert.ok(proxy.connections > 2, `${proxy.connections} connections`);
  proxy.close();
});

test("a seed that the server chose is kept when the stream resumes", async () => {
  const proxy = new Proxy(given.address);
  using cut = new Client(await proxy.listen());
  const seeds = new Set<bigint>();
  for await (const batch of cut.stream("digits", { count: 100, chunkSize: 10 })) {
    seeds.add(batch.seed!);
    proxy.cut();
  }
  assert.equal(seeds.size, 1);
  proxy.close();
});

test("a server that stays away ends the stream with Unavailable", async () => {
  const proxy = new Proxy(given.address);
  using lost = new Client(await proxy.listen(), { timeoutMs: 3_000 });
  const stream = lost.stream("digits", { count: 10_000, chunkSize: 10 });
  await stream.next();
  proxy.close();
  await assert.rejects(async () => {
    for await (const batch of stream) {
      assert.ok(batch.images.length > 0);
    }
  }, Unavailable);
});

test("encoded pictures are streamed", async () => {
  const pictures = [];
  for await (const some of client.streamEncoded("digits", { seed: 3, count: 5, chunkSize: 2 })) {
    pictures.push(...some);
  }
  assert.deepEqual(pictures.map((each) => each.images[0]!.index), [0n, 1n, 2n, 3n, 4n]);
});

test("a stream ends when its signal is aborted, and when the client is closed", async () => {
  const abort = new AbortController();
  const options = { count: 1_000_000, chunkSize: 10 };
  const stream = client.stream("digits", { ...options, signal: abort.signal });
  await stream.next();
  abort.abort();
  await assert.rejects(stream.next(), Cancelled);
  const own = new Client(given.address);
  const active = own.stream("digits", options);
  await active.next();
  own.close();
  await assert.rejects(active.next(), ClientClosed);
});

test("a new call has the time that is left for its chunk", async () => {
  let now = 0;
  mock.method(performance, "now", () => now);
  const times: number[] = [];
  const open = async (_: unknown, timeoutMs: number) => {
    times.push(timeoutMs);
    now += 400;
    if (times.length === 1) {
      throw new Unavailable("lost", { reason: CONNECTION_LOST });
    }
    return { next: async () => undefined, cancel() {} } as never;
  };
  const context = {
    ...{ server: "nowhere", timeoutMs: 1_000, signals: [] },
    translate: (error: unknown) => error as Error,
  };
  const stream = new ImageStream(context, open, streamRequest("m", { count: 1 }));
  await assert.rejects(stream.answers().next(), ServerError); // it ends without an image
  mock.restoreAll();
  assert.deepEqual(times, [1_000, 600]);
});

/** A stream of two images whose calls do what `steps` says: an answer, an error, or the end. */
class Scripted {
  readonly requests: { firstIndex: bigint; version: string }[] = [];

  constructor(private readonly steps: (number | Error | undefined)[]) {}

  /** @param timeoutMs longest time for one answer; undefined for no limit */
  answers(timeoutMs: number | undefined) {
    const context = {
      ...{ server: "nowhere", timeoutMs, signals: [] },
      translate: (error: unknown) => error as Error,
    };
    const open = async ({ images }: StreamGenerateRequest) => {
      const { firstIndex, version } = images!;
      this.requests.push({ firstIndex, version });
      return { next: async () => this.#next(), cancel() {} } as never;
    };
    return new ImageStream(context, open, streamRequest("m", { count: 2 })).answers();
  }

  #next(): StreamGenerateResponse | undefined {
    const step = this.steps.shift();
    if (step instanceof Error) {
      throw step;
    }
    const images = [{ index: BigInt(step ?? 0) }];
    return step === undefined
      ? undefined
      : create(StreamGenerateResponseSchema, { batch: { version: "3", images } });
  }
}

test("a stream waits as long as its server asks, and longer after each failure", async () => {
  const delays: (number | undefined)[] = [];
  const { setTimeout } = globalThis;
  const atOnce = (end: () => void, ms?: number) => {
    delays.push(ms);
    return setTimeout(end, 0);
  };
  mock.method(globalThis, "setTimeout", atOnce as typeof setTimeout);
  mock.method(Math, "random", () => 0.8); // of the jitter, a quarter
  const full = new QueueFull("full", { retryDelayMs: 700 });
  const gone = [1, 2, 3, 4, 5].map(() => new Unavailable("gone"));
  const scripted = new Scripted([0, full, ...gone, new Cancelled("drains"), 1, undefined]);
  for await (const { batch } of scripted.answers(undefined)) {
    assert.equal(batch!.images.length, 1);
  }
  mock.restoreAll();
  assert.deepEqual(delays, [720, 240, 480, 960, 1_920, 2_400, 2_400]);
  assert.deepEqual(scripted.requests.at(-1), { firstIndex: 1n, version: "3" });
});

test("a server that asks for more time than is left ends the stream at once", async () => {
  mock.method(performance, "now", () => 0);
  const full = new QueueFull("full", { retryDelayMs: 1_001 });
  const scripted = new Scripted([0, full, 1]);
  const answers = scripted.answers(1_000);
  await answers.next();
  await assert.rejects(answers.next(), (error) => error === full);
  mock.restoreAll();
  assert.equal(scripted.requests.length, 1);
});

test("a stream is read one chunk ahead of its loop", async (running) => {
  const channel = openChannel(await planChannel([given.address], undefined));
  running.after(() => channel.close());
  let read = 0;
  const counting = {
    makeServerStreamRequest: (
      ...[path, serialize, parse, ...rest]: Parameters<GrpcClient["makeServerStreamRequest"]>
    ) => {
      const count = (data: Buffer) => {
        read += 1;
        return parse(data);
      };
      return channel.makeServerStreamRequest(path, serialize, count, ...rest);
    },
  };
  const context = { connection: counting as unknown as GrpcClient, metadata: new Metadata() };
  const { streamGenerate } = GenerationService.method;
  const request = streamRequest("digits", { count: 200, chunkSize: 1 });
  const stream = ServerStream.open(context, streamGenerate, request);
  for (const asked of [1, 2]) {
    await stream.next();
    for (let number = 0; number < 10; number += 1) {
      await client.generate("digits"); // meanwhile, the server makes further chunks
    }
    assert.ok(read <= asked + 1, `${read} chunks are read, and ${asked} were asked for`);
  }
  stream.cancel();
});

test("a signal that is aborted while a call is opened cancels it", async () => {
  const abort = new AbortController();
  let cancelled = 0;
  const open = async () => {
    abort.abort();
    return { next: () => new Promise(() => {}), cancel: () => (cancelled += 1) } as never;
  };
  const context = {
    ...{ server: "nowhere", timeoutMs: undefined, signals: [abort.signal] },
    translate: (error: unknown) => error as Error,
  };
  const stream = new ImageStream(context, open, streamRequest("m", { count: 1 }));
  await assert.rejects(stream.answers().next(), Cancelled);
  assert.equal(cancelled, 1);
});

test("wrong arguments throw before the first chunk", () => {
  assert.throws(() => client.stream("digits", { count: -1 }), InvalidRequest);
});
