/** The connection of a client, with the settings and errors that all its calls share. */

import { setMaxListeners } from "node:events";

import type { DescMessage, DescMethodUnary, MessageShape } from "@bufbuild/protobuf";
import { Metadata, type Client as Connection } from "@grpc/grpc-js";

import { callUnary, type CallContext } from "./calls.js";
import { openConnection, parseTargets } from "./channel.js";
import { Cancelled, ClientClosed, invalid, isServiceError, translateError } from "./errors.js";
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
  #connection: Promise<Connection> | undefined;

  /** @throws TypeError if `target` names no server */
  constructor(target: string | readonly string[], options: ClientOptions) {
    this.#targets = parseTargets(target);
    this.#options = options;
    setMaxListeners(0, this.#closed.signal); // one for each active call
  }

  /** Closes the connection, and ends active calls. */
  close(): void {
    this.#closed.abort();
    this.#connection?.then((opened) => opened.close()).catch(() => {});
    this.#connection = undefined;
  }

  /** Makes a call with one answer. */
  async call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageShape<I>,
    settings: CallSettings,
  ): Promise<MessageShape<O>> {
    const deadline = this.deadline(settings);
    try {
      const context = await this.open();
      return await callUnary(context, method, request, deadline, this.signals(settings));
    } catch (error) {
      throw this.translate(error, settings.signal);
    }
  }

  /**
   * Returns what goes with a call; opens the connection first.
   *
   * @throws ClientClosed after close()
   * @throws Unavailable if a host name does not resolve
   */
  async open(): Promise<CallContext> {
    if (this.#closed.signal.aborted) {
      throw new ClientClosed();
    }
    this.#connection ??= openConnection(this.#targets, this.#options.tls);
    try {
      return { connection: await this.#connection, metadata: this.#metadata() };
    } catch (error) {
      this.#connection = undefined; // the next call reads files and names again
      throw error;
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
      return new Cancelled("the call was aborted by its signal", { reason: "ABORTED" });
    }
    return isServiceError(error) ? translateError(error, this.#server) : (error as Error);
  }

  /** Returns the signals that cancel a call: that of its caller, and that of close(). */
  signals({ signal }: CallSettings): readonly AbortSignal[] {
    return signal === undefined ? [this.#closed.signal] : [this.#closed.signal, signal];
  }

  /** Returns the time at which a call that begins now has to end; undefined for none. */
  deadline(settings: CallSettings): Date | undefined {
    const timeoutMs = this.#timeoutMs(settings);
    return timeoutMs === undefined ? undefined : new Date(Date.now() + timeoutMs);
  }

  #timeoutMs(settings: CallSettings): number | undefined {
    const { timeoutMs = this.#options.timeoutMs } = settings;
    const asked = timeoutMs === undefined ? DEFAULT_TIMEOUT_MS : (timeoutMs ?? Infinity);
    if (Number.isNaN(asked)) {
      throw invalid("timeoutMs", "NaN is no time");
    }
    return asked > LONGEST_TIMEOUT_MS ? undefined : asked;
  }

  #metadata(): Metadata {
    const metadata = new Metadata();
    for (const [key, value] of Object.entries(this.#options.metadata ?? {})) {
      metadata.set(key, value);
    }
    if (this.#options.apiKey !== undefined) {
      metadata.set("authorization", `Bearer ${this.#options.apiKey}`);
    }
    return metadata;
  }

  get #server(): string {
    return this.#targets.join(", ");
  }
}
