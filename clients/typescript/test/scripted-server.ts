/** A gRPC server in this process that answers calls as a test says. */

import {
  create,
  fromBinary,
  toBinary,
  type DescMessage,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import {
  Server,
  ServerCredentials,
  type handleUnaryCall,
  type MethodDefinition,
  type ServerDuplexStream,
  type ServerWritableStream,
} from "@grpc/grpc-js";

import {
  GenerationService,
  type InterpolateRequest,
  type InterpolateResponse,
} from "../src/gen/imagemint/v1/generation_service_pb.js";
import { ImageFormat } from "../src/gen/imagemint/v1/image_pb.js";
import {
  StreamTranslateResponseSchema,
  TranslationBatchSchema,
  TranslationService,
  type StreamTranslateRequest,
  type StreamTranslateResponse,
  type TranslateRequest,
  type TranslateResponse,
} from "../src/gen/imagemint/v1/translation_service_pb.js";

export type ScriptedCall = ServerDuplexStream<StreamTranslateRequest, StreamTranslateResponse>;

/** A watch of the health of the service with the name that is the request; answers are statuses. */
export type WatchCall = ServerWritableStream<string, number>;

/** What the server does with each call. Calls without a handler are UNIMPLEMENTED. */
export interface Script {
  readonly streamTranslate?: (call: ScriptedCall) => void;
  readonly translate?: handleUnaryCall<TranslateRequest, TranslateResponse>;
  readonly interpolate?: (call: ServerWritableStream<InterpolateRequest, InterpolateResponse>) => void;
  readonly watch?: (call: WatchCall) => void;
}

/** Starts a server. */
export async function listenScripted(
  script: Script,
): Promise<{ address: string; close: () => void }> {
  const server = new Server({ "grpc.max_receive_message_length": -1 });
  const { translate, streamTranslate } = TranslationService.method;
  const methods = { translate: define(translate), streamTranslate: define(streamTranslate) };
  server.addService(methods, pick(script, "translate", "streamTranslate"));
  const { interpolate } = GenerationService.method;
  server.addService({ interpolate: define(interpolate) }, pick(script, "interpolate"));
  server.addService({ watch: HEALTH_WATCH }, pick(script, "watch"));
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    );
  });
  return { address: `127.0.0.1:${port}`, close: () => server.forceShutdown() };
}

/** Returns the answer to one source; `origin` says what made it. */
export function answerOne(
  origin: MessageInitShape<typeof TranslationBatchSchema> = {},
): StreamTranslateResponse {
  return create(StreamTranslateResponseSchema, {
    batch: {
      ...{ model: "m", version: "1", bundleSha256: "ab", variant: "reference" },
      format: ImageFormat.PNG,
      translations: [{ picture: Uint8Array.of(1), image: {} }],
      ...origin,
    },
  });
}

const HEALTH_WATCH: MethodDefinition<string, number> = {
  path: "/grpc.health.v1.Health/Watch",
  requestStream: false,
  responseStream: true,
  requestSerialize: () => Buffer.of(),
  requestDeserialize: (data) => {
    const reader = new BinaryReader(data);
    reader.tag();
    return reader.string();
  },
  responseSerialize: (status) => Buffer.of(8, status), // field 1, a varint
  responseDeserialize: () => 0,
};

interface Method<I extends DescMessage, O extends DescMessage> {
  readonly parent: { readonly typeName: string };
  readonly name: string;
  readonly methodKind: string;
  readonly input: I;
  readonly output: O;
}

function define<I extends DescMessage, O extends DescMessage>(
  method: Method<I, O>,
): MethodDefinition<MessageShape<I>, MessageShape<O>> {
  const { parent, name, methodKind, input, output } = method;
  return {
    path: `/${parent.typeName}/${name}`,
    requestStream: methodKind === "bidi_streaming",
    responseStream: methodKind === "bidi_streaming" || methodKind === "server_streaming",
    requestSerialize: (message) => Buffer.from(toBinary(input, message)),
    requestDeserialize: (data) => fromBinary(input, data),
    responseSerialize: (message) => Buffer.from(toBinary(output, message)),
    responseDeserialize: (data) => fromBinary(output, data),
  };
}

function pick(script: Script, ...names: (keyof Script)[]): Record<string, never> {
  const found = names.filter((each) => script[each] !== undefined);
  return Object.fromEntries(found.map((each) => [each, script[each] as never]));
}
