/** Node client of an imagemint server. */

export type { Tls } from "./channel.js";
export { Client } from "./client.js";
export {
  Cancelled,
  ClientClosed,
  DeadlineExceeded,
  FailedPrecondition,
  ImagemintError,
  InvalidRequest,
  NotFound,
  PermissionDenied,
  QueueFull,
  ServerError,
  Unauthenticated,
  Unavailable,
  Unimplemented,
  type Violation,
} from "./errors.js";
export type { Filter, Scores } from "./filters.js";
export type { BundleManifest } from "./gen/imagemint/v1/manifest_pb.js";
export { ModelState, type Model, type ModelVersion } from "./gen/imagemint/v1/model_service_pb.js";
export type { EncodedPicture, Image, ImageBatch, ImageIdentity, Origin, Timing } from "./images.js";
export type { AnimationFormat } from "./messages.js";
export type {
  AnimateOptions,
  CallSettings,
  ClientOptions,
  GenerateOptions,
  InterpolateOptions,
  StreamOptions,
} from "./options.js";
export {
  cycle,
  type Caption,
  type Condition,
  type Cycle,
  type Encoding,
  type Format,
  type PerImage,
  type Priority,
  type Selection,
  type Weights,
} from "./requests.js";
export { formatSerial, parseSerial, type Serial } from "./serials.js";
export type {
  Fit,
  Source,
  SourceFiles,
  SourcePixels,
  TranslateOptions,
  TranslateStreamOptions,
} from "./translation.js";
