/** The client of an imagemint server. */

import { setMaxListeners } from "node:events";

import { create } from "@bufbuild/protobuf";

import { checkArray, checkText } from "./arguments.js";
import { onAbort } from "./cancellation.js";
import { DuplexStream, ServerStream } from "./calls.js";
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
import {
  TranslationService,
  type StreamTranslateRequest,
} from "./gen/imagemint/v1/translation_service_pb.js";
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
import { mayRepeat } from "./errors.js";
import { smallNumber } from "./numbers.js";
import { outputSpec, type Encoding } from "./requests.js";
import { cutIntoRuns, runSelection } from "./runs.js";
import { msUntil, Session } from "./session.js";
import { ImageStream } from "./streams.js";
import {
  parseTranslations,
  readSources,
  translateRequest,
  translateStreamRequest,
  type Source,
  type TranslateOptions,
  type TranslateStreamOptions,
} from "./translation.js";
import { TranslationStream } from "./translation-stream.js";

// Calls of one mint() at the same time: enough to fill a batch, and few enough for the queue.
const CALLS_AT_ONCE = 16;

/**
 * A client of an imagemint server. It throws the errors of this package, and no gRPC errors. If the
 * server is unavailable or its queue is full, calls are retried as the service config specifies.
 */
export class Client {
  readonly #session: Session;

  /**
   * @param target "host:port", or several of them, comma-separated or in an array: calls then go to
   *   each in turn. `unix:PATH` works too.
   * @throws TypeError if `target` names no server, or gRPC cannot send the metadata or the key
   */
  constructor(target: string | readonly string[], options: ClientOptions = {}) {
    this.#session = new Session(target, options);
  }

  /** Closes the connection. Active calls throw ClientClosed. You may close twice. */
  close(): void {
    this.#session.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Returns all models of the server, sorted by name. */
  async models(settings: CallSettings = {}): Promise<Model[]> {
    const found: Model[] = [];
    for (let pageToken = ""; ; ) {
      const request = create(ListModelsRequestSchema, { pageToken });
      const answer = await this.#session.call(ModelService.method.listModels, request, settings);
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
    const request = create(GetModelRequestSchema, { model: checkText("name", name) });
    const answer = await this.#session.call(ModelService.method.getModel, request, settings);
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
    const { translate } = TranslationService.method;
    return parseTranslations(await this.#session.call(translate, request, options));
  }

  /**
   * Streams the translations of any number of sources as files that contain their serials, in
   * order, each source exactly once.
   *
   * Up to 16 sources and 4 MB are read and sent ahead of your loop. If the server goes away or is
   * too busy, the stream resumes with the sources that are not answered, with the same seed and
   * version. If you leave the loop early, the server stops the work, and `sources` is closed.
   *
   * @param sources read when they are needed; what they throw is thrown after the results of the
   *   sources before
   * @throws InvalidRequest as translate(), after the results of the sources before; it names the
   *   source by its number in the whole stream
   */
  translateStream(
    model: string,
    sources: Iterable<Source> | AsyncIterable<Source>,
    options: TranslateStreamOptions = {},
  ): AsyncGenerator<EncodedPicture, void, undefined> {
    return this.#translateStream(translateStreamRequest(model, options), sources, options);
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
   * @throws InvalidRequest if one is that of a translation, which translate() makes again
   * @throws FailedPrecondition if the server runs another variant
   */
  async mint(
    serials: string | readonly string[],
    settings: CallSettings = {},
  ): Promise<ImageBatch> {
    const texts = typeof serials === "string" ? [serials] : checkArray("serial", serials);
    const outer = this.#session.signals(settings);
    const runs = await cutIntoRuns(texts, async (model) =>
      texts.length === 1 ? 1 : (await this.model(model, settings)).limits!.maxImagesPerRequest,
    );
    const batches: ImageBatch[] = [];
    const waiting = [...runs.entries()];
    const failure = new AbortController(); // the first one ends the other calls
    const { signal } = failure;
    setMaxListeners(0, signal); // one for each call
    const work = async (): Promise<void> => {
      for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
        const [at, run] = next;
        const options = { ...settings, signal, ...runSelection(run) };
        batches[at] = await this.generate(run.first.model, options);
      }
    };
    const stopListening = onAbort(outer, () => failure.abort(settings.signal?.reason));
    try {
      await Promise.all(Array.from({ length: CALLS_AT_ONCE }, work));
    } catch (error) {
      waiting.length = 0;
      failure.abort();
      throw error;
    } finally {
      stopListening();
    }
    return joinBatches(batches, runs.flatMap((run) => run.positions));
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
  interpolate(
    serials: readonly string[],
    options: InterpolateOptions = {},
  ): AsyncGenerator<ImageBatch, void, undefined> {
    return this.#frames(interpolateRequest(serials, options), options);
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

  async *#frames(
    request: InterpolateRequest,
    settings: CallSettings,
  ): AsyncGenerator<ImageBatch, void, undefined> {
    for await (const chunk of this.#walk(request, settings)) {
      yield parseImageBatch(chunk.batch!, chunk.timing);
    }
  }

  async *#walk(
    request: InterpolateRequest,
    settings: CallSettings,
  ): AsyncGenerator<InterpolateResponse, void, undefined> {
    const method = GenerationService.method.interpolate;
    const deadline = this.#session.deadline(settings);
    const signals = this.#session.signals(settings);
    let hasBegun = false;
    for (let failures = 1; ; failures += 1) {
      const opened = await this.#session.open(settings, msUntil(deadline));
      const call = ServerStream.open(opened, method, request, deadline);
      const stopListening = onAbort(signals, () => call.cancel());
      try {
        for (let next = await call.next(); next !== undefined; next = await call.next()) {
          hasBegun = true;
          yield next;
        }
        return;
      } catch (error) {
        const failure = this.#session.translate(error, settings.signal);
        if (hasBegun || !mayRepeat(failure, failures)) {
          throw failure;
        }
      } finally {
        stopListening();
        call.cancel();
      }
    }
  }

  async *#stream<Item>(
    request: StreamGenerateRequest,
    settings: CallSettings,
    parse: (batch: WireBatch, timing: WireTiming | undefined) => Item,
  ): AsyncGenerator<Item, void, undefined> {
    const { streamGenerate } = GenerationService.method;
    const open = async (pending: StreamGenerateRequest, timeoutMs: number) =>
      ServerStream.open(await this.#session.open(settings, timeoutMs), streamGenerate, pending);
    const stream = new ImageStream(this.#session.streamContext(settings), open, request);
    for await (const chunk of stream.answers()) {
      yield parse(chunk.batch!, chunk.timing);
    }
  }

  async *#translateStream(
    request: StreamTranslateRequest,
    sources: Iterable<Source> | AsyncIterable<Source>,
    settings: CallSettings,
  ): AsyncGenerator<EncodedPicture, void, undefined> {
    const { streamTranslate } = TranslationService.method;
    const open = async (timeoutMs: number) =>
      DuplexStream.open(await this.#session.open(settings, timeoutMs), streamTranslate);
    const context = this.#session.streamContext(settings);
    const stream = new TranslationStream(context, open, request, readSources(sources));
    for await (const answer of stream.answers()) {
      yield* parseTranslations(answer);
    }
  }

  #generate(request: GenerateRequest, settings: CallSettings): Promise<GenerateResponse> {
    return this.#session.call(GenerationService.method.generate, request, settings);
  }
}
