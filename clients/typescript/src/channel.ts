/** Opens gRPC connections: targets, load balancing, TLS, and the retries of the service config. */

import { promises as dns } from "node:dns";
import { readFile } from "node:fs/promises";
import { isIP, isIPv6 } from "node:net";
import { Client, credentials, type ChannelOptions } from "@grpc/grpc-js";

import { describe } from "./arguments.js";
import { Unavailable } from "./errors.js";
import { serviceConfig } from "./gen/imagemint/v1/service_config.js";
import { withHealthChecks } from "./health.js";

// gRPC's default of 4 MB holds only five images of 512x512x3. This limit still protects the caller.
const MAX_RECEIVE_BYTES = 256 * 2 ** 20;
// gRPC retries a call only while it holds the request. Unless told otherwise, it holds 1 MB of one call
// and 16 MB of all: too little for photos. The requests are in memory anyway until their calls end.
const RETRIED_BYTES = Number.MAX_SAFE_INTEGER;
// When a server process dies, other processes serve; gRPC's first delay of a second exceeds the retries.
const RECONNECT_MS = 100;
// gRPC's default waits up to two minutes between attempts, long after a server is back.
const LONGEST_RECONNECT_MS = 2_000;
// A connection without an answer to a ping is closed after the sum of both. Our server takes pings that are 10 s apart.
const KEEPALIVE_MS = 20_000;
const KEEPALIVE_TIMEOUT_MS = 10_000;

/** Encryption settings. All paths are PEM files; `{}` trusts the authorities of Node. */
export interface Tls {
  /** Certificate authorities to trust instead of Node's. */
  readonly rootCertificatesPath?: string;
  /** Key of the client, for servers that require client certificates. */
  readonly privateKeyPath?: string;
  /** Certificate of the client, which belongs to the key. */
  readonly certificateChainPath?: string;
  /** Name that the server's certificate must have. Default: the host of the target. */
  readonly serverName?: string;
}

/**
 * Splits "host:port" or "a:1,b:2" into single targets.
 *
 * @throws TypeError if there is no target, or one is empty or lacks its port
 */
export function parseTargets(target: string | readonly string[]): string[] {
  const several = typeof target === "string" ? target.split(",") : target;
  const isList = Array.isArray(several) && several.every((each) => typeof each === "string");
  if (!isList || several.length === 0) {
    throw new TypeError(`${describe(target)} names no server; expected HOST:PORT, or several`);
  }
  const names = several.map((each) => each.trim());
  if (names.length === 1 && isUri(names[0]!)) {
    return names;
  }
  for (const name of names) {
    const { host, port } = splitAddress(name);
    if (host === "" || !(port > 0 && port < 2 ** 16)) {
      throw new TypeError(`${JSON.stringify(name)} is not HOST:PORT`);
    }
  }
  return names;
}

/**
 * Returns encryption settings.
 *
 * @throws TypeError if they are none, or have only one of private key and certificate chain
 */
export function checkTls(tls: Tls | null | undefined): Tls | undefined {
  if (tls === undefined || tls === null) {
    return undefined;
  }
  if (typeof tls !== "object") {
    throw new TypeError(`tls: ${describe(tls)} is not an object; {} encrypts`);
  }
  if ((tls.privateKeyPath === undefined) !== (tls.certificateChainPath === undefined)) {
    throw new TypeError("tls: set privateKeyPath and certificateChainPath together");
  }
  return tls;
}

/**
 * Whether targets have to be resolved again: several, of which one is a host name. gRPC follows a
 * single name.
 */
export function mayMove(targets: readonly string[]): boolean {
  return targets.length > 1 && !targets.every((each) => isIP(splitAddress(each).host));
}

/** Everything that opens a channel. Equal plans open equal channels. */
export interface ChannelPlan {
  /** Address for gRPC, such as `dns:///host:8001` or `ipv4:10.0.0.1:8001,10.0.0.2:8001`. */
  readonly address: string;
  readonly options: ChannelOptions;
  /** Contents of the PEM files, in the order of gRPC's arguments; undefined for plain text. */
  readonly certificates: Certificates | undefined;
}

type Certificates = [Buffer | null, Buffer | null, Buffer | null];

/**
 * Plans a channel over all targets, which calls use in turn.
 *
 * @throws Unavailable if no host name resolves
 */
export async function planChannel(
  targets: readonly string[],
  tls: Tls | undefined,
): Promise<ChannelPlan> {
  return {
    address: isUri(targets[0]!) ? targets[0]! : await buildAddress(targets),
    options: buildOptions(targets, tls),
    certificates: tls && (await readCertificates(tls)),
  };
}

