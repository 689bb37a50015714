/** A gRPC server in this process that answers StreamTranslate as a test says. */

import { create, fromBinary, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { Server, ServerCredentials, type ServerDuplexStream } from "@grpc/grpc-js";

import { ImageFormat } from "../src/gen/imagemint/v1/image_pb.js";
import {
  StreamTranslateRequestSchema,
  StreamTranslateResponseSchema,
  TranslationBatchSchema,
  type StreamTranslateRequest,
  type StreamTranslateResponse,
} from "../src/gen/imagemint/v1/translation_service_pb.js";

export type ScriptedCall = ServerDuplexStream<StreamTranslateRequest, StreamTranslateResponse>;

/** Starts a server that gives each call to `handle`. */
export async function listenScripted(
  handle: (call: ScriptedCall) => void,
): Promise<{ address: string; close: () => void }> {
  const server = new Server();
  const method = {
    path: "/imagemint.v1.TranslationService/StreamTranslate",
    requestStream: true,
    responseStream: true,
    requestSerialize: (message: StreamTranslateRequest) =>
      Buffer.from(toBinary(StreamTranslateRequestSchema, message)),
    requestDeserialize: (data: Buffer) => fromBinary(StreamTranslateRequestSchema, data),
    responseSerialize: (message: StreamTranslateResponse) =>
      Buffer.from(toBinary(StreamTranslateResponseSchema, message)),
    responseDeserialize: (data: Buffer) => fromBinary(StreamTranslateResponseSchema, data),
  } as const;
  server.addService({ streamTranslate: method }, { streamTranslate: handle });
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
