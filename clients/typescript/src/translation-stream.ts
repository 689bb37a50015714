/** A stream of translations that resumes after failures: each source is answered exactly once. */

import { create } from "@bufbuild/protobuf";
import { status as Code } from "@grpc/grpc-js";

import type { DuplexStream } from "./calls.js";
import { InvalidRequest, ServerError } from "./errors.js";
import {
  StreamTranslateRequestSchema,
  type Source,
  type StreamTranslateRequest,
  type StreamTranslateResponse,
  type TranslationBatch,
} from "./gen/imagemint/v1/translation_service_pb.js";
import { checkOrigin, ResumedStream, type StreamContext } from "./resuming.js";
import { sizeOf } from "./translation.js";

// Sources that are read and not yet answered: enough to fill the batches of the server, and no more
// bytes than it reads ahead. A call of grpc-js buffers 16 answers. It would drop further ones when an
// error arrives, and then the wrong source would not be known.
const AHEAD = 16;
const AHEAD_BYTES = 4 * 2 ** 20;

type Duplex = DuplexStream<StreamTranslateRequest, StreamTranslateResponse>;

/**
 * Sources that are translated by as many calls of StreamTranslate as necessary.
 *
 * Sources are read and sent in the background, one in a message, a few ahead of their answers. A
 * new call sends the unanswered sources again, with the version of the first answer.
 */
export class TranslationStream extends ResumedStream<StreamTranslateResponse> {
  readonly #open: (timeoutMs: number) => Promise<Duplex>;
  readonly #options: StreamTranslateRequest;
  readonly #sources: AsyncGenerator<Source, void, undefined>;
  readonly #unanswered: Source[] = [];
  #duplex: Duplex | undefined; // while there is something to send
  #sent = 0; // of #unanswered, in the active call
  #done = 0;
  #first: TranslationBatch | undefined;
  #reading: Promise<void> | undefined;
  #isExhausted = false;
  #failure: { readonly error: unknown } | undefined;
  #wake: () => void = () => {};

  /**
   * @param open starts a call, to which nothing is sent yet
   * @param options the first message; its seed is set
   * @param sources read when they are needed; their error is thrown after the answers before it
   */
  constructor(
    context: StreamContext,
    open: (timeoutMs: number) => Promise<Duplex>,
    options: StreamTranslateRequest,
    sources: AsyncGenerator<Source, void, undefined>,
  ) {
    super(context);
    this.#open = open;
    this.#options = options;
    this.#sources = sources;
  }

  /** Yields the answers in order, and then closes the sources. */
  override async *answers(): AsyncGenerator<StreamTranslateResponse, void, undefined> {
    let hasFailed = false;
    try {
      yield* super.answers();
    } catch (error) {
      hasFailed = true;
      throw error;
    } finally {
      const closed = this.#sources.return();
      if (this.#reading !== undefined) {
        closed.catch(() => {}); // closes after the pending read, which may take forever
      } else {
        await (hasFailed ? closed.catch(() => {}) : closed); // the first error is the one to know
      }
    }
  }

  protected get hasBegun(): boolean {
    return this.#first !== undefined;
  }

  protected get isComplete(): boolean {
    return this.#isExhausted && this.#unanswered.length === 0 && this.#failure === undefined;
  }

  /** Waits until a source is there, or all are read. A slow source is no fault of the server. */
  protected override async waitUntilDue(): Promise<void> {
    this.#read();
    if (this.#unanswered.length === 0 && this.#reading !== undefined) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  protected async open(timeoutMs: number): Promise<Duplex> {
    const call = await this.#open(timeoutMs);
    call.write(this.#begin());
    this.#duplex = call;
    this.#sent = 0;
    this.#send();
    return call;
  }

  protected override cancel(): void {
    super.cancel();
    this.#duplex = undefined;
    this.#wake();
  }

  protected accept({ batch }: StreamTranslateResponse): void {
    const expected = Math.min(this.#sent, 1);
    if (batch!.translations.length !== expected) {
      const text = `expected ${expected} translations, got ${batch!.translations.length}`;
      throw new ServerError(text, { reason: "STREAM_GAP" });
    }
    this.#first ??= batch!;
    checkOrigin(batch!, this.#first);
    this.#unanswered.shift();
    this.#sent -= 1;
    this.#done += 1;
    this.#send();
    this.#read();
  }

  protected checkEnd(): void {
    if (this.#unanswered.length > 0 || !this.#isExhausted) {
      const text = `the stream ended after ${this.#done} sources`;
      throw new ServerError(text, { reason: "STREAM_TRUNCATED" });
    }
    if (this.#failure !== undefined) {
      throw this.#failure.error;
    }
  }

  /** Returns an error that names the source by its number in the whole stream. */
  protected override explain(error: Error): Error {
    if (!(error instanceof InvalidRequest)) {
      return error;
    }
    if (error.code === Code.RESOURCE_EXHAUSTED) {
      return this.#nameLargest(error);
    }
    let text = error.message;
    const violations = error.violations.map(({ field, description }) => {
      const moved = field.replace(/^sources\[0\]/, `sources[${this.#done}]`);
      text = text.replace(field, moved);
      return { field: moved, description };
    });
    const { reason, metadata, code, requestId } = error;
    return new InvalidRequest(text, { reason, metadata, code, violations, requestId });
  }

  /**
   * Returns an error about the size of a message with the number of its source. gRPC does not tell
   * which message it was, and each has one source.
   */
  #nameLargest(error: InvalidRequest): InvalidRequest {
    const sizes = this.#unanswered.map(sizeOf);
    if (sizes.length === 0) {
      return error;
    }
    const { message: description, code } = error;
    const field = `sources[${this.#done + sizes.indexOf(Math.max(...sizes))}]`;
    const violations = [{ field, description }];
    return new InvalidRequest(`${field}: ${description}`, { code, violations });
  }

  /** Returns the first message of a call. */
  #begin(): StreamTranslateRequest {
    if (this.#first === undefined) {
      return this.#options;
    }
    const images = { ...this.#options.images!, version: this.#first.version };
    images.firstIndex += BigInt(this.#done);
    return { ...this.#options, images };
  }

  /** Sends what is read and not sent, and the end after the last source. */
  #send(): void {
    if (this.#duplex === undefined) {
      return;
    }
    for (const source of this.#unanswered.slice(this.#sent)) {
      this.#duplex.write(create(StreamTranslateRequestSchema, { sources: [source] }));
      this.#sent += 1;
    }
    if (this.#isExhausted && this.#sent === this.#unanswered.length) {
      this.#duplex.end();
      this.#duplex = undefined;
    }
  }

  /** Reads sources in the background until enough are ahead. */
  #read(): void {
    const bytes = this.#unanswered.reduce((sum, source) => sum + sizeOf(source), 0);
    const hasRoom = this.#unanswered.length < AHEAD && bytes < AHEAD_BYTES;
    if (hasRoom && this.#reading === undefined && !this.#isExhausted) {
      this.#reading = this.#readOne().then(() => {
        this.#reading = undefined;
        this.#send();
        this.#wake();
        this.#read();
      });
    }
  }

  async #readOne(): Promise<void> {
    try {
      const { done, value } = await this.#sources.next();
      if (done) {
        this.#isExhausted = true;
      } else {
        this.#unanswered.push(value);
      }
    } catch (error) {
      this.#failure = { error };
      this.#isExhausted = true;
    }
  }
}
