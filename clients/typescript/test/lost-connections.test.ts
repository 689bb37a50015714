/** Connections that are lost after a response has begun, which gRPC does not repeat. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Client, Unavailable, type SourcePixels } from "../src/index.js";
import { given, Proxy } from "./server.js";

const SOURCE: SourcePixels = { pixels: new Uint8Array(144), height: 6, width: 8, channels: 3 };

async function count(items: AsyncIterable<unknown>): Promise<number> {
  let found = 0;
  for await (const _ of items) {
    found += 1;
  }
  return found;
}

// Each returns a number that is above 0.
const calls: Readonly<Record<string, (client: Client) => Promise<number>>> = {
  models: async (client) => (await client.models()).length,
  generate: async (client) => (await client.generate("digits", { seed: 1 })).images.length,
  stream: (client) => count(client.stream("digits", { seed: 1, count: 3 })),
  animate: async (client) => (await client.animate(["digits@1/1/1", "digits@1/1/2"])).length,
  translateStream: (client) => count(client.translateStream("sketch", [SOURCE])),
};

for (const [name, call] of Object.entries(calls)) {
  test(`${name} is called once more`, async () => {
    const proxy = new Proxy(given.address);
    proxy.headsFirst = 1;
    using client = new Client(await proxy.listen());
    assert.ok((await call(client)) > 0);
    assert.equal(proxy.connections, 2);
    proxy.close();
  });

  test(`${name} is not called a third time`, async () => {
    const proxy = new Proxy(given.address);
    proxy.headsFirst = 2;
    using client = new Client(await proxy.listen());
    await assert.rejects(call(client), (error: Unavailable) => {
      assert.ok(error instanceof Unavailable);
      assert.equal(error.reason, "CONNECTION_LOST");
      assert.match(error.message, /^the connection to .* was lost during the call/);
      return true;
    });
    assert.ok((await call(client)) > 0);
    proxy.close();
  });
}
