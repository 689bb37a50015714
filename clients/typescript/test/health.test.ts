/** Client-side health checking, with servers that say what a test wants. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";

import { create } from "@bufbuild/protobuf";
import { status as Code } from "@grpc/grpc-js";

import { Client, Unavailable } from "../src/index.js";
import { TranslateResponseSchema } from "../src/gen/imagemint/v1/translation_service_pb.js";
import { listenScripted, type WatchCall } from "./scripted-server.js";

const SERVING = 1;
const NOT_SERVING = 2;

/** A server that counts its calls, and tells `status` to those that watch its health. */
class Watched implements Disposable {
  calls = 0;
  watches: WatchCall[] = [];
  address = "";
  #close = (): void => {};
  #report: (watch: WatchCall) => void = () => {};

  /** @param status SERVING, NOT_SERVING, or the code with which it ends the first watch */
  constructor(private status: number | { readonly code: Code }) {}

  async listen(): Promise<this> {
    const { address, close } = await listenScripted({
      translate: (_, answer) => {
        this.calls += 1;
        answer(null, create(TranslateResponseSchema, {}));
      },
      watch: (watch) => this.#watch(watch),
    });
    this.address = address;
    this.#close = close;
    return this;
  }

  /** Tells another status to everyone. */
  say(status: number): void {
    this.status = status;
    this.watches.forEach((each) => each.write(status));
  }

  /** Resolves with the next watch. */
  nextWatch(): Promise<WatchCall> {
    return new Promise((resolve) => (this.#report = resolve));
  }

  [Symbol.dispose](): void {
    this.#close();
  }

  #watch(watch: WatchCall): void {
    assert.equal(watch.request, "imagemint.v1.ModelService");
    if (typeof this.status === "number") {
      this.watches.push(watch);
      watch.write(this.status);
    } else {
      watch.emit("error", { ...this.status, details: "no watch" });
      this.status = NOT_SERVING;
    }
    this.#report(watch);
  }
}

const call = (client: Client) => client.translate("m", [Uint8Array.of(1)]);

/** Calls until `server` has answered `count` calls in a row. */
async function callUntilOnly(server: Watched, client: Client, count = 2): Promise<void> {
  for (let row = 0; row < count; ) {
    const before = server.calls;
    await call(client);
    row = server.calls > before ? row + 1 : 0;
  }
}

test("calls go to those servers that serve", async () => {
  using first = await new Watched(SERVING).listen();
  using second = await new Watched(NOT_SERVING).listen();
  using client = new Client([first.address, second.address]);
  const watched = second.nextWatch();
  await call(client);
  await watched;
  for (let number = 0; number < 10; number += 1) {
    await call(client);
  }
  assert.deepEqual([first.calls, second.calls], [11, 0]);
  second.say(SERVING);
  await callUntilOnly(second, client, 1);
  first.say(NOT_SERVING);
  await callUntilOnly(second, client);
  const { calls } = first;
  await callUntilOnly(second, client, 10);
  assert.equal(first.calls, calls);
});

test("if no server serves, calls fail with a reason and a delay until one does", async () => {
  using server = await new Watched(NOT_SERVING).listen();
  using client = new Client(server.address);
  await assert.rejects(call(client), (error: Unavailable) => {
    assert.ok(error instanceof Unavailable);
    assert.deepEqual([error.reason, error.retryDelayMs], ["NOT_SERVING", 1_000]);
    assert.ok(error.message.startsWith(`${server.address} does not serve now`), error.message);
    return true;
  });
  assert.equal(server.calls, 0);
  server.say(SERVING);
  while (server.calls === 0) {
    await call(client).catch(() => {});
  }
});

test("a server that ends its watch as it shuts down gets no calls until it serves again", async () => {
  using first = await new Watched({ code: Code.UNAVAILABLE }).listen();
  using second = await new Watched(SERVING).listen();
  using client = new Client([first.address, second.address]);
  const watched = first.nextWatch();
  await call(client);
  await watched;
  await callUntilOnly(second, client, 10);
  while (first.watches.length === 0) {
    await call(client); // a watch goes on as long as there are calls
  }
  assert.equal(first.calls, 0);
  first.say(SERVING);
  await callUntilOnly(first, client, 1);
});

test("a server without health, and a proxy that refuses to watch it, are called", async () => {
  for (const code of [Code.UNIMPLEMENTED, Code.UNAUTHENTICATED]) {
    using server = await new Watched({ code }).listen();
    using client = new Client(server.address);
    await call(client);
    assert.equal(server.calls, 1);
  }
});

test("a watch ends a moment after the last call, and with the client", async () => {
  using server = await new Watched(SERVING).listen();
  using client = new Client(server.address);
  const first = server.nextWatch();
  await call(client);
  server.say(NOT_SERVING);
  await once(await first, "cancelled");
  const second = server.nextWatch();
  await call(client); // what the server has said is out of date
  client.close();
  await once(await second, "cancelled");
});
