/**
 * A backend service that answers with a synthetic picture within a deadline.
 *
 * `GET /avatars/NAME.png` answers with a PNG. A name always has the same picture: the name decides
 * the seed, so there is nothing to store.
 */

import { createHash } from "node:crypto";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Client, DeadlineExceeded, QueueFull, Unavailable } from "imagemint";

const model = process.env["MODEL"] ?? "mnist";
const client = new Client(process.env["IMAGEMINT_SERVER"] ?? "127.0.0.1:8001", {
  apiKey: process.env["IMAGEMINT_API_KEY"],
  timeoutMs: 1_000 * Number(process.env["DEADLINE_S"] ?? 0.5),
});

async function sendAvatar(name: string, response: ServerResponse): Promise<void> {
  const seed = createHash("sha256").update(name).digest().readBigUInt64BE();
  const abort = new AbortController();
  response.on("close", () => abort.abort()); // a picture for nobody is work for nothing
  // High priority: somebody waits for this picture.
  const [picture] = await client.encoded(model, { seed, priority: "high", signal: abort.signal });
  const { data, mimeType, images } = picture!;
  response.writeHead(200, { "Content-Type": mimeType, "Serial-Number": images[0]!.serial });
  response.end(data);
}

function sendError(error: unknown, response: ServerResponse): void {
  if (response.closed) {
    return; // the visitor has left
  }
  if (error instanceof DeadlineExceeded) {
    response.writeHead(504).end("the picture is not ready in time\n");
  } else if (error instanceof QueueFull || error instanceof Unavailable) {
    const retryAfter = String(Math.ceil((error.retryDelayMs ?? 1_000) / 1_000));
    response.writeHead(503, { "Retry-After": retryAfter }).end("no server has capacity\n");
  } else {
    console.error(error);
    response.writeHead(500).end();
  }
}

const server = createServer((request, response) => {
  const encoded = /^\/avatars\/([^/]+)\.png$/.exec(request.url ?? "")?.[1];
  if (encoded === undefined) {
    response.writeHead(404).end();
    return;
  }
  let name: string;
  try {
    name = decodeURIComponent(encoded);
  } catch {
    response.writeHead(400).end("the name is not valid percent-encoding\n");
    return;
  }
  sendAvatar(name, response).catch((error) => sendError(error, response));
});

server.listen(Number(process.env["PORT"] ?? 8000), "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${(server.address() as AddressInfo).port}`);
});

process.on("SIGTERM", () => {
  server.close(() => client.close()); // once all requests are answered
  server.closeIdleConnections();
});
