/** Sources of translations, and the pictures that translate answers with. */

import { randomBytes } from "node:crypto";

import { create } from "@bufbuild/protobuf";

import { checkArray, checkChoice, describe } from "./arguments.js";
import { invalid } from "./errors.js";
import { ImageBatchSchema, ImageLayout } from "./gen/imagemint/v1/image_pb.js";
import {
  SourceFit,
  SourceSchema,
  StreamTranslateRequestSchema,
  TranslateRequestSchema,
  type Source as WireSource,
  type StreamTranslateRequest,
  type StreamTranslateResponse,
  type TranslateRequest,
  type TranslateResponse,
} from "./gen/imagemint/v1/translation_service_pb.js";
import { parsePictures, type EncodedPicture } from "./images.js";
import type { CallSettings } from "./options.js";
import {
  imageSpec,
  outputSpec,
  priorityValue,
  type Condition,
  type Encoding,
  type PerImage,
  type Priority,
  type Selection,
} from "./requests.js";

/** A source of several files, for models of several frames or with a mask. */
export interface SourceFiles {
  /** A PNG, JPEG or WebP for each frame, the oldest first; all of one size. */
  readonly frames: readonly Uint8Array[];
  /** Picture of the same size: white where the source is to be filled. */
  readonly mask?: Uint8Array | undefined;
}

/** A source as pixels. */
export interface SourcePixels {
  /** uint8, row by row, channels last: height * width * channels values. */
  readonly pixels: Uint8Array;
  readonly height: number;
  readonly width: number;
  readonly channels: number;
}

/** A PNG, JPEG or WebP, several of them, or pixels. */
export type Source = Uint8Array | SourceFiles | SourcePixels;

const FITS = {
  refuse: SourceFit.REFUSE,
  crop: SourceFit.CROP,
  pad: SourceFit.PAD,
  stretch: SourceFit.STRETCH,
} as const;

/** What happens to a source of a size that the model does not take. */
export type Fit = keyof typeof FITS;

/** Settings of a call for translations. */
export interface TranslateOptions extends Selection, Encoding, CallSettings {
  /** Default refuse. */
  readonly fit?: Fit | undefined;
  /** Default normal. */
  readonly priority?: Priority | undefined;
}

/** Settings of a stream of translations: those that do not list a value for each source. */
export interface TranslateStreamOptions extends Omit<TranslateOptions, "condition" | "latents"> {
  /** One class or caption for all sources, or classes by index. */
  readonly condition?: Exclude<Condition, PerImage> | undefined;
}

export function translateRequest(
  model: string,
  sources: readonly Source[],
  options: TranslateOptions,
): TranslateRequest {
  return create(TranslateRequestSchema, {
    images: imageSpec(model, checkArray("sources", sources).length, options),
    sources: sources.map(sourceOf),
    ...mannerOf(options),
  });
}

/**
 * Returns the first message of a stream. All its calls have one seed.
 *
 * @throws InvalidRequest if an argument is wrong, or lists a value for each source
 */
export function translateStreamRequest(
  model: string,
  options: TranslateStreamOptions,
): StreamTranslateRequest {
  const { condition, latents }: TranslateOptions = options;
  if (latents !== undefined || (typeof condition === "object" && "perImage" in condition)) {
    throw invalid("options", "latents and perImage need translate(), one call");
  }
  const seed = options.seed ?? randomBytes(8).readBigUInt64BE();
  return create(StreamTranslateRequestSchema, {
    images: imageSpec(model, 0, { ...options, seed }),
    ...mannerOf(options),
  });
}

/** Returns how to translate, as a part of both requests. */
function mannerOf(options: Pick<TranslateOptions, "fit" | "format" | "quality" | "priority">) {
  const fit = checkChoice("fit", options.fit ?? "refuse", FITS);
  return { fit, output: outputSpec(options), priority: priorityValue(options.priority) };
}

/** Yields the messages of sources, each when it is asked for. */
export async function* readSources(
  sources: Iterable<Source> | AsyncIterable<Source>,
): AsyncGenerator<WireSource, void, undefined> {
  for await (const source of sources) {
    yield sourceOf(source);
  }
}

/** Returns the number of bytes of the files or pixels of a source. */
export function sizeOf({ content }: WireSource): number {
  if (content.case !== "encoded") {
    return content.value?.pixels.length ?? 0;
  }
  const { pictures, mask } = content.value;
  return pictures.reduce((sum, each) => sum + each.length, mask.length);
}

function sourceOf(source: Source): WireSource {
  if (source instanceof Uint8Array) {
    return sourceOf({ frames: [source] });
  }
  if (typeof source !== "object" || source === null || !("pixels" in source || "frames" in source)) {
    throw invalid("sources", `${describe(source)} is neither bytes, { frames } nor { pixels }`);
  }
  if ("pixels" in source) {
    const { pixels, ...shape } = source;
    checkBytes(pixels);
    return create(SourceSchema, { content: { case: "raw", value: { pixels, shape } } });
  }
  const { frames, mask = new Uint8Array() } = source;
  const value = { pictures: [...checkArray("sources", frames)], mask };
  [...frames, mask].forEach(checkBytes);
  return create(SourceSchema, { content: { case: "encoded", value } });
}

function checkBytes(file: unknown): void {
  if (!(file instanceof Uint8Array)) {
    throw invalid("sources", `${describe(file)} is not a Uint8Array`);
  }
}

/** Returns the picture of each source, in order. */
export function parseTranslations({
  batch,
  timing,
}: TranslateResponse | StreamTranslateResponse): EncodedPicture[] {
  if (batch === undefined) {
    return [];
  }
  const { translations, model, version, bundleSha256, variant, seed, format } = batch;
  return translations.flatMap(({ picture, shape, image }) =>
    parsePictures(
      create(ImageBatchSchema, {
        ...{ model, version, bundleSha256, variant, seed, format },
        ...(shape && { shape }),
        layout: ImageLayout.INDIVIDUAL,
        pictures: [picture],
        images: image === undefined ? [] : [image],
      }),
      timing,
    ),
  );
}
