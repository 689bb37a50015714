/** What the tests know about the real servers that pytest started, and a proxy that fails. */

import { readFileSync } from "node:fs";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";

/** Written by tests/integration/test_typescript_client.py. */
export interface Given {
  /** A server without keys or TLS. */
  readonly address: string;
  /** A server with TLS that asks for keys. */
  readonly secureAddress: string;
  readonly rootCertificatesPath: string;
  readonly apiKey: string;
  /** Pixels, as hexadecimal text, that the Python client minted of each serial. */
  readonly pixels: Readonly<Record<string, string>>;
  /** Images of `judged` that the Python client got with a filter, the first of seed 3. */
  readonly filtered: readonly {
    readonly serial: string;
    readonly pixels: string;
    readonly classConfidence: number;
    readonly realness: number;
    readonly trainingDistance: number;
    readonly rejected: number;
  }[];
  /** Pixels of a source, and its translation as a PNG, as hexadecimal text. */
  readonly source: string;
  readonly translation: string;
  /** Serials of the classes in the sampling vectors, and how to ask for them. */
  readonly vectors: readonly {
    readonly model: string;
    readonly seed: string;
    readonly firstIndex: string;
    readonly weights: number[] | null;
    readonly serials: readonly string[];
  }[];
  /** Serials as the engine spells them, with their parts. */
  readonly spelled: readonly {
    readonly text: string;
    readonly seed: string;
    readonly index: string;
    readonly classId: number | null;
    readonly caption: string | null;
    readonly truncation: number | null;
    readonly source: string | null;
    readonly variant: string | null;
  }[];
}

/** What pytest wrote. */
export const given: Given = JSON.parse(readFileSync(process.env["IMAGEMINT_TEST_GIVEN"]!, "utf8"));

/** A TCP proxy that forwards connections to a server and can cut them. */
export class Proxy {
  /** Connections so far. */
  connections = 0;
  /** Connections that are cut when their first bytes arrive. */
  cutFirst = 0;
  /** Connections that get the head of a response, in place of an answer, before they are cut. */
  headsFirst = 0;
  /** Bytes of the server after which each connection is cut. */
  cutAfterBytes = Infinity;
  readonly #server = createServer((socket) => this.#accept(socket));
  readonly #sockets = new Set<Socket>();
  #reportUnused = (): void => {};

  constructor(private readonly target: string) {}

  async listen(): Promise<string> {
    await new Promise<void>((ready) => this.#server.listen(0, "127.0.0.1", ready));
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Cuts all open connections. */
  cut(): void {
    this.#sockets.forEach((each) => each.destroy());
  }

  /** Resolves when no connection is open. */
  async waitUntilUnused(): Promise<void> {
    if (this.#sockets.size > 0) {
      await new Promise<void>((resolve) => (this.#reportUnused = resolve));
    }
  }

  close(): void {
    this.cut();
    this.#server.close();
  }

  #accept(socket: Socket): void {
    this.connections += 1;
    socket.on("error", () => {});
    if (this.connections <= this.cutFirst) {
      socket.once("data", () => socket.destroy());
      return;
    }
    if (this.connections <= this.headsFirst) {
      answerWithHead(socket);
      return;
    }
    const [host, port] = this.target.split(":") as [string, string];
    const upstream = connect(Number(port), host);
    let bytes = 0;
    upstream.on("data", (data) => {
      bytes += data.length;
      if (bytes > this.cutAfterBytes) {
        socket.destroy();
      }
    });
    for (const [each, other] of [[socket, upstream], [upstream, socket]] as const) {
      this.#sockets.add(each);
      each.on("error", () => {});
      each.on("close", () => {
        other.destroy();
        this.#sockets.delete(each);
        if (this.#sockets.size === 0) {
          this.#reportUnused();
        }
      });
      each.pipe(other);
    }
  }
}

/** A server that accepts connections and never answers. */
export async function listenSilently(): Promise<{ address: string; close: () => void }> {
  const sockets: Socket[] = [];
  const server = createServer((socket) => sockets.push(socket));
  await new Promise<void>((ready) => server.listen(0, "127.0.0.1", ready));
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () => {
      sockets.forEach((each) => each.destroy());
      server.close();
    },
  };
}

const PREFACE_BYTES = 24;
const FRAME_HEADER_BYTES = 9;
const HEADERS_TYPE = 1;
const SETTINGS_FRAME = Buffer.of(0, 0, 0, 4, 0, 0, 0, 0, 0);
// HPACK: ":status: 200" of the static table, and "content-type" of it with a literal value.
const HEAD = Buffer.concat([
  Buffer.of(0x88, 0x0f, 0x10, "application/grpc".length),
  Buffer.from("application/grpc"),
]);

// "grpc-status: 12", which is UNIMPLEMENTED.
const UNIMPLEMENTED = Buffer.concat([
  HEAD,
  Buffer.of(0, "grpc-status".length),
  Buffer.from("grpc-status"),
  Buffer.of("12".length),
  Buffer.from("12"),
]);
const END_HEADERS = 4;
const END_STREAM = 1;

/**
 * Refuses the watch of health, which the client begins first. Waits for another request over HTTP/2,
 * sends the head of a response, and closes the connection.
 */
function answerWithHead(socket: Socket): void {
  let received = Buffer.alloc(0);
  let at = PREFACE_BYTES;
  let hasRefused = false;
  socket.write(SETTINGS_FRAME);
  socket.on("data", (data: Buffer) => {
    received = Buffer.concat([received, data]);
    while (at + FRAME_HEADER_BYTES <= received.length) {
      const frame = received.subarray(at);
      at += FRAME_HEADER_BYTES + frame.readUIntBE(0, 3);
      if (frame[3] !== HEADERS_TYPE) {
        continue;
      }
      if (hasRefused) {
        socket.end(makeHeaders(frame, HEAD, END_HEADERS));
        return;
      }
      hasRefused = true;
      socket.write(makeHeaders(frame, UNIMPLEMENTED, END_HEADERS | END_STREAM));
    }
  });
}

/** Returns a frame of headers on the stream of another frame. */
function makeHeaders(request: Buffer, block: Buffer, flags: number): Buffer {
  const header = Buffer.of(0, 0, block.length, HEADERS_TYPE, flags, 0, 0, 0, 0);
  request.copy(header, 5, 5, FRAME_HEADER_BYTES);
  return Buffer.concat([header, block]);
}
