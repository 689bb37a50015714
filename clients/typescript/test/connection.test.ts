/** A connection over several names: their addresses may change while a client is open. */

import assert from "node:assert/strict";
import { promises as dns } from "node:dns";
import { afterEach, beforeEach, mock, test } from "node:test";

import { Cancelled, Client, ClientClosed, DeadlineExceeded, Unavailable } from "../src/index.js";
import { given, Proxy } from "./server.js";

// An address of this machine at which no test serves.
const NOBODY = "127.0.0.2";
const PORT = given.address.split(":").at(-1)!;

/** Addresses of names; a name without one does not resolve. */
let addresses: Record<string, string>;
let lookups: string[];
/** Lookups wait for it. */
let gate: Promise<void>;
let advancedMs: number;

function resolveTestNames(): void {
  const lookup = dns.lookup.bind(dns);
  const fake = async (host: string, options: { all: true }) => {
    if (!host.endsWith(".test")) {
      return lookup(host, options);
    }
    lookups.push(host);
    await gate;
    const address = addresses[host];
    if (address === undefined) {
      throw new Error("not known");
    }
    return [{ address, family: 4 }];
  };
  mock.method(dns, "lookup", fake as typeof dns.lookup);
}

/** Gives the test a clock of its own, since a busy machine takes seconds for a call. */
function moveTime(): void {
  let readings = 0; // each is a little later than the one before
  mock.method(performance, "now", () => advancedMs + (readings += 0.001));
}

beforeEach(() => {
  addresses = { "a.test": "127.0.0.1", "b.test": "127.0.0.1" };
  lookups = [];
  gate = Promise.resolve();
  advancedMs = 0;
  resolveTestNames();
  moveTime();
});
afterEach(() => mock.restoreAll());

test("servers that moved are found after a call that reached none", async () => {
  addresses = { "a.test": NOBODY, "b.test": NOBODY };
  using client = new Client(`a.test:${PORT},b.test:${PORT}`);
  await assert.rejects(client.generate("digits"), Unavailable);
  addresses = { "a.test": "127.0.0.1", "b.test": "127.0.0.1" };
  await assert.rejects(client.generate("digits"), Unavailable); // too soon for another lookup
  advancedMs += 1_000;
  assert.equal((await client.generate("digits")).images.length, 1);
});

test("a server that comes back is found while another serves, and a stream goes on", async () => {
  const [first, second] = [new Proxy(given.address), new Proxy(given.address)];
  const ports = [await first.listen(), await second.listen()].map((each) => each.split(":")[1]);
  addresses["b.test"] = NOBODY;
  using client = new Client(`a.test:${ports[0]},b.test:${ports[1]}`);
  const stream = client.stream("digits", { count: 40, chunkSize: 1 });
  let received = (await stream.next()).value!.images.length;
  addresses = { "a.test": NOBODY, "b.test": "127.0.0.1" };
  advancedMs += 30_000;
  while (second.connections === 0) {
    await client.generate("digits");
  }
  for await (const batch of stream) {
    received += batch.images.length;
  }
  assert.deepEqual([received, first.connections], [40, 1]);
  first.close();
  second.close();
});

test("closing ends the connections to the addresses before, too", async () => {
  const proxy = new Proxy(given.address);
  const port = (await proxy.listen()).split(":")[1];
  const client = new Client(`a.test:${port},b.test:${port}`);
  await client.generate("digits");
  const before = proxy.connections;
  addresses["b.test"] = NOBODY;
  advancedMs += 30_000;
  while (proxy.connections === before) {
    await client.generate("digits");
  }
  client.close();
  await proxy.waitUntilUnused();
  proxy.close();
});

test("names are not resolved again before their time", async () => {
  using client = new Client(`a.test:${PORT},b.test:${PORT}`);
  await Promise.all([1, 2, 3].map(() => client.generate("digits")));
  advancedMs += 29_000;
  await client.generate("digits");
  assert.deepEqual(lookups.sort(), ["a.test", "b.test"]);
});

test("the time of a call covers the lookup", async () => {
  let open = (): void => {};
  gate = new Promise((resolve) => (open = resolve));
  using client = new Client(`a.test:${PORT},b.test:${PORT}`);
  for (const call of [
    () => client.generate("digits", { timeoutMs: 30 }),
    () => client.stream("digits", { count: 1, timeoutMs: 30 }).next(),
    () => client.interpolate(["digits@1/1/1", "digits@1/1/2"], { timeoutMs: 30 }).next(),
  ]) {
    await assert.rejects(call(), (error: DeadlineExceeded) => {
      assert.ok(error instanceof DeadlineExceeded);
      assert.match(error.message, /a\.test.*not resolved within \d+ ms/);
      return true;
    });
  }
  open();
  assert.equal((await client.generate("digits")).images.length, 1);
});

test("a call that is aborted during the lookup ends, and leaves it to others", async () => {
  let open = (): void => {};
  gate = new Promise((resolve) => (open = resolve));
  using client = new Client(`a.test:${PORT},b.test:${PORT}`);
  const abort = new AbortController();
  const calls = [client.generate("digits", { signal: abort.signal }), client.generate("digits")];
  abort.abort();
  await assert.rejects(calls[0]!, Cancelled);
  open();
  assert.equal((await calls[1]!).images.length, 1);
});

test("closing during the lookup ends the call", async () => {
  gate = new Promise(() => {});
  const client = new Client(`a.test:${PORT},b.test:${PORT}`);
  const call = client.generate("digits");
  client.close();
  await assert.rejects(call, ClientClosed);
});
