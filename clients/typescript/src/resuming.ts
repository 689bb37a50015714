/** Streams of answers that resume after failures. */

import type { AnswerStream } from "./calls.js";
import { onAbort, sleep, waitFor } from "./cancellation.js";
import {
  Cancelled,
  ClientClosed,
  DeadlineExceeded,
  ImagemintError,
  mayRepeat,
  QueueFull,
  ServerError,
  Unavailable,
} from "./errors.js";
import type { Origin } from "./images.js";

const FIRST_DELAY_MS = 100;
const LONGEST_DELAY_MS = 2_000;

/** What a stream needs to know of its client, and of the settings of the call. */
export interface StreamContext {
  /** Server or servers, for messages. */
  readonly server: string;
  /** Longest time for one answer, with all new calls and delays; undefined for no limit. */
  readonly timeoutMs: number | undefined;
  /** Each ends the stream when it is aborted. */
  readonly signals: readonly AbortSignal[];
  /** Translates an error of gRPC. */
  translate(error: unknown): Error;
}

type Maker = Pick<Origin, "model" | "version" | "bundleSha256" | "variant">;

/**
 * A stream of answers, with as many calls as necessary.
 *
 * After the first answer, UNAVAILABLE, RESOURCE_EXHAUSTED or a server's CANCELLED lead to new calls
 * for what is missing, until an answer arrives or the time for it has passed. Before the first
 * answer, only the service config retries, so that a wrong address fails at once; after a lost
 * connection, there is one new call.
 */
export abstract class ResumedStream<Answer> {
  readonly #context: StreamContext;
  #call: AnswerStream<Answer> | undefined;

  constructor(context: StreamContext) {
    this.#context = context;
  }

  /** Whether an answer has arrived. */
  protected abstract get hasBegun(): boolean;

  /** Whether every answer has arrived, so that a later error does not matter. */
  protected abstract get isComplete(): boolean;

  /**
   * Starts a call for what is missing.
   *
   * @param timeoutMs how long the connection may take; Infinity for no limit
   */
  protected abstract open(timeoutMs: number): Promise<AnswerStream<Answer>>;

  /**
   * Counts the next answer.
   *
   * @throws ServerError if it is not the next one
   */
  protected abstract accept(answer: Answer): void;

  /** Throws if the stream ended too early. */
  protected abstract checkEnd(): void;

  /** Resolves when an answer is due. The time for the answer begins then. */
  protected async waitUntilDue(): Promise<void> {}

  /** Returns the error to throw for one that no new call can help. */
  protected explain(error: Error): Error {
    return error;
  }

  /** Cancels the active call. */
  protected cancel(): void {
    this.#call?.cancel();
    this.#call = undefined;
  }

  /** Yields the answers in order. */
  async *answers(): AsyncGenerator<Answer, void, undefined> {
    const stopListening = onAbort(this.#context.signals, () => this.cancel());
    try {
      for (let answer = await this.#next(); answer !== undefined; answer = await this.#next()) {
        yield answer;
      }
    } finally {
      stopListening();
      this.cancel();
    }
  }

  /** Returns the next answer, with as many calls as the deadline allows; undefined at the end. */
  async #next(): Promise<Answer | undefined> {
    this.#checkSignals();
    await this.waitUntilDue();
    const { timeoutMs } = this.#context;
    const deadline = timeoutMs === undefined ? Infinity : performance.now() + timeoutMs;
    const answer = await this.#readResumed(deadline);
    if (answer === undefined) {
      this.checkEnd();
    }
    return answer;
  }

  async #readResumed(deadline: number): Promise<Answer | undefined> {
    let failure: ImagemintError | undefined;
    for (let failures = 1; ; failures += 1) {
      try {
        return await this.#read(deadline, failure);
      } catch (error) {
        this.cancel();
        const latest = this.#context.translate(error);
        if (this.#isAborted || !isTransient(latest)) {
          throw this.explain(latest);
        }
        failure = latest;
        if (this.isComplete) {
          return undefined;
        }
        await this.#backOff(failures, failure, deadline);
      }
    }
  }

  /** Waits before the next call, or throws `failure` if there is to be none. */
  async #backOff(failures: number, failure: ImagemintError, deadline: number): Promise<void> {
    const askedMs = failure.retryDelayMs ?? 0;
    const leftMs = deadline - performance.now();
    const isFinal = !this.hasBegun && !mayRepeat(failure, failures);
    if (isFinal || leftMs <= 0 || askedMs > leftMs) {
      throw failure;
    }
    // The delay doubles with each failure. Jitter prevents many clients from retrying at once.
    const ownMs = Math.min(FIRST_DELAY_MS * 2 ** (failures - 1), LONGEST_DELAY_MS);
    const waitMs = Math.max(ownMs, askedMs) + ownMs * Math.random() * 0.25;
    await sleep(Math.min(waitMs, leftMs), this.#context.signals);
  }

  /** Reads the next answer of the active call or of a new one; `failure` is what ended the last. */
  async #read(
    deadline: number,
    failure: ImagemintError | undefined,
  ): Promise<Answer | undefined> {
    this.#checkSignals();
    const leftMs = () => Math.max(deadline - performance.now(), 0);
    this.#call ??= await this.open(leftMs());
    this.#checkSignals(); // nobody cancels a call that is not yet open
    const { server, timeoutMs } = this.#context;
    // An abort cancels the call, which then ends by itself.
    const patience = { timeoutMs: leftMs(), signals: [] };
    const answer = await waitFor(this.#call.next(), patience, () => {
      const text = `no answer from ${server} within ${timeoutMs} ms`;
      return failure ?? new DeadlineExceeded(text, { reason: "CHUNK_OVERDUE" });
    });
    if (answer !== undefined) {
      this.accept(answer);
    }
    return answer;
  }

  #checkSignals(): void {
    if (this.#isAborted) {
      const aborted = new Cancelled("the stream was aborted by its signal", { reason: "ABORTED" });
      throw this.#context.translate(aborted);
    }
  }

  get #isAborted(): boolean {
    return this.#context.signals.some((each) => each.aborted);
  }
}

/** Throws unless a batch of a stream has the bundle and variant of the first one. */
export function checkOrigin(batch: Maker, first: Maker): void {
  const isSameBundle = batch.bundleSha256 === first.bundleSha256;
  const isSameVariant = batch.variant === first.variant;
  // Servers that are older than variants do not send one.
  if (isSameBundle && (isSameVariant || batch.variant === "" || first.variant === "")) {
    return;
  }
  const what = isSameBundle ? "VARIANT" : "BUNDLE";
  throw new ServerError(
    `${batch.model}@${batch.version} changed under the stream: ` +
      `${first.bundleSha256.slice(0, 12)}+${first.variant} became ` +
      `${batch.bundleSha256.slice(0, 12)}+${batch.variant}`,
    { reason: `${what}_CHANGED` },
  );
}

function isTransient(error: Error): error is ImagemintError {
  const kinds = [Unavailable, QueueFull, Cancelled];
  return kinds.some((kind) => error instanceof kind) && !(error instanceof ClientClosed);
}
