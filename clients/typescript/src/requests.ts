/** Conditions, and request messages built from a caller's arguments. */

import { create } from "@bufbuild/protobuf";

import { checkArray, checkChoice, checkNumber, checkText, describe } from "./arguments.js";
import { invalid, type InvalidRequest } from "./errors.js";
import { Priority as WirePriority } from "./gen/imagemint/v1/generation_service_pb.js";
import {
  ClassCycleSchema,
  ClassPerImageSchema,
  ClassWeightsSchema,
  ImageFormat,
  ImageSpecSchema,
  LatentsSchema,
  OutputSpecSchema,
  type ImageSpec,
  type OutputSpec,
} from "./gen/imagemint/v1/image_pb.js";
import { smallNumber, UINT64_MAX, wholeNumber, type Whole } from "./numbers.js";

/** A class for each image: exactly `count` class indices. */
export interface PerImage {
  readonly perImage: readonly number[];
}

/**
 * Classes in turn by index: the image at index i gets class number i modulo the length. An empty
 * list means all classes of the model in order: a balanced set.
 */
export interface Cycle {
  readonly cycle: readonly number[];
}

/** Classes drawn at random with these odds: one finite weight, 0 or more, for each class. */
export interface Weights {
  readonly weights: readonly number[];
}

/** One caption for all images of a text-to-image model, in words of its vocabulary. */
export interface Caption {
  readonly caption: string;
}

/**
 * One class by index, one by label, several classes, or a caption. Undefined lets the model draw a
 * class, or one of its example captions.
 */
export type Condition = number | string | PerImage | Cycle | Weights | Caption;

/** Encoding of a picture. */
export type Format = "png" | "jpeg" | "webp";

/** Order in which waiting requests are served: high goes before normal. */
export type Priority = "normal" | "high";

/** Which images: what all calls for images have in common. */
export interface Selection {
  /** Seed, 0 to 2^64 - 1. Default: the server picks one, and the answer says which. */
  readonly seed?: Whole | undefined;
  /** Index of the first image, default 0. */
  readonly firstIndex?: Whole | undefined;
  /** Class, classes or caption. Default: drawn at random by a conditional model. */
  readonly condition?: Condition | undefined;
  /** Truncation within the range of the model. Default: none; zero is a value. */
  readonly truncation?: number | undefined;
  /** Version of the model, as a number or its text. Default: the server's default version. */
  readonly version?: string | Whole | undefined;
  /** Variant that must make the images, or `reference`. Default: whichever the server runs. */
  readonly variant?: string | undefined;
  /** `count` latents of z_dim elements each, instead of a seed. Such images have no serial. */
  readonly latents?: readonly (readonly number[])[] | undefined;
}

/** Encoding of pictures. */
export interface Encoding {
  /** Default png. */
  readonly format?: Format | undefined;
  /** 1 to 100 for jpeg and webp. Default: the server's, 90. */
  readonly quality?: number | undefined;
}

export const FORMATS: Readonly<Record<Format, ImageFormat>> = {
  png: ImageFormat.PNG,
  jpeg: ImageFormat.JPEG,
  webp: ImageFormat.WEBP,
};

const PRIORITIES: Readonly<Record<Priority, WirePriority>> = {
  normal: WirePriority.NORMAL,
  high: WirePriority.HIGH,
};

/** Classes in turn; without arguments all classes of the model: a balanced set. */
export function cycle(classIds: readonly number[] = []): Cycle {
  return { cycle: classIds };
}

/**
 * Returns the message that names the images of a request.
 *
 * @throws InvalidRequest for an argument that no server could accept, or that does not fit
 */
