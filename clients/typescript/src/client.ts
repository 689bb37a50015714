/** The client of an imagemint server. */

import { setMaxListeners } from "node:events";

import { create } from "@bufbuild/protobuf";
import { Metadata, type Client as Connection } from "@grpc/grpc-js";

import { onAbort } from "./cancellation.js";
import { callUnary, ServerStream, type CallContext } from "./calls.js";
import { openConnection, parseTargets } from "./channel.js";
import { Cancelled, ClientClosed, isServiceError, translateError } from "./errors.js";
import {
  GenerationService,
  type GenerateRequest,
  type GenerateResponse,
  type InterpolateRequest,
  type InterpolateResponse,
  type StreamGenerateRequest,
} from "./gen/imagemint/v1/generation_service_pb.js";
import {
  ImageLayout,
  type ImageBatch as WireBatch,
  type Timing as WireTiming,
} from "./gen/imagemint/v1/image_pb.js";
import {
  GetModelRequestSchema,
  ListModelsRequestSchema,
  ModelService,
  type Model,
} from "./gen/imagemint/v1/model_service_pb.js";
import { TranslationService } from "./gen/imagemint/v1/translation_service_pb.js";
import {
  joinBatches,
  parseImageBatch,
  parsePictures,
  type EncodedPicture,
  type ImageBatch,
} from "./images.js";
import {
  animationSpec,
  generateRequest,
  interpolateRequest,
  streamRequest,
} from "./messages.js";
import type {
  AnimateOptions,
  CallSettings,
  ClientOptions,
  GenerateOptions,
  InterpolateOptions,
  StreamOptions,
} from "./options.js";
import { smallNumber } from "./numbers.js";
import { outputSpec, type Encoding } from "./requests.js";
import { cutIntoRuns, runSelection } from "./runs.js";
import { resumeStream } from "./streams.js";
import {
  parseTranslations,
  translateRequest,
  type Source,
  type TranslateOptions,
} from "./translation.js";

// Calls of one mint() at the same time: enough to fill a batch, and few enough for the queue.
const CALLS_AT_ONCE = 16;

/**
 * A client of an imagemint server. It throws the errors of this package, and no gRPC errors. If the
 * server is unavailable or its queue is full, calls are retried as the service config specifies.
 */
export class Client {
  readonly #targets: readonly string[];
  readonly #options: ClientOptions;
  readonly #closed = new AbortController();
  #connection: Promise<Connection> | undefined;

  /**
   * @param target "host:port", or several of them, comma-separated or in an array: calls then go to
   *   each in turn. `unix:PATH` works too.
   * @throws TypeError if `target` names no server
   */
  constructor(target: string | readonly string[], options: ClientOptions = {}) {
    this.#targets = parseTargets(target);
    this.#options = options;
    setMaxListeners(0, this.#closed.signal); // one for each active call
  }

  /** Closes the connection. Active calls throw ClientClosed. You may close twice. */
  close(): void {
    this.#closed.abort();
    this.#connection?.then((opened) => opened.close()).catch(() => {});
    this.#connection = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Returns all models of the server, sorted by name. */
  async models(settings: CallSettings = {}): Promise<Model[]> {
    const found: Model[] = [];
    for (let pageToken = ""; ; ) {
      const request = create(ListModelsRequestSchema, { pageToken });
      const answer = await this.#unary(settings, (context, deadline, signals) =>
        callUnary(context, ModelService.method.listModels, request, deadline, signals),
      );
      found.push(...answer.models);
      pageToken = answer.nextPageToken;
      if (pageToken === "") {
        return found;
      }
    }
  }

  /**
   * Returns one model.
   *
   * @throws NotFound if there is no model of this name
   */
  async model(name: string, settings: CallSettings = {}): Promise<Model> {
    const request = create(GetModelRequestSchema, { model: name });
    const answer = await this.#unary(settings, (context, deadline, signals) =>
      callUnary(context, ModelService.method.getModel, request, deadline, signals),
    );
    return answer.model!;
  }

