/** The connection of a client, with the settings and errors that all its calls share. */

import { setMaxListeners } from "node:events";

import type { DescMessage, DescMethodUnary, MessageShape } from "@bufbuild/protobuf";
import { Metadata } from "@grpc/grpc-js";

import { checkNumber, describe } from "./arguments.js";
import { callUnary, type CallContext } from "./calls.js";
import { checkTls, parseTargets } from "./channel.js";
import { Connection } from "./connection.js";
import {
  Cancelled,
  ClientClosed,
  DeadlineExceeded,
  invalid,
  isServiceError,
  mayRepeat,
  NO_SERVER,
  translateError,
  Unavailable,
} from "./errors.js";
import type { CallSettings, ClientOptions } from "./options.js";
import type { StreamContext } from "./resuming.js";

const DEFAULT_TIMEOUT_MS = 30_000;
// Beyond 24 days a timer of Node would end at once, and grpc-js throws where nobody can catch it.
const LONGEST_TIMEOUT_MS = 2 ** 31 - 1;

/** A connection to one or several servers, opened with the first call. */
export class Session {
  readonly #targets: readonly string[];
  readonly #options: ClientOptions;
  readonly #closed = new AbortController();
  readonly #connection: Connection;
  readonly #metadata: Metadata;

  /** @throws TypeError if `target` names no server, or an option cannot be sent */
  constructor(target: string | readonly string[], options: ClientOptions) {
    this.#targets = parseTargets(target);
    this.#options = options;
    this.#connection = new Connection(this.#targets, checkTls(options.tls));
    this.#metadata = readMetadata(options);
    setMaxListeners(0, this.#closed.signal); // one for each active call
  }

  /** Closes the connection, and ends active calls. */
  close(): void {
    this.#closed.abort();
    this.#connection.close();
  }

  /** Makes a call with one answer. */
  async call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageShape<I>,
    settings: CallSettings,
  ): Promise<MessageShape<O>> {
    const deadline = this.deadline(settings);
    const signals = this.signals(settings); // before the call, which an error would not end
    for (let failures = 1; ; failures += 1) {
      try {
        const opened = await this.open(settings, msUntil(deadline));
        return await callUnary(opened, method, request, deadline, signals);
      } catch (error) {
        const failure = this.translate(error, settings.signal);
        if (!mayRepeat(failure, failures)) {
          throw failure;
        }
      }
    }
  }

  /**
   * Returns what goes with a call; opens the connection first.
   *
   * @param timeoutMs how long the connection may take; Infinity for no limit
   * @throws ClientClosed after close()
   * @throws InvalidRequest if gRPC cannot send the metadata of the call
   * @throws DeadlineExceeded if the names of the servers are not resolved in time
   * @throws Cancelled if the signal of the call is aborted meanwhile
   * @throws Unavailable if no host name resolves
   */
  async open(settings: CallSettings, timeoutMs: number): Promise<CallContext> {
    const metadata = this.#joinMetadata(settings);
    if (this.#closed.signal.aborted) {
      throw new ClientClosed();
    }
    try {
      const patience = { timeoutMs, signals: this.signals(settings) };
      return { connection: await this.#connection.open(patience), metadata };
    } catch (error) {
      throw this.translate(error, settings.signal);
    }
  }

  /** Returns what a stream with these settings needs. */
  streamContext(settings: CallSettings): StreamContext {
    return {
      server: this.#server,
      timeoutMs: this.#timeoutMs(settings),
      signals: this.signals(settings),
      translate: (error) => this.translate(error, settings.signal),
    };
  }

  /** Returns the error to throw for `error`, which ended a call with this signal. */
  translate(error: unknown, signal: AbortSignal | undefined): Error {
    if (this.#closed.signal.aborted) {
      return new ClientClosed();
    }
    if (signal?.aborted) {
      const { reason: cause } = signal;
      return new Cancelled("the call was aborted by its signal", { reason: "ABORTED", cause });
    }
    if (!isServiceError(error)) {
      return error as Error;
    }
    const failure = translateError(error, this.#server);
    if (failure instanceof Unavailable && NO_SERVER.has(failure.reason)) {
      this.#connection.noteUnreachable();
    }
    return failure;
  }

  /**
   * Returns the signals that cancel a call: that of its caller, and that of close().
   *
   * @throws InvalidRequest if that of the caller is no AbortSignal
   */
  signals({ signal }: CallSettings): readonly AbortSignal[] {
    if (signal !== undefined && typeof signal?.addEventListener !== "function") {
      throw invalid("signal", `${describe(signal)} is not an AbortSignal`);
    }
    return signal === undefined ? [this.#closed.signal] : [this.#closed.signal, signal];
  }

  /** Returns the time at which a call that begins now has to end; undefined for none. */
  deadline(settings: CallSettings): Date | undefined {
    const timeoutMs = this.#timeoutMs(settings);
    return timeoutMs === undefined ? undefined : new Date(Date.now() + timeoutMs);
  }

  /**
   * @throws InvalidRequest if the time is not a number
   * @throws DeadlineExceeded if it is not above 0
   */
  #timeoutMs(settings: CallSettings): number | undefined {
    const { timeoutMs = this.#options.timeoutMs } = settings;
    const asked = timeoutMs === undefined ? DEFAULT_TIMEOUT_MS : (timeoutMs ?? Infinity);
    if (Number.isNaN(checkNumber("timeoutMs", asked))) {
      throw invalid("timeoutMs", "NaN is no time");
    }
    if (asked <= 0) {
      throw new DeadlineExceeded(`no time is left for the call: timeoutMs is ${asked}`);
    }
    return asked > LONGEST_TIMEOUT_MS ? undefined : asked;
  }

  #joinMetadata({ metadata }: CallSettings): Metadata {
    const joined = this.#metadata.clone();
    try {
      setAll(joined, metadata ?? {});
    } catch (error) {
      throw error instanceof TypeError ? invalid("metadata", error.message) : error;
    }
    return joined;
  }

  get #server(): string {
    return this.#targets.join(", ");
  }
}

/** Returns the milliseconds until a deadline; Infinity for none. */
export function msUntil(deadline: Date | undefined): number {
  return deadline === undefined ? Infinity : deadline.getTime() - Date.now();
}

/**
 * Returns the metadata of all calls.
 *
 * @throws TypeError if gRPC cannot send it; the message has no value, which may be a secret
 */
function readMetadata({ metadata = {}, apiKey }: ClientOptions): Metadata {
  const found = new Metadata();
  setAll(found, metadata);
  if (apiKey !== undefined) {
    if (typeof apiKey !== "string") {
      throw new TypeError("apiKey: the value is not a string");
    }
    if (found.get("authorization").length > 0) {
      throw new TypeError("apiKey: metadata has `authorization`, too; give one of them");
    }
    set(found, "apiKey", "authorization", `Bearer ${apiKey}`);
  }
  return found;
}

/** @throws TypeError as readMetadata */
function setAll(found: Metadata, pairs: Readonly<Record<string, string>>): void {
  for (const [name, value] of Object.entries(pairs)) {
    if (typeof value !== "string") {
      throw new TypeError(`metadata: the value of ${JSON.stringify(name)} is not a string`);
    }
    set(found, `metadata: ${JSON.stringify(name)}`, name, value);
  }
}

function set(found: Metadata, option: string, name: string, value: string): void {
  try {
    found.set(name, value);
  } catch {
    throw new TypeError(`${option} cannot be sent: gRPC takes printable ASCII`);
  }
}