export function imageSpec(model: string, count: Whole, selection: Selection): ImageSpec {
  const { seed, firstIndex = 0, truncation, version = "", variant = "", latents } = selection;
  const spec = create(ImageSpecSchema, {
    model: checkText("model", model),
    version: typeof version === "string" ? version : `${wholeNumber("version", version, UINT64_MAX)}`,
    variant: checkText("variant", variant),
    count: wholeNumber("count", count, UINT64_MAX),
    firstIndex: wholeNumber("firstIndex", firstIndex, UINT64_MAX),
  });
  if (truncation !== undefined) {
    spec.truncation = checkNumber("truncation", truncation);
  }
  if (seed !== undefined && latents !== undefined) {
    throw invalid("latents", "a seed and latents exclude each other");
  }
  if (seed !== undefined) {
    spec.source = { case: "seed", value: wholeNumber("seed", seed, UINT64_MAX) };
  }
  if (latents !== undefined) {
    checkArray("latents", latents).forEach((each) => checkArray("latents", each));
    if (latents.length !== Number(count) || new Set(latents.map((each) => each.length)).size > 1) {
      throw invalid("latents", `${latents.length} latents, wanted ${count} of one length`);
    }
    const values = latents.flat().map((each) => checkNumber("latents", each));
    spec.source = { case: "latents", value: create(LatentsSchema, { values }) };
  }
  spec.condition = conditionOf(selection.condition);
  return spec;
}

/**
 * Returns `spec` without its first `done` images, to ask for the rest after a failure.
 *
 * A cycle depends on the index alone and weights on seed and index, so only what is listed image by
 * image is cut.
 */
export function remaining(spec: ImageSpec, done: number): ImageSpec {
  const rest = {
    ...spec,
    firstIndex: spec.firstIndex + BigInt(done),
    count: spec.count - BigInt(done),
  };
  if (spec.source.case === "latents") {
    const zDim = spec.source.value.values.length / Number(spec.count);
    const values = spec.source.value.values.slice(done * zDim);
    rest.source = { case: "latents", value: create(LatentsSchema, { values }) };
  }
  if (spec.condition.case === "classPerImage") {
    const classIds = spec.condition.value.classIds.slice(done);
    rest.condition = {
      case: "classPerImage",
      value: create(ClassPerImageSchema, { classIds }),
    };
  }
  return rest;
}

/** Returns the message that names the encoding of pictures. */
export function outputSpec({ format = "png", quality }: Encoding): OutputSpec {
  const output = create(OutputSpecSchema, { format: checkChoice("format", format, FORMATS) });
  if (quality !== undefined) {
    output.quality = smallNumber("quality", quality);
  }
  return output;
}

/**
 * Returns the value of a priority on the wire.
 *
 * @throws InvalidRequest if it is unknown
 */
export function priorityValue(priority: Priority = "normal"): WirePriority {
  return checkChoice("priority", priority, PRIORITIES);
}

function conditionOf(condition: Condition | undefined): ImageSpec["condition"] {
  if (condition === undefined) {
    return { case: undefined };
  }
  if (typeof condition === "number") {
    return { case: "classId", value: smallNumber("condition", condition) };
  }
  if (typeof condition === "string") {
    return { case: "classLabel", value: condition };
  }
  if (typeof condition !== "object" || condition === null) {
    throw noCondition(condition);
  }
  if ("perImage" in condition) {
    const classIds = classIdsOf(condition.perImage);
    return { case: "classPerImage", value: create(ClassPerImageSchema, { classIds }) };
  }
  if ("cycle" in condition) {
    const classIds = classIdsOf(condition.cycle);
    return { case: "classCycle", value: create(ClassCycleSchema, { classIds }) };
  }
  if ("caption" in condition) {
    return { case: "caption", value: checkText("condition", condition.caption) };
  }
  if (!("weights" in condition)) {
    throw noCondition(condition);
  }
  const weights = checkArray("condition", condition.weights);
  weights.forEach((each) => checkNumber("condition", each));
  return { case: "classWeights", value: create(ClassWeightsSchema, { weights: [...weights] }) };
}

function classIdsOf(values: readonly number[]): number[] {
  return checkArray("condition", values).map((each) => smallNumber("condition", each));
}

function noCondition(value: unknown): InvalidRequest {
  const kinds = "a class index, a class label, { perImage }, { cycle }, { weights } nor { caption }";
  return invalid("condition", `${describe(value)} is neither ${kinds}`);
}
