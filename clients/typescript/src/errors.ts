/** The errors of the client, and the translation of gRPC errors with their google.rpc details. */

import { fromBinary } from "@bufbuild/protobuf";
import { anyUnpack, type Any } from "@bufbuild/protobuf/wkt";
import type { GenMessage } from "@bufbuild/protobuf/codegenv2";
import type { Message } from "@bufbuild/protobuf";
import { status as Code, type ServiceError } from "@grpc/grpc-js";

import {
  BadRequestSchema,
  ErrorInfoSchema,
  RequestInfoSchema,
  RetryInfoSchema,
} from "./gen/google/rpc/error_details_pb.js";
import { StatusSchema, type Status } from "./gen/google/rpc/status_pb.js";

const DETAILS_KEY = "grpc-status-details-bin";

/** One wrong field of a request. */
export interface Violation {
  /** Path of the field in the request message, such as `images.count`. */
  readonly field: string;
  /** What is wrong with it. */
  readonly description: string;
}

/** The details of an error; each class has its own defaults. */
export interface ErrorDetails {
  readonly reason?: string;
  readonly metadata?: Readonly<Record<string, string>>;
  readonly code?: Code;
  readonly violations?: readonly Violation[];
  readonly retryDelayMs?: number | undefined;
  readonly requestId?: string;
  /** What led to the error, as of any Error. */
  readonly cause?: unknown;
}

/** Any failure of a call. The client throws no gRPC errors. */
export class ImagemintError extends Error {
  static readonly defaultCode: Code = Code.UNKNOWN;
  static readonly defaultReason: string = "UNKNOWN";

  /** Stable name for programs, in UPPER_SNAKE_CASE; never empty. */
  readonly reason: string;
  /** Details of `reason`, such as the known models. */
  readonly metadata: Readonly<Record<string, string>>;
  /** gRPC status code of the call. */
  readonly code: Code;
  /** Every wrong field, if the server names them. */
  readonly violations: readonly Violation[];
  /** Milliseconds to wait before a retry, if the server asks for a delay. */
  readonly retryDelayMs: number | undefined;
  /** Id of the request in the server's log; empty if the server sent none. */
  readonly requestId: string;

  constructor(message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? {} : { cause: details.cause });
    const defaults = new.target;
    this.name = defaults.name;
    this.reason = details.reason || defaults.defaultReason;
    this.metadata = details.metadata ?? {};
    this.code = details.code ?? defaults.defaultCode;
    this.violations = details.violations ?? [];
    this.retryDelayMs = details.retryDelayMs;
    this.requestId = details.requestId ?? "";
  }
}

/** A field of the request is wrong; `violations` names every one. */
export class InvalidRequest extends ImagemintError {
  static override readonly defaultCode = Code.INVALID_ARGUMENT;
  static override readonly defaultReason = "INVALID_REQUEST";
}

/** There is no such model or version; the message says which exist. */
export class NotFound extends ImagemintError {
  static override readonly defaultCode = Code.NOT_FOUND;
  static override readonly defaultReason = "NOT_FOUND";
}

/** The model cannot do this, or the server runs another variant of it. */
export class FailedPrecondition extends ImagemintError {
  static override readonly defaultCode = Code.FAILED_PRECONDITION;
  static override readonly defaultReason = "FAILED_PRECONDITION";
}

/** Credentials are missing or wrong. */
export class Unauthenticated extends ImagemintError {
  static override readonly defaultCode = Code.UNAUTHENTICATED;
  static override readonly defaultReason = "UNAUTHENTICATED";
}

/** These credentials do not allow the call. */
export class PermissionDenied extends ImagemintError {
  static override readonly defaultCode = Code.PERMISSION_DENIED;
  static override readonly defaultReason = "PERMISSION_DENIED";
}

/** The queue is full, or a rate or quota is exceeded; `retryDelayMs` says when to try again. */
export class QueueFull extends ImagemintError {
  static override readonly defaultCode = Code.RESOURCE_EXHAUSTED;
  static override readonly defaultReason = "RESOURCE_EXHAUSTED";
}

/** Reason of `Unavailable` if the connection ended while the server answered the call. */
export const CONNECTION_LOST = "CONNECTION_LOST";

