/** A stream of chunks that resumes after failures: each index arrives exactly once. */

import { onAbort, sleep } from "./cancellation.js";
import type { ServerStream } from "./calls.js";
import {
  Cancelled,
  ClientClosed,
  DeadlineExceeded,
  ImagemintError,
  QueueFull,
  ServerError,
  Unavailable,
} from "./errors.js";
import type {
  StreamGenerateRequest,
  StreamGenerateResponse,
} from "./gen/imagemint/v1/generation_service_pb.js";
import type { ImageBatch } from "./gen/imagemint/v1/image_pb.js";
import { remaining } from "./requests.js";

const FIRST_DELAY_MS = 100;
const LONGEST_DELAY_MS = 2_000;

/** How a stream reaches the server. */
export interface StreamSource {
  /** Server or servers, for messages. */
  readonly server: string;
  /** Starts the call for a request. */
  open(request: StreamGenerateRequest): Promise<ServerStream<StreamGenerateResponse>>;
  /** Translates an error of gRPC. */
  translate(error: unknown): Error;
}

/** Limits of a stream. */
export interface StreamLimits {
  /** Longest time for one chunk, with all new calls and delays; undefined for no limit. */
  readonly timeoutMs: number | undefined;
  /** Each ends the stream when it is aborted. */
  readonly signals: readonly AbortSignal[];
}

/**
 * Yields the chunks of `request` in order of index, with as many calls as necessary.
 *
 * The first chunk fixes version and seed. After it, UNAVAILABLE, RESOURCE_EXHAUSTED or a server's
 * CANCELLED lead to new calls from the next index on, until a chunk arrives or `timeoutMs` has
 * passed. Before the first chunk, only the service config retries, so that a wrong address fails at
 * once. Each chunk is read when the consumer asks for it, with one chunk ahead.
 */
export async function* resumeStream(
  source: StreamSource,
  request: StreamGenerateRequest,
  limits: StreamLimits,
): AsyncGenerator<StreamGenerateResponse, void, undefined> {
  const stream = new ResumedStream(source, request, limits);
  const stopListening = onAbort(limits.signals, () => stream.cancel());
  try {
    for (let chunk = await stream.next(); chunk !== undefined; chunk = await stream.next()) {
      yield chunk;
    }
  } finally {
    stopListening();
    stream.cancel();
  }
}

class ResumedStream {
  readonly #source: StreamSource;
  readonly #request: StreamGenerateRequest;
  readonly #limits: StreamLimits;
  #call: ServerStream<StreamGenerateResponse> | undefined;
  #first: ImageBatch | undefined;
  #done = 0;

  constructor(source: StreamSource, request: StreamGenerateRequest, limits: StreamLimits) {
    this.#source = source;
    this.#request = request;
    this.#limits = limits;
  }

  cancel(): void {
    this.#call?.cancel();
    this.#call = undefined;
  }

  /** Returns the next chunk, with as many calls as the deadline allows; undefined at the end. */
  async next(): Promise<StreamGenerateResponse | undefined> {
    const { timeoutMs, signals } = this.#limits;
    const deadline = timeoutMs === undefined ? Infinity : performance.now() + timeoutMs;
    let failure: ImagemintError | undefined;
    for (let failures = 1; ; failures += 1) {
      try {
        return await this.#read(deadline, failure);
      } catch (error) {
        this.cancel();
        const latest = this.#source.translate(error);
        if (!isTransient(latest) || signals.some((each) => each.aborted)) {
          throw latest;
        }
        failure = latest;
        if (BigInt(this.#done) >= this.#wanted.count) {
          return undefined; // everything has arrived, so the error does not matter
        }
        const leftMs = deadline - performance.now();
        const waitMs = backoffMs(failures, failure.retryDelayMs);
        if (this.#first === undefined || leftMs <= 0 || (failure.retryDelayMs ?? 0) > leftMs) {
          throw failure;
        }
        await sleep(Math.min(waitMs, leftMs), signals);
      }
    }
  }

  get #wanted() {
    return this.#request.images!;
  }

