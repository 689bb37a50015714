import assert from "node:assert/strict";
import { test } from "node:test";

import { create, toBinary } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import { Metadata, status as Code, type ServiceError } from "@grpc/grpc-js";

import {
  ERROR_BY_CODE,
  ImagemintError,
  InvalidRequest,
  QueueFull,
  ServerError,
  translateError,
} from "../src/errors.js";
import { ErrorInfoSchema, RetryInfoSchema } from "../src/gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "../src/gen/google/rpc/status_pb.js";
import { ImageBatchSchema, ImageFormat } from "../src/gen/imagemint/v1/image_pb.js";
import { joinBatches, parseImageBatch } from "../src/images.js";

function serviceError(code: Code, details: string, packed?: Uint8Array): ServiceError {
  const metadata = new Metadata();
  if (packed !== undefined) {
    metadata.set("grpc-status-details-bin", Buffer.from(packed));
  }
  return Object.assign(new Error(details), { code, details, metadata });
}

test("every status code has its error", () => {
  const codes = Object.values(Code).filter((each) => typeof each === "number");
  assert.equal(codes.length, 17);
  for (const code of codes as Code[]) {
    const error = translateError(serviceError(code, "text"), "host:1");
    assert.ok(error instanceof ERROR_BY_CODE[code]);
    assert.ok(error instanceof ImagemintError);
    assert.equal(error.code, code);
    assert.match(error.reason, /^[A-Z_]+$/);
  }
});

test("a status code that gRPC does not define is an unknown error", () => {
  for (const code of [17, 99, -1, NaN]) {
    const error = translateError(serviceError(code as Code, "of a proxy"), "host:1");
    assert.ok(error instanceof ServerError);
    assert.deepEqual([error.code, error.message], [Code.UNKNOWN, "of a proxy"]);
  }
});

test("google.rpc details are read", () => {
  const info = { reason: "QUEUE_FULL", domain: "imagemint", metadata: { model: "mnist" } };
  const retryDelay = { seconds: 1n, nanos: 500_000_000 };
  const packed = create(StatusSchema, {
    code: Code.RESOURCE_EXHAUSTED,
    details: [
      anyPack(ErrorInfoSchema, create(ErrorInfoSchema, info)),
      anyPack(RetryInfoSchema, create(RetryInfoSchema, { retryDelay })),
    ],
  });
  const wire = serviceError(Code.RESOURCE_EXHAUSTED, "full", toBinary(StatusSchema, packed));
  const error = translateError(wire, "host:1");
  assert.ok(error instanceof QueueFull);
  assert.equal(error.message, "full");
  assert.equal(error.reason, "QUEUE_FULL");
  assert.equal(error.retryDelayMs, 1500);
  assert.deepEqual({ ...error.metadata }, { model: "mnist" });
});

test("a lost connection is told from one that could not be made", () => {
  for (const [text, reason] of [
    ["Connection dropped", "CONNECTION_LOST"],
    ["read ECONNRESET", "CONNECTION_LOST"],
    ["No connection established. Last error: read ECONNRESET", "SERVER_UNREACHABLE"],
  ]) {
    assert.equal(translateError(serviceError(Code.UNAVAILABLE, text!), "host:1").reason, reason);
  }
});

test("a bundle that changes between two calls of mint is noticed", () => {
  const format = ImageFormat.RAW;
  const [first, second] = ["ab", "cd"].map((bundleSha256) =>
    parseImageBatch(create(ImageBatchSchema, { bundleSha256, format }), undefined),
  );
  assert.equal(joinBatches([first!, first!], []).bundleSha256, "ab");
  assert.throws(() => joinBatches([first!, second!], []), { reason: "BUNDLE_CHANGED" });
});

test("a message that is too large is an invalid request", () => {
  const text = "SERVER: Received message larger than max (6760914 vs. 4194304)";
  const error = translateError(serviceError(Code.RESOURCE_EXHAUSTED, text), "host:1");
  assert.ok(error instanceof InvalidRequest);
  assert.equal(error.code, Code.RESOURCE_EXHAUSTED);
  assert.equal(error.message, `too large for one call: ${text}`);
});

test("details that cannot be parsed are ignored", () => {
  const error = translateError(
    serviceError(Code.UNAVAILABLE, "text", Uint8Array.of(255, 255)),
    "host:1",
  );
  assert.equal(error.reason, "SERVER_UNREACHABLE");
  assert.match(error.message, /text/);
});
