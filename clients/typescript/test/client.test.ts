import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { after, test } from "node:test";

import { create } from "@bufbuild/protobuf";
import { status as Code } from "@grpc/grpc-js";

import { planChannel } from "../src/channel.js";
import { InterpolateResponseSchema } from "../src/gen/imagemint/v1/generation_service_pb.js";
import { ImageFormat } from "../src/gen/imagemint/v1/image_pb.js";
import { TranslateResponseSchema } from "../src/gen/imagemint/v1/translation_service_pb.js";
import {
  Cancelled,
  Client,
  ClientClosed,
  cycle,
  DeadlineExceeded,
  FailedPrecondition,
  InvalidRequest,
  NotFound,
  Unauthenticated,
  Unavailable,
} from "../src/index.js";
import { listenScripted } from "./scripted-server.js";
import { given, listenSilently, Proxy } from "./server.js";

const client = new Client(given.address);
after(() => client.close());

const hex = (pixels: Uint8Array) => Buffer.from(pixels).toString("hex");

test("images and serials are those of the Python client", async () => {
  const serials = Object.keys(given.pixels);
  const batch = await client.generate("digits", { seed: 42n, count: 4, condition: cycle() });
  assert.equal(batch.images.length, 4);
  for (const image of batch.images) {
    assert.ok(serials.includes(image.serial), image.serial);
    assert.equal(hex(image.pixels), given.pixels[image.serial]);
  }
  assert.deepEqual([batch.height, batch.width, batch.channels], [4, 6, 1]);
});

test("pixels and files are no Buffers, of which slice() makes no copy", async () => {
  const { images } = await client.generate("digits");
  const [picture] = await client.encoded("digits");
  assert.deepEqual([images[0]!.pixels, picture!.data].map(Object.getPrototypeOf), [
    Uint8Array.prototype,
    Uint8Array.prototype,
  ]);
});

test("translations are those of the Python client", async () => {
  const source = Buffer.from(given.source, "hex");
  const pixels = { pixels: source, height: 6, width: 8, channels: 3 };
  const [picture] = await client.translate("sketch", [pixels]);
  assert.equal(hex(picture!.data), given.translation);
  assert.deepEqual([picture!.height, picture!.width, picture!.mimeType], [6, 8, "image/png"]);
  const [again] = await client.translate("sketch", [picture!.data, pixels], { format: "webp" });
  assert.match(again!.images[0]!.serial, /^sketch@1\/0\/0\?source=[0-9a-f]{32}$/);
  await assert.rejects(client.translate("digits", [pixels]), FailedPrecondition);
  const small = { ...pixels, height: 3, pixels: source.subarray(0, 72) };
  await assert.rejects(client.translate("sketch", [small]), InvalidRequest);
  assert.equal((await client.translate("sketch", [small], { fit: "pad" })).length, 1);
});

test("serials of the sampling vectors are drawn", async () => {
  assert.ok(given.vectors.length >= 4);
  for (const { model, seed, firstIndex, weights, serials } of given.vectors) {
    const batch = await client.generate(model, {
      seed: BigInt(seed),
      firstIndex: BigInt(firstIndex),
      count: serials.length,
      condition: weights === null ? undefined : { weights },
    });
    assert.deepEqual(batch.images.map((each) => each.serial), serials);
  }
});

test("serial numbers are minted in any order, and twice", async () => {
  const serials = Object.keys(given.pixels).reverse();
  serials.push(serials[0]!);
  const batch = await client.mint(serials);
  assert.deepEqual(batch.images.map((each) => each.serial), serials);
  assert.deepEqual(
    batch.images.map((each) => hex(each.pixels)),
    serials.map((each) => given.pixels[each]),
  );
});

test("a serial number with a source is refused without a call", async () => {
  using nowhere = new Client("127.0.0.1:1");
  const serial = `sketch@1/0/0?source=${"0123456789abcdef".repeat(2)}`;
  for (const serials of [serial, [serial, "sketch@1/0/1"]]) {
    await assert.rejects(nowhere.mint(serials), (error: InvalidRequest) => {
      assert.ok(error instanceof InvalidRequest);
      assert.match(error.message, /call translate/);
      return true;
    });
  }
});

test("metadata goes with one call", async () => {
  const metadata = { "x-request-id": "my-own-id" };
  const calls: (() => Promise<unknown>)[] = [
    () => client.generate("nothing", { metadata }),
    () => client.stream("nothing", { count: 1, metadata }).next(),
    () => client.translateStream("nothing", [Buffer.from("PNG")], { metadata }).next(),
  ];
  for (const call of calls) {
    await assert.rejects(call(), (error: NotFound) => {
      assert.equal(error.requestId, "my-own-id");
      return true;
    });
  }
  await assert.rejects(client.generate("nothing"), (error: NotFound) => {
    assert.notEqual(error.requestId, "my-own-id");
    return true;
  });
});