/** Reason of `Unavailable` if every server says that it does not serve. */
const NOT_SERVING = "NOT_SERVING";
const NOT_SERVING_DELAY_MS = 1_000; // a server that is replaced is soon back

/**
 * No server answers, it is draining, or the model is still loading. The reason CONNECTION_LOST says
 * that the server was reached, and that the connection ended during the call.
 */
export class Unavailable extends ImagemintError {
  static override readonly defaultCode = Code.UNAVAILABLE;
  static override readonly defaultReason = "SERVER_UNREACHABLE";
}

/** No answer within `timeoutMs`. */
export class DeadlineExceeded extends ImagemintError {
  static override readonly defaultCode = Code.DEADLINE_EXCEEDED;
  static override readonly defaultReason = "DEADLINE_EXCEEDED";
}

/**
 * The server, an AbortSignal or `close()` cancelled the call. The reason ABORTED says that the signal
 * did, and `cause` is the reason of the signal.
 */
export class Cancelled extends ImagemintError {
  static override readonly defaultCode = Code.CANCELLED;
  static override readonly defaultReason: string = "CANCELLED";
}

/** The client was closed, before the call or during it. */
export class ClientClosed extends Cancelled {
  static override readonly defaultReason = "CLIENT_CLOSED";

  constructor() {
    super("the client is closed; create a new one for further calls");
  }
}

/** The server failed; `requestId` finds the detail in its log. */
export class ServerError extends ImagemintError {
  static override readonly defaultCode: Code = Code.INTERNAL;
  static override readonly defaultReason: string = "INTERNAL";
}

/** The server does not know the call: it is older than the client, or another service. */
export class Unimplemented extends ServerError {
  static override readonly defaultCode = Code.UNIMPLEMENTED;
  static override readonly defaultReason = "UNIMPLEMENTED";
}

type ErrorClass = new (message: string, details?: ErrorDetails) => ImagemintError;

/** Error class for each status code; it has all codes, so that every failure is translated. */
export const ERROR_BY_CODE: Readonly<Record<Code, ErrorClass>> = {
  [Code.OK]: ServerError, // a call that fails although its status is OK
  [Code.CANCELLED]: Cancelled,
  [Code.UNKNOWN]: ServerError,
  [Code.INVALID_ARGUMENT]: InvalidRequest,
  [Code.DEADLINE_EXCEEDED]: DeadlineExceeded,
  [Code.NOT_FOUND]: NotFound,
  [Code.ALREADY_EXISTS]: FailedPrecondition,
  [Code.PERMISSION_DENIED]: PermissionDenied,
  [Code.RESOURCE_EXHAUSTED]: QueueFull,
  [Code.FAILED_PRECONDITION]: FailedPrecondition,
  [Code.ABORTED]: FailedPrecondition,
  [Code.OUT_OF_RANGE]: InvalidRequest,
  [Code.UNIMPLEMENTED]: Unimplemented,
  [Code.INTERNAL]: ServerError,
  [Code.UNAVAILABLE]: Unavailable,
  [Code.DATA_LOSS]: ServerError,
  [Code.UNAUTHENTICATED]: Unauthenticated,
};

/** Reasons of `Unavailable` if no server was there to answer a call, or not to its end. */
export const NO_SERVER: ReadonlySet<string> = new Set([
  Unavailable.defaultReason,
  NOT_SERVING,
  CONNECTION_LOST,
]);

/** Returns the error for an argument that the client refuses before a call. */
export function invalid(field: string, description: string): InvalidRequest {
  return new InvalidRequest(`${field}: ${description}`, { violations: [{ field, description }] });
}

/**
 * Translates an error of gRPC. Details that cannot be parsed are ignored, because the status code
 * determines the class, except of a message that is larger than gRPC takes: that is an
 * InvalidRequest.
 *
 * @param error error of grpc-js; a code that gRPC does not define, as of a proxy, is UNKNOWN
 * @param server address or addresses, for messages about unreachable servers
 */