/** Opens a planned channel. It connects with the first call. */
export function openChannel({ address, options, certificates }: ChannelPlan): Client {
  const secured = certificates && credentials.createSsl(...certificates);
  return new Client(address, secured ?? credentials.createInsecure(), options);
}

function buildOptions(targets: readonly string[], tls: Tls | undefined): ChannelOptions {
  const options: ChannelOptions = {
    "grpc.service_config": JSON.stringify(withHealthChecks(serviceConfig)),
    "grpc.max_receive_message_length": MAX_RECEIVE_BYTES,
    "grpc.per_rpc_retry_buffer_size": RETRIED_BYTES,
    "grpc.retry_buffer_size": RETRIED_BYTES,
    "grpc.initial_reconnect_backoff_ms": RECONNECT_MS,
    "grpc.max_reconnect_backoff_ms": LONGEST_RECONNECT_MS,
    // Without pings, calls wait on a connection whose server has vanished without a word.
    "grpc.keepalive_time_ms": KEEPALIVE_MS,
    "grpc.keepalive_timeout_ms": KEEPALIVE_TIMEOUT_MS,
    // Otherwise all clients of a process share one connection, and therefore one server process.
    "grpc.use_local_subchannel_pool": 1,
  };
  const hosts = targets.filter((each) => !isUri(each)).map((each) => splitAddress(each).host);
  if (hosts.every(isLoopback)) {
    options["grpc.enable_http_proxy"] = 0; // of the environment, which loopback never needs
  }
  // Addresses alone do not determine the name in the certificate.
  const serverName = tls?.serverName ?? (tls && hosts.length > 1 ? hosts[0] : undefined);
  if (serverName !== undefined) {
    options["grpc.ssl_target_name_override"] = serverName;
    options["grpc.default_authority"] = serverName;
  }
  return options;
}

async function readCertificates(tls: Tls): Promise<Certificates> {
  const paths = [tls.rootCertificatesPath, tls.privateKeyPath, tls.certificateChainPath];
  const files = paths.map((path) => (path === undefined ? null : readFile(path)));
  return (await Promise.all(files)) as Certificates;
}

async function buildAddress(targets: readonly string[]): Promise<string> {
  if (targets.length === 1 && !isIP(splitAddress(targets[0]!).host)) {
    return `dns:///${targets[0]!}`; // gRPC resolves the name again when servers come and go
  }
  // Where a server is down, its name is often gone. Without it, the others can serve.
  const found = await Promise.allSettled(targets.map(resolve));
  const resolved = found.filter((each) => each.status === "fulfilled").map((each) => each.value);
  if (resolved.length === 0) {
    throw (found[0] as PromiseRejectedResult).reason;
  }
  for (const family of [4, 6]) {
    const several = resolved.map((each) => each.filter((address) => address.family === family));
    if (several.every((each) => each.length > 0)) {
      return `ipv${family}:${several.flat().map((each) => each.text).join(",")}`;
    }
  }
  throw new Unavailable(`${targets.join(", ")}: no address family in common`, {
    reason: "UNRESOLVED",
  });
}

async function resolve(target: string): Promise<{ family: number; text: string }[]> {
  const { host, port } = splitAddress(target);
  try {
    const found = await dns.lookup(host, { all: true });
    const addresses = found.map(({ address, family }) => ({
      family,
      text: isIPv6(address) ? `[${address}]:${port}` : `${address}:${port}`,
    }));
    // Name servers change the order of addresses, which has no meaning here.
    return addresses.sort((one, other) => (one.text < other.text ? -1 : 1));
  } catch (error) {
    throw new Unavailable(`${host}: ${(error as Error).message}`, { reason: "UNRESOLVED" });
  }
}

function splitAddress(name: string): { host: string; port: number } {
  const colon = name.lastIndexOf(":");
  const host = name.slice(0, Math.max(colon, 0));
  if (host.includes(":") && !host.startsWith("[")) {
    return { host: name, port: 0 }; // a bare IPv6 address: no port at all
  }
  const port = name.slice(colon + 1);
  return { host: host.replace(/^\[|\]$/g, ""), port: /^[0-9]+$/.test(port) ? Number(port) : 0 };
}

function isUri(target: string): boolean {
  return /^(unix|unix-abstract|dns|ipv4|ipv6|xds):/.test(target);
}

function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));
}
