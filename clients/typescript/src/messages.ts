/** Requests of GenerationService, built from the options of a call. */

import { create } from "@bufbuild/protobuf";

import {
  AnimationFormat as WireAnimationFormat,
  AnimationSchema,
  GenerateRequestSchema,
  InterpolateRequestSchema,
  StreamGenerateRequestSchema,
  type Animation,
  type GenerateRequest,
  type InterpolateRequest,
  type StreamGenerateRequest,
} from "./gen/imagemint/v1/generation_service_pb.js";
import { checkArray, checkChoice, checkFlag, checkText } from "./arguments.js";
import { filterMessage, type Filter } from "./filters.js";
import type { ImageSpec } from "./gen/imagemint/v1/image_pb.js";
import { smallNumber, type Whole } from "./numbers.js";
import type {
  AnimateOptions,
  GenerateOptions,
  InterpolateOptions,
  StreamOptions,
} from "./options.js";
import { imageSpec, priorityValue, type Selection } from "./requests.js";

const ANIMATIONS = {
  webp: WireAnimationFormat.WEBP,
  gif: WireAnimationFormat.GIF,
  apng: WireAnimationFormat.APNG,
} as const;

/** Encoding of an animated picture. */
export type AnimationFormat = keyof typeof ANIMATIONS;

export function generateRequest(model: string, options: GenerateOptions): GenerateRequest {
  return create(GenerateRequestSchema, {
    images: filteredSpec(model, options.count ?? 1, options),
    priority: priorityValue(options.priority),
  });
}

export function streamRequest(model: string, options: StreamOptions): StreamGenerateRequest {
  const request = create(StreamGenerateRequestSchema, {
    images: filteredSpec(model, options.count, options),
    priority: priorityValue(options.priority),
  });
  if (options.chunkSize !== undefined) {
    request.chunkSize = smallNumber("chunkSize", options.chunkSize);
  }
  return request;
}

export function interpolateRequest(
  serials: readonly string[],
  options: InterpolateOptions,
): InterpolateRequest {
  return create(InterpolateRequestSchema, {
    serials: checkArray("serials", serials).map((each) => checkText("serials", each)),
    frames: smallNumber("frames", options.frames ?? 60),
    priority: priorityValue(options.priority),
  });
}

export function animationSpec(options: AnimateOptions): Animation {
  const animation = create(AnimationSchema, {
    format: checkChoice("format", options.format ?? "webp", ANIMATIONS),
    bounces: checkFlag("bounces", options.bounces ?? false),
  });
  if (options.quality !== undefined) {
    animation.quality = smallNumber("quality", options.quality);
  }
  if (options.frameMs !== undefined) {
    animation.frameMs = smallNumber("frameMs", options.frameMs);
  }
  return animation;
}

function filteredSpec(
  model: string,
  count: Whole,
  options: Selection & { filter?: Filter | undefined },
): ImageSpec {
  const spec = imageSpec(model, count, options);
  if (options.filter !== undefined) {
    spec.filter = filterMessage(options.filter);
  }
  return spec;
}
