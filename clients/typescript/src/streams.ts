/** A stream of generated images that resumes after failures: each index arrives exactly once. */

import type { ServerStream } from "./calls.js";
import { ServerError } from "./errors.js";
import type {
  StreamGenerateRequest,
  StreamGenerateResponse,
} from "./gen/imagemint/v1/generation_service_pb.js";
import type { ImageBatch } from "./gen/imagemint/v1/image_pb.js";
import { remaining } from "./requests.js";
import { checkOrigin, ResumedStream, type StreamContext } from "./resuming.js";

type Open = (
  request: StreamGenerateRequest,
  timeoutMs: number,
) => Promise<ServerStream<StreamGenerateResponse>>;

/**
 * The chunks of a request, in order of index. The first chunk fixes version and seed. Each chunk is
 * read when the consumer asks for it, with one chunk ahead.
 */
export class ImageStream extends ResumedStream<StreamGenerateResponse> {
  readonly #open: Open;
  readonly #request: StreamGenerateRequest;
  #first: ImageBatch | undefined;
  #done = 0;

  constructor(context: StreamContext, open: Open, request: StreamGenerateRequest) {
    super(context);
    this.#open = open;
    this.#request = request;
  }

  get #wanted() {
    return this.#request.images!;
  }

  protected get hasBegun(): boolean {
    return this.#first !== undefined;
  }

  protected get isComplete(): boolean {
    return BigInt(this.#done) >= this.#wanted.count;
  }

  /** Starts a call for the missing images, with version and seed of the first chunk. */
  protected open(timeoutMs: number): Promise<ServerStream<StreamGenerateResponse>> {
    if (this.#first === undefined) {
      return this.#open(this.#request, timeoutMs);
    }
    const images = remaining(this.#wanted, this.#done);
    images.version = this.#first.version;
    if (this.#first.seed !== undefined) {
      images.source = { case: "seed", value: this.#first.seed };
    }
    return this.#open({ ...this.#request, images }, timeoutMs);
  }

  /** Checks that a chunk has the next indices, from the same bundle and variant. */
  protected accept({ batch }: StreamGenerateResponse): void {
    const next = this.#wanted.firstIndex + BigInt(this.#done);
    const got = batch!.images[0]?.index;
    if (got !== next) {
      throw new ServerError(`expected index ${next}, got ${got ?? "none"}`, {
        reason: "STREAM_GAP",
      });
    }
    this.#first ??= batch!;
    checkOrigin(batch!, this.#first);
    this.#done += batch!.images.length;
  }

  protected checkEnd(): void {
    if (!this.isComplete) {
      throw new ServerError(
        `the stream ended after ${this.#done} of ${this.#wanted.count} images`,
        { reason: "STREAM_TRUNCATED" },
      );
    }
  }
}
