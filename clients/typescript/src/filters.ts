/** Filters of images by the scores of a model's critic. */

import { create } from "@bufbuild/protobuf";

import {
  ImageFilterSchema,
  type ImageFilter,
  type ImageScores,
} from "./gen/imagemint/v1/image_pb.js";
import { checkFlag, checkNumber } from "./arguments.js";
import { smallNumber } from "./numbers.js";

/**
 * Keeps only images with good scores, and returns the scores.
 *
 * The image at index i is then the first candidate that passes. Candidate t has the latent of index
 * i + t * 2^48 and the class or caption of index i, so count, order and classes do not change. The
 * serial number of an image makes it again without the filter. A filter without conditions, `{}`,
 * only returns scores. The model must have a critic, and for each condition the score.
 */
export interface Filter {
  /** Smallest probability that the classifier of the model gives the class, 0 to 1. */
  readonly minClassConfidence?: number | undefined;
  /** Whether to accept candidates by discriminator rejection sampling (Azadi et al., 2019). */
  readonly rejectionSampling?: boolean | undefined;
  /** Smallest distance to a training image, in units of the median distance of test images. */
  readonly minTrainingDistance?: number | undefined;
  /**
   * Most candidates of one index, 1 to 1,000. Default: the server's, 64. If none passes, the call
   * fails with FailedPrecondition and the reason FILTER_EXHAUSTED.
   */
  readonly maxTries?: number | undefined;
}

/** Scores of one image, each undefined if the model does not have it. */
export interface Scores {
  /** Probability that the classifier gives the class of the image, 0 to 1. */
  readonly classConfidence: number | undefined;
  /** Calibrated logit of the discriminator. */
  readonly realness: number | undefined;
  /** Distance to the nearest training image, in units of the median distance of test images. */
  readonly trainingDistance: number | undefined;
  /** Number of candidates that the filter rejected before this image. */
  readonly rejected: number;
}

/**
 * Returns the message of a filter.
 *
 * @throws InvalidRequest if a value has the wrong type, or does not fit the message
 */
export function filterMessage(filter: Filter): ImageFilter {
  const message = create(ImageFilterSchema, {
    rejectionSampling: checkFlag("filter.rejectionSampling", filter.rejectionSampling ?? false),
  });
  if (filter.minClassConfidence !== undefined) {
    message.minClassConfidence = checkNumber(
      "filter.minClassConfidence",
      filter.minClassConfidence,
    );
  }
  if (filter.minTrainingDistance !== undefined) {
    message.minTrainingDistance = checkNumber(
      "filter.minTrainingDistance",
      filter.minTrainingDistance,
    );
  }
  if (filter.maxTries !== undefined) {
    message.maxTries = smallNumber("filter.maxTries", filter.maxTries);
  }
  return message;
}

/** Returns the scores in an answer; undefined for a request without a filter. */
export function scoresOf(scores: ImageScores | undefined): Scores | undefined {
  if (scores === undefined) {
    return undefined;
  }
  const { classConfidence, realness, trainingDistance, rejected } = scores;
  return { classConfidence, realness, trainingDistance, rejected };
}