  /** Returns images as pixels, in one answer. */
  async generate(model: string, options: GenerateOptions = {}): Promise<ImageBatch> {
    const answer = await this.#generate(generateRequest(model, options), options);
    return parseImageBatch(answer.batch!, answer.timing);
  }

  /** Returns images as files that contain their serials, in one answer. */
  async encoded(
    model: string,
    options: GenerateOptions & Encoding = {},
  ): Promise<EncodedPicture[]> {
    const request = generateRequest(model, options);
    request.output = outputSpec(options);
    const answer = await this.#generate(request, options);
    return parsePictures(answer.batch!, answer.timing);
  }

  /**
   * Returns the translations of sources as files that contain their serials, in order, in one
   * answer. Source number i has the index firstIndex + i.
   *
   * @throws InvalidRequest if a source cannot be decoded or does not fit
   * @throws FailedPrecondition if the model takes no source
   */
  async translate(
    model: string,
    sources: readonly Source[],
    options: TranslateOptions = {},
  ): Promise<EncodedPicture[]> {
    const request = translateRequest(model, sources, options);
    const answer = await this.#unary(options, (context, deadline, signals) =>
      callUnary(context, TranslationService.method.translate, request, deadline, signals),
    );
    return parseTranslations(answer);
  }

  /** Returns one picture that shows `count` images, row by row; `columns` in each row. */
  async sheet(
    model: string,
    options: GenerateOptions & Encoding & { columns?: number | undefined },
  ): Promise<EncodedPicture> {
    const request = generateRequest(model, options);
    request.output = outputSpec(options);
    request.layout = ImageLayout.SHEET;
    if (options.columns !== undefined) {
      request.columns = smallNumber("columns", options.columns);
    }
    const answer = await this.#generate(request, options);
    return parsePictures(answer.batch!, answer.timing)[0]!;
  }

  /**
   * Returns the images of serial numbers, always with the same pixels, in the order of `serials`.
   *
   * @param serials one or more of one model, version and variant, in any order
   * @throws FailedPrecondition if the server runs another variant
   */
  async mint(
    serials: string | readonly string[],
    settings: CallSettings = {},
  ): Promise<ImageBatch> {
    const texts = typeof serials === "string" ? [serials] : serials;
    const runs = cutIntoRuns(texts, async (model) =>
      texts.length === 1 ? 1 : (await this.model(model, settings)).limits!.maxImagesPerRequest,
    );
    const batches: ImageBatch[] = [];
    const waiting = [...(await runs).entries()];
    const work = async (): Promise<void> => {
      for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
        const [at, run] = next;
        batches[at] = await this.generate(run.first.model, { ...settings, ...runSelection(run) });
      }
    };
    await Promise.all(Array.from({ length: CALLS_AT_ONCE }, work));
    return joinBatches(batches, (await runs).flatMap((run) => run.positions));
  }

  /**
   * Streams any number of images as pixels, in chunks, each index exactly once.
   *
   * If the server goes away or is too busy, the stream resumes from the next index with the same
   * seed and version. If you leave the loop early, the server stops the work.
   */
  stream(model: string, options: StreamOptions): AsyncGenerator<ImageBatch, void, undefined> {
    return this.#stream(streamRequest(model, options), options, parseImageBatch);
  }

  /** Streams any number of images as files that contain their serials, in chunks. */
  streamEncoded(
    model: string,
    options: StreamOptions & Encoding,
  ): AsyncGenerator<EncodedPicture[], void, undefined> {
    const request = streamRequest(model, options);
    request.output = outputSpec(options);
    return this.#stream(request, options, parsePictures);
  }

  /**
   * Streams the images on the path through the latents of serial numbers, in chunks. The first and
   * the last frame have the pixels of the first and the last serial number.
   *
   * @param serials 2 to 64 of one model, version and variant
   */
  async *interpolate(
    serials: readonly string[],
    options: InterpolateOptions = {},
  ): AsyncGenerator<ImageBatch, void, undefined> {
    for await (const chunk of this.#walk(interpolateRequest(serials, options), options)) {
      yield parseImageBatch(chunk.batch!, chunk.timing);
    }
  }

  /** Returns the path of interpolate() as one animated picture. */
  async animate(serials: readonly string[], options: AnimateOptions = {}): Promise<Uint8Array> {
    const request = interpolateRequest(serials, options);
    request.animation = animationSpec(options);
    const parts: Uint8Array[] = [];
    for await (const chunk of this.#walk(request, options)) {
      parts.push(chunk.animation);
    }
    return Buffer.concat(parts);
  }

  async *#walk(
    request: InterpolateRequest,
    settings: CallSettings,
  ): AsyncGenerator<InterpolateResponse, void, undefined> {
    const method = GenerationService.method.interpolate;
    const deadline = this.#deadline(settings);
    const call = ServerStream.open(await this.#open(), method, request, deadline);
    const stopListening = onAbort(this.#signals(settings), () => call.cancel());
    try {
      for (let next = await call.next(); next !== undefined; next = await call.next()) {
        yield next;
      }
    } catch (error) {
      throw this.#translate(error, settings.signal);
    } finally {
      stopListening();
      call.cancel();
    }
  }

  async *#stream<Item>(
    request: StreamGenerateRequest,
    settings: CallSettings,
    parse: (batch: WireBatch, timing: WireTiming | undefined) => Item,
  ): AsyncGenerator<Item, void, undefined> {
    const source = {
      server: this.#server,
      open: async (pending: StreamGenerateRequest) =>
        ServerStream.open(await this.#open(), GenerationService.method.streamGenerate, pending),
      translate: (error: unknown) => this.#translate(error, settings.signal),
    };
    const limits = { timeoutMs: this.#timeoutMs(settings), signals: this.#signals(settings) };
    for await (const chunk of resumeStream(source, request, limits)) {
      yield parse(chunk.batch!, chunk.timing);
    }
  }

  #generate(request: GenerateRequest, settings: CallSettings): Promise<GenerateResponse> {
    return this.#unary(settings, (context, deadline, signals) =>
      callUnary(context, GenerationService.method.generate, request, deadline, signals),
    );
  }

  async #unary<Answer>(
    settings: CallSettings,
    call: (
      context: CallContext,
      deadline: Date | undefined,
      signals: readonly AbortSignal[],
    ) => Promise<Answer>,
  ): Promise<Answer> {
    const deadline = this.#deadline(settings);
    try {
      return await call(await this.#open(), deadline, this.#signals(settings));
    } catch (error) {
      throw this.#translate(error, settings.signal);
    }
  }

  async #open(): Promise<CallContext> {
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

  #translate(error: unknown, signal: AbortSignal | undefined): Error {
    if (this.#closed.signal.aborted) {
      return new ClientClosed();
    }
    if (signal?.aborted) {
      return new Cancelled("the call was aborted by its signal", { reason: "ABORTED" });
    }
    return isServiceError(error) ? translateError(error, this.#server) : (error as Error);
  }

  #signals({ signal }: CallSettings): readonly AbortSignal[] {
    return signal === undefined ? [this.#closed.signal] : [this.#closed.signal, signal];
  }

  #timeoutMs(settings: CallSettings): number | undefined {
    const { timeoutMs = this.#options.timeoutMs } = settings;
    return timeoutMs === undefined ? 30_000 : (timeoutMs ?? undefined);
  }

  #deadline(settings: CallSettings): Date | undefined {
    const timeoutMs = this.#timeoutMs(settings);
    return timeoutMs === undefined ? undefined : new Date(Date.now() + timeoutMs);
  }

  get #server(): string {
    return this.#targets.join(", ");
  }
}