test("a name that does not resolve is left out while others do", async () => {
  const port = given.address.split(":").at(-1)!;
  const several = new Client(`nowhere.invalid:1,localhost:${port}`);
  assert.equal((await several.generate("digits", { count: 1 })).images.length, 1);
  several.close();
  const none = new Client("nowhere.invalid:1,neither.invalid:1");
  await assert.rejects(none.generate("digits", { count: 1 }), (error: Unavailable) => {
    assert.ok(error instanceof Unavailable);
    assert.equal(error.reason, "UNRESOLVED");
    assert.match(error.message, /nowhere\.invalid/);
    return true;
  });
  none.close();
});

test("a failure ends the other calls of mint", async () => {
  const minting = new Client(given.address);
  const signals: AbortSignal[] = [];
  let open: (() => void) | undefined;
  const gate = new Promise<void>((resolve) => (open = resolve));
  minting.generate = async (_, options) => {
    signals.push(options!.signal!);
    if (signals.length === 1) {
      throw new NotFound("gone");
    }
    await gate;
    return client.generate("digits");
  };
  const serials = Array.from({ length: 40 }, (_, seed) => `digits@1/${seed}/0?class=1`);
  await assert.rejects(minting.mint(serials), NotFound);
  const begun = signals.length;
  assert.ok(signals.every((each) => each.aborted));
  open!();
  await client.generate("digits"); // after the answers of the other calls
  await new Promise(setImmediate);
  assert.equal(signals.length, begun);
  minting.close();
});

test("pictures carry their serial", async () => {
  const [picture] = await client.encoded("digits", { seed: 42, condition: 7 });
  assert.equal(picture!.mimeType, "image/png");
  assert.ok(Buffer.from(picture!.data).includes("digits@1/42/0?class=7"));
  const sheet = await client.sheet("digits", { seed: 42, count: 6, columns: 3 });
  assert.deepEqual([sheet.width, sheet.images.length], [18, 6]);
});

test("a path leads from one serial number to the other", async () => {
  const [first, second] = Object.keys(given.pixels) as [string, string];
  const frames = [];
  for await (const batch of client.interpolate([first, second], { frames: 7 })) {
    frames.push(...batch.images.map((each) => hex(each.pixels)));
  }
  assert.equal(frames.length, 7);
  assert.deepEqual([frames[0], frames[6]], [given.pixels[first], given.pixels[second]]);
  const animation = await client.animate([first, second], { frames: 7, format: "gif", frameMs: 40 });
  assert.equal(Buffer.from(animation.subarray(0, 6)).toString(), "GIF89a");
  await assert.rejects(client.animate([first]), InvalidRequest);
});

test("leaving a path early ends the call", async () => {
  let reportEnd = () => {};
  const ended = new Promise<void>((resolve) => (reportEnd = resolve));
  const server = await listenScripted({
    interpolate: (call) => {
      call.on("cancelled", reportEnd);
      call.write(create(InterpolateResponseSchema, { batch: { format: ImageFormat.RAW } }));
    },
  });
  using walking = new Client(server.address);
  const path = walking.interpolate(["m@1/1/1", "m@1/1/2"], { timeoutMs: null });
  for await (const batch of path) {
    assert.equal(batch.images.length, 0);
    break;
  }
  await ended;
  server.close();
});

test("captions are asked for, and minted from their serials", async () => {
  const batch = await client.generate("worded", { seed: 5, condition: { caption: "Red HAIR" } });
  const [image] = batch.images;
  assert.equal(image!.caption, "red hair");
  assert.equal(image!.serial, "worded@1/5/0?caption=red%20hair");
  const again = await client.mint(image!.serial);
  assert.equal(hex(again.images[0]!.pixels), hex(image!.pixels));
});

test("models are listed with their manifests", async () => {
  const models = await client.models();
  const digits = models.find((each) => each.name === "digits")!;
  assert.equal(digits.versions[0]!.manifest!.classLabels.length, 10);
  assert.deepEqual(await client.model("digits"), digits);
});

test("every wrong field is named", async () => {
  const wrong = client.generate("digits", { count: 0, condition: 99 });
  await assert.rejects(wrong, (error: InvalidRequest) => {
    assert.ok(error instanceof InvalidRequest);
    assert.deepEqual(error.violations.map((each) => each.field).sort(), [
      "images.class_id",
      "images.count",
    ]);
    return true;
  });
});

test("an unknown model and a class without classes have their reasons", async () => {
  await assert.rejects(client.generate("absent"), (error: NotFound) => {
    assert.ok(error instanceof NotFound);
    assert.match(error.reason, /^[A-Z_]+$/);
    assert.match(error.message, /digits/);
    return true;
  });
  await assert.rejects(client.generate("plain", { condition: 1 }), FailedPrecondition);
});

