/** Options of the client and of its calls. */

import type { Tls } from "./channel.js";
import type { Filter } from "./filters.js";
import type { AnimationFormat } from "./messages.js";
import type { Whole } from "./numbers.js";
import type { Priority, Selection } from "./requests.js";

/** Settings of a client. */
export interface ClientOptions {
  /** How to encrypt. Default: plain text. */
  readonly tls?: Tls | undefined;
  /** API key, sent as `authorization: Bearer KEY`. */
  readonly apiKey?: string | undefined;
  /** Pairs that go with every call. */
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  /**
   * Milliseconds that a call may take, retries included. Default 30,000; null or Infinity for no
   * limit, which more than 24 days mean, too.
   */
  readonly timeoutMs?: number | null | undefined;
}

/** Settings of one call. */
export interface CallSettings {
  /**
   * Milliseconds for the call, or for each call that mint() or models() makes. For a stream, from
   * asking for a chunk until it arrives; the stream as a whole has no deadline. For interpolate(),
   * the whole path. Default: the client's own.
   */
  readonly timeoutMs?: number | null | undefined;
  /** Ends the call or the stream: it throws Cancelled, whose `cause` is the reason of the signal. */
  readonly signal?: AbortSignal | undefined;
  /**
   * Pairs that go with this call, such as `x-request-id` or `traceparent`. A name replaces the same
   * name of the client.
   */
  readonly metadata?: Readonly<Record<string, string>> | undefined;
}

/** Settings of a call for images. */
export interface GenerateOptions extends Selection, CallSettings {
  /** Number of images, 1 to the model's limit. Default 1. */
  readonly count?: Whole | undefined;
  /** Which images to keep, by the scores of the model's critic. Default: all, without scores. */
  readonly filter?: Filter | undefined;
  /** Default normal; the pixels do not depend on it. */
  readonly priority?: Priority | undefined;
}

/** Settings of a stream of images. */
export interface StreamOptions extends Selection, CallSettings {
  /** Number of images, 1 or more. */
  readonly count: Whole;
  /** Which images to keep, by the scores of the model's critic. Default: all, without scores. */
  readonly filter?: Filter | undefined;
  /** Images in a chunk. Default: the server's choice. The pixels do not depend on it. */
  readonly chunkSize?: number | undefined;
  /** Of every chunk. Default normal. */
  readonly priority?: Priority | undefined;
}

/** Settings of a path through the latents of serial numbers. */
export interface InterpolateOptions extends CallSettings {
  /** Images on the whole path, both ends included. Default 60. */
  readonly frames?: number | undefined;
  /** Default normal. */
  readonly priority?: Priority | undefined;
}

/** Settings of an animated picture. */
export interface AnimateOptions extends InterpolateOptions {
  /** Default webp. */
  readonly format?: AnimationFormat | undefined;
  /** 1 to 100 for webp. Default: the server's, 90. */
  readonly quality?: number | undefined;
  /** Time of one frame in milliseconds, 10 to 10,000. Default: the server's, 50. */
  readonly frameMs?: number | undefined;
  /** Whether to show the frames forwards and then backwards. Default: not. */
  readonly bounces?: boolean | undefined;
}
