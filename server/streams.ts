/**
 * Answers that are streams: generators, `ReadableStream`s and responses with a body. Each chunk is
 * pulled when the client has room for it. The exchange ends with the last one; if the source fails,
 * or the exchange ends early, the connection is cut, so that a part can't be taken for the whole.
 */
import { ElysiaCustomStatusResponse, StatusMap } from "elysia";

import type { Exchange } from "./limits.ts";
import { Problem, sentence } from "./problems.ts";

/**
 * Ends the exchange with this answer of a handler, or when all of the answer is out.
 *
 * @returns what to answer instead, if anything
 */
export function follow(exchange: Exchange, value: unknown): unknown {
  const { set, path } = exchange.context!;
  if (isPlain(value)) {
    // As Elysia would, but so that its length is known.
    const text = JSON.stringify(value) ?? "";
    if (!hasType(set.headers)) set.headers["content-type"] = "application/json;charset=utf-8";
    exchange.bytes = Buffer.byteLength(text);
    exchange.end(statusOf(set.status));
    return text;
  }
  if (value instanceof Promise) {
    return value.then(
      (value) => follow(exchange, value) ?? value,
      (error) => exchange.answerError(error),
    );
  }
  if (value instanceof ElysiaCustomStatusResponse) {
    const { code, response } = value as { code: number; response: unknown };
    set.status = code;
    if (code < 400 || typeof response !== "string") return follow(exchange, response);
    exchange.end(code);
    set.headers["content-type"] = "application/problem+json";
    return new Problem(code, sentence(response)).toDocument(path);
  }
  if (value instanceof Response) return followResponse(exchange, value);
  if (value instanceof ReadableStream) return followSource(exchange, readable(value), value);
  if (isIterator(value)) return followIterator(exchange, value);
  exchange.end(value === undefined && isUpgrade(exchange) ? 101 : statusOf(set.status));
  return undefined;
}

/** Elysia has statuses as numbers and as words. */
export function statusOf(status: number | string | undefined): number {
  return typeof status === "number" ? status : (StatusMap[status as keyof typeof StatusMap] ?? 200);
}

function followResponse(exchange: Exchange, response: Response): Response | undefined {
  const { set } = exchange.context!;
  const headers = new Headers(response.headers);
  const status = response.status === 200 ? statusOf(set.status) : response.status;
  if (!response.body) {
    exchange.end(status);
    return undefined;
  }
  // As Elysia has it for streams. Bun would tell the type of a text, but not once it is a stream.
  if (!hasType(set.headers) && !headers.has("content-type")) {
    headers.set("content-type", "text/plain;charset=utf-8");
  }
  const iterator = readable(response.body);
  if (refuses(exchange, iterator)) return new Response(null, { status, headers });
  return new Response(pull(exchange, iterator, status, String), { status, headers });
}

async function followIterator(exchange: Exchange, iterator: Source): Promise<unknown> {
  if (refuses(exchange, iterator)) return new Response(null);
  let first: IteratorResult<unknown>;
  try {
    // Before the headers are out, so that a failure can still be answered.
    first = await iterator.next();
  } catch (error) {
    return exchange.answerError(error);
  }
  const { done, value } = first;
  if (done) return follow(exchange, value) ?? value;
  if (value instanceof ReadableStream) return followSource(exchange, readable(value), value);
  return followSource(exchange, iterator, value, [value]);
}

function followSource(
  exchange: Exchange,
  iterator: Source,
  sample: { sse?: unknown } | unknown,
  read: unknown[] = [],
): Response {
  const { set } = exchange.context!;
  const isSse =
    Boolean((sample as { sse?: unknown } | null)?.sse) ||
    String(set.headers["content-type"]).startsWith("text/event-stream");
  const isJson = read.length > 0 && typeof sample === "object" && !ArrayBuffer.isView(sample);
  // As Elysia has it.
  const type = isSse ? "text/event-stream" : isJson ? "application/json" : "text/plain";
  if (!hasType(set.headers)) set.headers["content-type"] = type;
  set.headers["cache-control"] = "no-cache";
  if (refuses(exchange, iterator)) return new Response(null);
  const format = isSse ? (text: string) => `data: ${text}\n\n` : String;
  return new Response(pull(exchange, iterator, statusOf(set.status), format, read));
}

/** Handlers may write it in capitals. */
function hasType(headers: Record<string, unknown>): boolean {
  for (const name in headers) {
    if (name.length === 12 && name.toLowerCase() === "content-type") return true;
  }
  return false;
}

function isPlain(value: unknown): value is object {
  const { constructor } = Object(value) as object;
  return Object(value) === value && (constructor === Object || constructor === Array);
}

interface Source {
  next(): IteratorResult<unknown> | PromiseLike<IteratorResult<unknown>>;
  return?(): unknown;
}

function isIterator(value: unknown): value is Source {
  return typeof (value as Source | null | undefined)?.next === "function";
}

function readable(stream: ReadableStream): Source {
  const reader = stream.getReader();
  return {
    next: () => reader.read() as Promise<IteratorResult<unknown>>,
    return: () => reader.cancel(),
  };
}

/** Closes a source that is not wanted: HEAD asks for the headers alone, or it comes too late. */
function refuses(exchange: Exchange, iterator: Source): boolean {
  const isHead = exchange.request.method === "HEAD";
  if (!isHead && !exchange.hasEnded) return false;
  close(iterator);
  exchange.hasUnknownLength = true;
  exchange.end(statusOf(exchange.context!.set.status));
  return true;
}

/** A stream without a buffer of its own, which tells the exchange how it ends. */
function pull(
  exchange: Exchange,
  iterator: Source,
  status: number,
  format: (text: string) => string,
  read: unknown[] = [],
): ReadableStream<Uint8Array> {
  return new ReadableStream(
    {
      start(controller) {
        exchange.stream(status, (reason) => {
          controller.error(reason);
          close(iterator);
        });
      },
      async pull(controller) {
        try {
          for (;;) {
            const next = read.length > 0 ? { value: read.shift() } : await iterator.next();
            if (exchange.hasEnded) return;
            if (next.done) break;
            if (next.value == null) continue;
            const bytes = await encode(next.value, format);
            exchange.bytes += bytes.byteLength;
            // An empty chunk would end a chunked body.
            if (bytes.byteLength > 0) return controller.enqueue(bytes);
          }
          controller.close();
          exchange.end(status);
        } catch (error) {
          exchange.breakOff(error);
        }
      },
      cancel() {
        exchange.leave();
        close(iterator);
      },
    },
    { highWaterMark: 0 },
  );
}

function close(iterator: Source): void {
  // It may be in the middle of `next()`: it is told, and closes as soon as it can.
  Promise.try(() => iterator.return?.()).catch(() => {});
}

const encoder = new TextEncoder();

async function encode(value: unknown, format: (text: string) => string): Promise<Uint8Array> {
  if (value instanceof Uint8Array) return value;
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  if (ArrayBuffer.isView(value)) {
    return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  }
  if (value instanceof Blob) return value.bytes();
  const { toSSE } = value as { toSSE?: () => string };
  if (toSSE) return encoder.encode(toSSE.call(value));
  return encoder.encode(format(typeof value === "object" ? JSON.stringify(value) : String(value)));
}

function isUpgrade({ request }: Exchange): boolean {
  return request.headers.has("upgrade");
}