test("an unreachable server is named", async () => {
  using lost = new Client("127.0.0.1:1");
  await assert.rejects(lost.models(), (error: Unavailable) => {
    assert.ok(error instanceof Unavailable);
    assert.match(error.message, /127\.0\.0\.1:1/);
    return true;
  });
});

test("a server that never answers ends the call at its deadline", async () => {
  const silent = await listenSilently();
  using waiting = new Client(silent.address, { timeoutMs: 50 });
  await assert.rejects(waiting.generate("digits"), DeadlineExceeded);
  silent.close();
});

test("no limit has several spellings, and a time that no timer can wait for is none", async () => {
  const serials = Object.keys(given.pixels).slice(0, 2);
  for (const timeoutMs of [null, Infinity, 1e15, 2 ** 31]) {
    assert.equal((await client.generate("digits", { timeoutMs })).images.length, 1);
    let images = 0;
    for await (const chunk of client.stream("digits", { count: 3, timeoutMs })) {
      images += chunk.images.length;
    }
    for await (const chunk of client.interpolate(serials, { frames: 2, timeoutMs })) {
      images += chunk.images.length;
    }
    assert.equal(images, 5);
  }
  await assert.rejects(client.generate("digits", { timeoutMs: NaN }), InvalidRequest);
});

test("a call whose connection is cut is retried by the service config", async () => {
  const proxy = new Proxy(given.address);
  proxy.cutFirst = 1;
  using retrying = new Client(await proxy.listen());
  const batch = await retrying.generate("digits", { seed: 1, count: 2 });
  assert.equal(batch.images.length, 2);
  assert.equal(proxy.connections, 2);
  proxy.close();
});

test("a large request is retried, too", async () => {
  let calls = 0;
  const server = await listenScripted({
    translate: (_, answer) => {
      calls += 1;
      if (calls === 1) {
        answer({ code: Code.UNAVAILABLE, details: "the server is shutting down" });
      } else {
        answer(null, create(TranslateResponseSchema, {}));
      }
    },
  });
  using retrying = new Client(server.address);
  await retrying.translate("m", [new Uint8Array(3 * 2 ** 20)]);
  assert.equal(calls, 2);
  server.close();
});

test("each client has a connection of its own, which pings its server", async () => {
  const proxy = new Proxy(given.address);
  const address = await proxy.listen();
  using first = new Client(address);
  using second = new Client(address);
  await Promise.all([first.generate("digits"), second.generate("digits")]);
  assert.equal(proxy.connections, 2);
  proxy.close();
  const { options } = await planChannel([address], undefined);
  assert.equal(options["grpc.keepalive_time_ms"], 20_000); // the server takes one each 10 s
  assert.equal(options["grpc.keepalive_timeout_ms"], 10_000);
});

test("TLS and an API key open a locked server", async () => {
  const tls = { rootCertificatesPath: given.rootCertificatesPath, serverName: "mint.test" };
  using open = new Client(given.secureAddress, { tls, apiKey: given.apiKey });
  assert.equal((await open.generate("digits", { count: 2 })).images.length, 2);
  using stranger = new Client(given.secureAddress, { tls });
  await assert.rejects(stranger.generate("digits"), Unauthenticated);
});

test("an aborted call has the reason of its signal", async () => {
  const silent = await listenSilently();
  using waiting = new Client(silent.address);
  const reason = new Error("the visitor has left");
  const calls: ((signal: AbortSignal) => Promise<unknown>)[] = [
    (signal) => waiting.generate("digits", { signal }),
    (signal) => waiting.mint(Object.keys(given.pixels).slice(0, 1), { signal }),
    (signal) => waiting.stream("digits", { count: 1, signal }).next(),
    (signal) => waiting.interpolate(["digits@1/1/1", "digits@1/1/2"], { signal }).next(),
    (signal) => waiting.translateStream("sketch", [Buffer.from("PNG")], { signal }).next(),
  ];
  for (const call of calls) {
    const abort = new AbortController();
    const active = call(abort.signal);
    await new Promise(setImmediate);
    abort.abort(reason);
    for (const each of [active, call(abort.signal)]) {
      await assert.rejects(each, (error: Cancelled) => {
        assert.ok(error instanceof Cancelled);
        assert.deepEqual([error.reason, error.cause], ["ABORTED", reason]);
        return true;
      });
    }
    assert.equal(getEventListeners(abort.signal, "abort").length, 0);
  }
  silent.close();
});

test("a closed client says so", async () => {
  const closed = new Client(given.address);
  await closed.models();
  const active = closed.generate("digits", { count: 64 });
  closed.close();
  await assert.rejects(active, ClientClosed);
  await assert.rejects(closed.models(), ClientClosed);
});
