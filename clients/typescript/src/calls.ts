/** Single calls over a connection: one answer, or a stream of answers that is read on demand. */

import { fromBinary, toBinary } from "@bufbuild/protobuf";
import type {
  DescMessage,
  DescMethodBiDiStreaming,
  DescMethodServerStreaming,
  DescMethodUnary,
} from "@bufbuild/protobuf";
import type { MessageShape } from "@bufbuild/protobuf";
import {
  InterceptingCall,
  type CallOptions,
  type Client,
  type ClientDuplexStream,
  type ClientReadableStream,
  type Metadata,
  type ServiceError,
} from "@grpc/grpc-js";

import { onAbort } from "./cancellation.js";

/** What goes with a call. */
export interface CallContext {
  readonly connection: Client;
  readonly metadata: Metadata;
}

/** Makes a call with one answer; each of `signals` cancels it. */
export function callUnary<I extends DescMessage, O extends DescMessage>(
  { connection, metadata }: CallContext,
  method: DescMethodUnary<I, O>,
  request: MessageShape<I>,
  deadline: Date | undefined,
  signals: readonly AbortSignal[],
): Promise<MessageShape<O>> {
  return new Promise((resolve, reject) => {
    let stopListening = (): void => {};
    const call = connection.makeUnaryRequest(
      pathOf(method),
      serializer(method.input),
      parser(method.output),
      request,
      metadata,
      optionsOf(deadline),
      (error: ServiceError | null, answer?: MessageShape<O>) => {
        stopListening();
        if (error === null) {
          resolve(answer!);
        } else {
          reject(error);
        }
      },
    );
    stopListening = onAbort(signals, () => call.cancel());
  });
}

/** A call with many answers. */
export abstract class AnswerStream<Answer> {
  readonly #call: ClientReadableStream<Answer>;
  readonly #answers: AsyncIterator<Answer>;

  constructor(call: ClientReadableStream<Answer>) {
    this.#call = call;
    call.on("error", () => {}); // an error after cancel() has no reader
    this.#answers = call[Symbol.asyncIterator]();
  }

  /** Returns the next answer; undefined at the end. */
  async next(): Promise<Answer | undefined> {
    const { done, value } = await this.#answers.next();
    return done ? undefined : value;
  }

  /** Cancels the call. */
  cancel(): void {
    this.#call.cancel();
  }
}

/** A call with one request and many answers, of which it reads one ahead. */
export class ServerStream<Answer> extends AnswerStream<Answer> {
  readonly #permits: ReadPermits;

  constructor(call: ClientReadableStream<Answer>, permits: ReadPermits) {
    super(call);
    this.#permits = permits;
  }

  /** Opens the call for `request`; `deadline` ends it as a whole. */
  static open<I extends DescMessage, O extends DescMessage>(
    { connection, metadata }: CallContext,
    method: DescMethodServerStreaming<I, O>,
    request: MessageShape<I>,
    deadline?: Date,
  ): ServerStream<MessageShape<O>> {
    const permits = new ReadPermits();
    const call = connection.makeServerStreamRequest(
      pathOf(method),
      serializer(method.input),
      parser(method.output),
      request,
      metadata,
      {
        ...optionsOf(deadline),
        interceptors: [(options, next) => new PacedCall(next(options), permits)],
      },
    );
    return new ServerStream(call, permits);
  }

  override next(): Promise<Answer | undefined> {
    this.#permits.add();
    return super.next();
  }
}

/**
 * A call with a stream both ways. The caller limits how far requests are ahead of their answers;
 * within this limit, both are kept in memory until they are sent or read.
 */
export class DuplexStream<Request, Answer> extends AnswerStream<Answer> {
  readonly #call: ClientDuplexStream<Request, Answer>;

  constructor(call: ClientDuplexStream<Request, Answer>) {
    super(call);
    this.#call = call;
  }

  /** Opens the call. */
  static open<I extends DescMessage, O extends DescMessage>(
    { connection, metadata }: CallContext,
    method: DescMethodBiDiStreaming<I, O>,
  ): DuplexStream<MessageShape<I>, MessageShape<O>> {
    return new DuplexStream(
      connection.makeBidiStreamRequest(
        pathOf(method),
        serializer(method.input),
        parser(method.output),
        metadata,
      ),
    );
  }

  /** Sends a request. If the call has ended, next() throws its error. */
  write(request: Request): void {
    this.#call.write(request);
  }

  /** Ends the requests. */
  end(): void {
    this.#call.end();
  }
}

/**
 * Counts the answers that the consumer has asked for.
 *
 * A readable stream of Node would read 16 answers ahead. An answer may hold hundreds of images, so
 * the call reads only one more than the consumer has asked for.
 */
class ReadPermits {
  #count = 1;
  #waiting: (() => void) | undefined;

  add(): void {
    this.#count += 1;
    this.#grant();
  }

  wait(read: () => void): void {
    this.#waiting = read;
    this.#grant();
  }

  #grant(): void {
    const read = this.#waiting;
    if (read !== undefined && this.#count > 0) {
      this.#count -= 1;
      this.#waiting = undefined;
      read();
    }
  }
}

class PacedCall extends InterceptingCall {
  readonly #permits: ReadPermits;

  constructor(call: ConstructorParameters<typeof InterceptingCall>[0], permits: ReadPermits) {
    super(call);
    this.#permits = permits;
  }

  override startRead(): void {
    this.#permits.wait(() => super.startRead());
  }
}

/** Returns a function that returns the bytes of a message, without a copy. */
function serializer<M extends DescMessage>(schema: M): (message: MessageShape<M>) => Buffer {
  return (message) => {
    const { buffer, byteOffset, byteLength } = toBinary(schema, message);
    return Buffer.from(buffer, byteOffset, byteLength);
  };
}

/**
 * Returns a function that parses a message. Its bytes are no Buffers: slice() of a Buffer makes no
 * copy, as that of a Uint8Array does.
 */
function parser<M extends DescMessage>(schema: M): (data: Buffer) => MessageShape<M> {
  return ({ buffer, byteOffset, byteLength }) =>
    fromBinary(schema, new Uint8Array(buffer, byteOffset, byteLength));
}

function pathOf(method: { parent: { typeName: string }; name: string }): string {
  return `/${method.parent.typeName}/${method.name}`;
}

function optionsOf(deadline: Date | undefined): CallOptions {
  return deadline === undefined ? {} : { deadline };
}
