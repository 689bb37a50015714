/** Images of an answer, as pixels or encoded pictures, with their origin. */

import type { Duration } from "@bufbuild/protobuf/wkt";

import { ServerError } from "./errors.js";
import { scoresOf, type Scores } from "./filters.js";
import {
  ImageFormat,
  ImageLayout,
  type ImageBatch as WireBatch,
  type MintedImage as WireImage,
  type Timing as WireTiming,
} from "./gen/imagemint/v1/image_pb.js";
import { FORMATS, type Format } from "./requests.js";

/** Time of a call by phase, in milliseconds. Phases of different calls overlap. */
export interface Timing {
  readonly queueMs: number;
  readonly batchMs: number;
  readonly inferenceMs: number;
  readonly encodeMs: number;
}

/** Origin of images: the fields that batches and pictures share. */
export interface Origin {
  /** Name of the model. */
  readonly model: string;
  /** Version of the model. */
  readonly version: string;
  /** Variant of the model that made the images, such as `fp32` or `int8`. */
  readonly variant: string;
  /** SHA-256 of the bundle's model.onnx, lower-case hexadecimal. */
  readonly bundleSha256: string;
  /** Seed, even if the server chose it; undefined for explicit latents. */
  readonly seed: bigint | undefined;
  /** Rows of each picture. */
  readonly height: number;
  /** Columns of each picture. */
  readonly width: number;
  /** Time of the call by phase. */
  readonly timing: Timing;
}

/** What one image is. */
export interface ImageIdentity {
  /** Position in the sequence of the seed. */
  readonly index: bigint;
  /** Class; undefined for a model without classes. */
  readonly classId: number | undefined;
  /** Caption in its normal form; undefined for a model without captions. */
  readonly caption: string | undefined;
  /** Serial number; empty for explicit latents. */
  readonly serial: string;
  /** Scores; undefined for a request without a filter. */
  readonly scores: Scores | undefined;
}

/** One image as pixels. */
export interface Image extends ImageIdentity {
  /** uint8, row by row, channels last: height * width * channels values. */
  readonly pixels: Uint8Array;
}

/** Images as pixels, in order of index. */
export interface ImageBatch extends Origin {
  /** 1 gray or 3 RGB. */
  readonly channels: number;
  /** The images. */
  readonly images: readonly Image[];
}

/** One encoded picture, of a single image or a sheet. */
export interface EncodedPicture extends Origin {
  /** Bytes of the file, with metadata about its origin. Write them unchanged to keep it. */
  readonly data: Uint8Array;
  /** Encoding of `data`. */
  readonly format: Format;
  /** MIME type of `data`, such as `image/png`. */
  readonly mimeType: string;
  /** The image, or all images of a sheet. */
  readonly images: readonly ImageIdentity[];
}

/**
 * Returns the pixels of a RAW batch.
 *
 * @throws ServerError if the number of bytes does not match the shape
 */
export function parseImageBatch(batch: WireBatch, timing: WireTiming | undefined): ImageBatch {
  const { height = 0, width = 0, channels = 0 } = batch.shape ?? {};
  const size = height * width * channels;
  const { pictures, images } = batch;
  const fits = pictures.length === images.length && pictures.every((each) => each.length === size);
  if (batch.format !== ImageFormat.RAW || !fits) {
    throw new ServerError(
      `the server sent ${pictures.length} pictures for ${images.length} raw images of ` +
        `${height}x${width}x${channels}`,
      { reason: "MALFORMED_ANSWER" },
    );
  }
  return {
    ...originOf(batch, timing),
    channels,
    images: images.map((each, at) => ({ ...identityOf(each), pixels: pictures[at]! })),
  };
}

/**
 * Returns the pictures of an encoded batch: one for each image, or one sheet.
 *
 * @throws ServerError if the number of pictures is wrong, or they are not encoded
 */
export function parsePictures(
  batch: WireBatch,
  timing: WireTiming | undefined,
): EncodedPicture[] {
  const identities = batch.images.map(identityOf);
  const groups =
    batch.layout === ImageLayout.SHEET ? [identities] : identities.map((each) => [each]);
  const format = (Object.keys(FORMATS) as Format[]).find((each) => FORMATS[each] === batch.format);
  if (groups.length !== batch.pictures.length || format === undefined) {
    throw new ServerError(
      `the server sent ${batch.pictures.length} pictures for ${groups.length}, ` +
        `format ${ImageFormat[batch.format]}`,
      { reason: "MALFORMED_ANSWER" },
    );
  }
  const origin = originOf(batch, timing);
  return groups.map((images, at) => ({
    ...origin,
    data: batch.pictures[at]!,
    format,
    mimeType: `image/${format}`,
    images,
  }));
}

/**
 * Joins the images of several answers of one version into one batch.
 *
 * @param positions position of each image in the result, batch after batch
 * @throws ServerError if the bundle or the variant changed between the answers
 */
export function joinBatches(
  batches: readonly ImageBatch[],
  positions: readonly number[],
): ImageBatch {
  const first = batches[0]!;
  if (batches.some((each) => makerOf(each) !== makerOf(first))) {
    throw new ServerError(`${first.model}@${first.version} changed between two calls`, {
      reason: "BUNDLE_CHANGED",
    });
  }
  const images: Image[] = [];
  batches.flatMap((each) => each.images).forEach((each, at) => (images[positions[at]!] = each));
  const seed = batches.every((each) => each.seed === first.seed) ? first.seed : undefined;
  return { ...first, seed, timing: sumTimings(batches.map((each) => each.timing)), images };
}

function makerOf({ bundleSha256, variant }: Origin): string {
  return `${bundleSha256}+${variant}`;
}

function sumTimings(timings: readonly Timing[]): Timing {
  const sum = (phase: keyof Timing) => timings.reduce((total, each) => total + each[phase], 0);
  return {
    queueMs: sum("queueMs"),
    batchMs: sum("batchMs"),
    inferenceMs: sum("inferenceMs"),
    encodeMs: sum("encodeMs"),
  };
}

function originOf(batch: WireBatch, timing: WireTiming | undefined): Origin {
  return {
    model: batch.model,
    version: batch.version,
    variant: batch.variant,
    bundleSha256: batch.bundleSha256,
    seed: batch.seed,
    height: batch.shape?.height ?? 0,
    width: batch.shape?.width ?? 0,
    timing: {
      queueMs: milliseconds(timing?.queue),
      batchMs: milliseconds(timing?.batch),
      inferenceMs: milliseconds(timing?.inference),
      encodeMs: milliseconds(timing?.encode),
    },
  };
}

function identityOf(image: WireImage): ImageIdentity {
  const { index, classId, caption, serial } = image;
  return { index, classId, caption, serial, scores: scoresOf(image.scores) };
}

function milliseconds(duration: Duration | undefined): number {
  return duration === undefined ? 0 : Number(duration.seconds) * 1e3 + duration.nanos / 1e6;
}
