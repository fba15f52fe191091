/**
 * Errors as the client sees them: problem documents (RFC 9457). Handlers throw a {@link Problem},
 * Elysia's `status()`, or anything else, which is answered 500 and of which the client learns nothing
 * but an id.
 */
import { STATUS_CODES } from "node:http";

import {
  type AnyElysia,
  ElysiaCustomStatusResponse,
  InvalidCookieSignature,
  InvalidFileType,
  NotFoundError,
  ParseError,
  ValidationError,
} from "elysia";

import type { Exchange } from "./limits.ts";
import { methodsAt, routeAt } from "./routes.ts";

/** Is told what the server is to blame for, and returns the id by which the log has it. */
export type Reporter = (error: unknown, exchange: Exchange) => string;

/** An error that the client is meant to see. */
export class Problem extends Error {
  readonly status: number;
  readonly headers: Record<string, string>;
  /** Members beside those that every problem document has. */
  readonly extra: object;

  constructor(status: number, detail: string, headers: Record<string, string> = {}, extra = {}) {
    super(detail);
    this.name = "Problem";
    this.status = status;
    this.headers = headers;
    this.extra = extra;
  }

  /** The document for a request to this path. */
  toDocument(instance: string): object {
    const { status, message: detail, extra } = this;
    const title = STATUS_CODES[status] ?? "Unknown";
    return { type: "about:blank", title, status, detail, instance, ...extra };
  }
}

const PROBLEM = { "content-type": "application/problem+json", "cache-control": "no-store" };

/** Takes away what a handler has said of the answer that it did not give. */
function withoutBody(headers: Record<string, unknown>): Record<string, unknown> {
  for (const name of Object.keys(headers)) {
    if (/^(content-(?!security)|cache-control$|etag$|last-modified$)/i.test(name))
      delete headers[name];
  }
  return headers;
}

/** What a status has to say, as the detail of a problem. */
export function sentence(text: string): string {
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

/** The document as a response, for errors that Elysia does not see. */
export function toResponse(problem: Problem, instance: string, headers: object = {}): Response {
  return Response.json(problem.toDocument(instance), {
    status: problem.status,
    headers: { ...withoutBody({ ...headers }), ...problem.headers, ...PROBLEM },
  });
}

/** What an error means to the client. If the server is to blame, it is reported. */
export function toProblem(error: unknown, exchange: Exchange, report: Reporter): Problem {
  if (error instanceof Problem) return error;
  if (error instanceof ParseError) {
    return error.cause instanceof Problem
      ? error.cause
      : new Problem(400, "The body is not what its Content-Type says.");
  }
  if (error instanceof ValidationError && error.type !== "response") {
    const errors = (error.all as { path?: string; message?: string; summary?: string }[]).map(
      ({ path = "", message, summary }) => ({ path, message: message ?? summary }),
    );
    return new Problem(422, `The request is not valid in its ${error.type}.`, {}, { errors });
  }
  if (error instanceof NotFoundError) return new Problem(404, "There is nothing at this path.");
  if (error instanceof ElysiaCustomStatusResponse) {
    const { code, response } = error as { code: number; response: unknown };
    return new Problem(code, typeof response === "string" ? sentence(response) : "");
  }
  if (error instanceof InvalidFileType) return new Problem(422, "The file is of another type.");
  if (error instanceof InvalidCookieSignature) {
    return new Problem(400, "The signature of a cookie is not valid.");
  }
  const requestId = report(error, exchange);
  return new Problem(500, "The server failed; its log knows more.", {}, { requestId });
}

/**
 * The handler for `onError`. It comes first, and lets the hooks that were added later have their say
 * before it makes a problem of the error.
 *
 * @param app is asked for its routes: which methods a path has, and which hooks a route
 */
export function problems(app: AnyElysia, report: Reporter) {
  async function answer(context: ErrorContext): Promise<unknown> {
    const { error, exchange, path, set, request } = context;
    exchange.route ??= context.route ?? routeAt(app, request.method, path);
    for (const hook of hooksAfter(onError, app, context)) {
      const value = await hook(context);
      if (value !== undefined) return value;
    }
    const own = ownResponse(error);
    if (own) return own;
    let problem = error instanceof Problem ? error : exchange.problem;
    if (!problem && error instanceof NotFoundError && exchange.route === undefined) {
      const methods = methodsAt(app, path);
      if (methods.length > 0) {
        set.headers["allow"] = methods.join(", ");
        if (request.method === "OPTIONS") {
          set.status = 204;
          return new Response(null, { status: 204 });
        }
        problem = new Problem(405, `There is no ${request.method} at this path.`);
      }
    }
    problem ??= toProblem(error, exchange, report);
    Object.assign(withoutBody(set.headers), problem.headers, PROBLEM);
    set.status = problem.status;
    return problem.toDocument(path);
  }

  // By `arguments`: Elysia reads the source of hooks, and for one that hands on its context it would
  // parse cookies, bodies and queries on every route.
  function onError(): Promise<unknown> {
    return answer(arguments[0] as ErrorContext);
  }
  return onError;
}

/** What an error of the app's own has to say. (Those of Elysia's become problems.) */
function ownResponse(error: unknown): unknown {
  const { toResponse } = Object(error) as { toResponse?: () => unknown };
  const isElysias = error instanceof ValidationError || error instanceof InvalidFileType;
  return typeof toResponse === "function" && !isElysias && toResponse.call(error);
}

interface ErrorContext {
  error: unknown;
  exchange: Exchange;
  path: string;
  route?: string;
  request: Request;
  set: { status?: number | string; headers: Record<string, unknown> };
}

type Hook = (context: ErrorContext) => unknown;

/** The error hooks that Elysia would call after this one, were it not to answer. */
function hooksAfter(own: unknown, app: AnyElysia, { exchange }: ErrorContext): Hook[] {
  const { method } = exchange.request;
  const { route } = exchange;
  const matched =
    route === undefined
      ? undefined
      : app.routes.find(
          ({ path, method: its }) =>
            path === route &&
            (its === method || its === "ALL" || (its === "GET" && method === "HEAD")),
        );
  const hooks: { fn: unknown }[] = (matched ? matched.hooks : app.event).error ?? [];
  return hooks.slice(hooks.findIndex(({ fn }) => fn === own) + 1).map(({ fn }) => fn as Hook);
}