export function translateError(error: ServiceError, server: string): ImagemintError {
  const code = error.code in ERROR_BY_CODE ? error.code : Code.UNKNOWN;
  const details = readStatus(error);
  const info = findDetail(details, ErrorInfoSchema);
  const delay = findDetail(details, RetryInfoSchema)?.retryDelay;
  const text = error.details || Code[code];
  if (details === undefined && isAboutSize(code, text)) {
    return new InvalidRequest(`too large for one call: ${text}`, { code });
  }
  if (details === undefined && isAboutHealth(code, text)) {
    return new Unavailable(
      `${server} does not serve now: it shuts down, or it still loads its models (${text})`,
      { reason: NOT_SERVING, retryDelayMs: NOT_SERVING_DELAY_MS },
    );
  }
  if (details === undefined && isAboutLostConnection(code, text)) {
    return new Unavailable(`the connection to ${server} was lost during the call: ${text}`, {
      reason: CONNECTION_LOST,
    });
  }
  return new ERROR_BY_CODE[code](explain(code, text, details, server), {
    reason: info?.reason ?? "",
    metadata: info?.metadata ?? {},
    code,
    violations: (findDetail(details, BadRequestSchema)?.fieldViolations ?? []).map((each) => ({
      field: each.field,
      description: each.description,
    })),
    retryDelayMs: delay && Number(delay.seconds) * 1e3 + delay.nanos / 1e6,
    requestId:
      findDetail(details, RequestInfoSchema)?.requestId ?? info?.metadata["request_id"] ?? "",
  });
}

/**
 * Whether gRPC has refused a message, or metadata, because of its size. It does so with the code
 * that a server has for a full queue, but a retry cannot help. Only its text tells them apart.
 */
function isAboutSize(code: Code, text: string): boolean {
  const signs = ["message larger than max", "metadata size exceeds"];
  return code === Code.RESOURCE_EXHAUSTED && signs.some((sign) => text.includes(sign));
}

/**
 * Whether gRPC has not made a call because every server said that it does not serve. Only the text
 * tells this from servers that cannot be reached.
 */
function isAboutHealth(code: Code, text: string): boolean {
  return code === Code.UNAVAILABLE && text.includes("is unhealthy");
}

/**
 * Whether the connection of a call ended during the call. Only the text tells this from connections
 * that could not be made, of which it has the last error.
 */
function isAboutLostConnection(code: Code, text: string): boolean {
  const signs = ["Connection dropped", "ECONNRESET", "EPIPE"];
  return (
    code === Code.UNAVAILABLE &&
    !text.includes("Last error") &&
    signs.some((sign) => text.includes(sign))
  );
}

/**
 * Whether a call without an answer may be made again, although gRPC does not do so. gRPC repeats no
 * call whose response has begun, even if its server dies before the first message. One more call is
 * enough: a request that ends its server must not end all of them.
 *
 * @param failure the failure of the call
 * @param failures how often the call has failed in a row
 */
export function mayRepeat(failure: Error, failures: number): boolean {
  return (
    failures === 1 && failure instanceof Unavailable && failure.reason === CONNECTION_LOST
  );
}

/** Whether `error` comes from grpc-js. */
export function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "code" in error && "details" in error && "metadata" in error;
}

/** Returns gRPC's own text with the server and a hint; the text of the server unchanged. */
function explain(code: Code, text: string, details: Status | undefined, server: string): string {
  if (details === undefined && code === Code.UNAVAILABLE) {
    return `cannot reach ${server}: ${text}. Is an imagemint server running there?`;
  }
  return text;
}

/** Returns the status that the server sent; undefined if gRPC itself raised the error. */
function readStatus(error: ServiceError): Status | undefined {
  const [packed] = error.metadata.get(DETAILS_KEY);
  if (packed === undefined || typeof packed === "string") {
    return undefined;
  }
  try {
    return fromBinary(StatusSchema, packed);
  } catch {
    return undefined;
  }
}

function findDetail<T extends Message>(
  details: Status | undefined,
  schema: GenMessage<T>,
): T | undefined {
  for (const packed of details?.details ?? []) {
    const message = unpack(packed, schema);
    if (message !== undefined) {
      return message;
    }
  }
  return undefined;
}

function unpack<T extends Message>(packed: Any, schema: GenMessage<T>): T | undefined {
  try {
    return anyUnpack(packed, schema) as T | undefined;
  } catch {
    return undefined;
  }
}