  /** Reads the next chunk of the active call or of a new one; `failure` is what ended the last. */
  async #read(
    deadline: number,
    failure: ImagemintError | undefined,
  ): Promise<StreamGenerateResponse | undefined> {
    if (this.#limits.signals.some((each) => each.aborted)) {
      throw new Cancelled("the stream was aborted by its signal", { reason: "ABORTED" });
    }
    this.#call ??= await this.#source.open(this.#pending());
    const chunk = await this.#withDeadline(this.#call.next(), deadline, failure);
    if (chunk === undefined) {
      this.#checkEnd();
      return undefined;
    }
    this.#check(chunk.batch!);
    this.#first ??= chunk.batch!;
    this.#done += chunk.batch!.images.length;
    return chunk;
  }

  async #withDeadline<T>(
    answer: Promise<T>,
    deadline: number,
    failure: ImagemintError | undefined,
  ): Promise<T> {
    if (deadline === Infinity) {
      return answer;
    }
    let timer: NodeJS.Timeout | undefined;
    const overdue = new Promise<never>((_, reject) => {
      const text = `no chunk from ${this.#source.server} within ${this.#limits.timeoutMs} ms`;
      const error = failure ?? new DeadlineExceeded(text, { reason: "CHUNK_OVERDUE" });
      timer = setTimeout(reject, Math.max(deadline - performance.now(), 0), error);
    });
    answer.catch(() => {}); // has no other reader if the deadline passes first
    try {
      return await Promise.race([answer, overdue]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Returns the request for the missing images, with version and seed of the first chunk. */
  #pending(): StreamGenerateRequest {
    if (this.#first === undefined) {
      return this.#request;
    }
    const images = remaining(this.#wanted, this.#done);
    images.version = this.#first.version;
    if (this.#first.seed !== undefined) {
      images.source = { case: "seed", value: this.#first.seed };
    }
    return { ...this.#request, images };
  }

  #checkEnd(): void {
    if (BigInt(this.#done) < this.#wanted.count) {
      throw new ServerError(
        `the stream ended after ${this.#done} of ${this.#wanted.count} images`,
        { reason: "STREAM_TRUNCATED" },
      );
    }
  }

  /** Checks that `batch` has the next indices, from the same bundle and variant. */
  #check(batch: ImageBatch): void {
    const first = this.#first ?? batch;
    const next = this.#wanted.firstIndex + BigInt(this.#done);
    const got = batch.images[0]?.index;
    if (got !== next) {
      throw new ServerError(`expected index ${next}, got ${got ?? "none"}`, {
        reason: "STREAM_GAP",
      });
    }
    if (batch.bundleSha256 !== first.bundleSha256 || batch.variant !== first.variant) {
      const what = batch.bundleSha256 === first.bundleSha256 ? "VARIANT" : "BUNDLE";
      throw new ServerError(
        `${batch.model}@${batch.version} changed under the stream: ` +
          `${first.bundleSha256.slice(0, 12)}+${first.variant} became ` +
          `${batch.bundleSha256.slice(0, 12)}+${batch.variant}`,
        { reason: `${what}_CHANGED` },
      );
    }
  }
}

function isTransient(error: Error): error is ImagemintError {
  const kinds = [Unavailable, QueueFull, Cancelled];
  return kinds.some((kind) => error instanceof kind) && !(error instanceof ClientClosed);
}

/** Returns a delay that doubles with each failure, with jitter, and is at least what is asked. */
function backoffMs(failures: number, askedMs: number | undefined): number {
  const ownMs = Math.min(FIRST_DELAY_MS * 2 ** (failures - 1), LONGEST_DELAY_MS);
  return Math.max(ownMs, askedMs ?? 0) + ownMs * Math.random() * 0.25;
}
