/**
 * `GET /openapi.json`: the API as OpenAPI 3.1, from the schemas of its routes. Routes that are added
 * later are in it, too. What every route may answer is added here: problems, by what it takes.
 */
import { toOpenAPISchema } from "@elysiajs/openapi/openapi";
import { type AnyElysia, Elysia } from "elysia";
import { z } from "zod";

import { version } from "../package.json";

/** A JSON answer, as the documentation has it. */
export function content(schema: z.ZodType, description: string, type = "application/json") {
  return { description, content: { [type]: documented(() => toJsonSchema(schema)) } };
}

/** A schema that is not made before somebody asks for the documentation, which few servers hear. */
export function documented(schema: () => object) {
  return {
    get schema() {
      return schema();
    },
  };
}

/** An answer that is text. */
export function text(description: string, type: string, example: string) {
  return { description, content: { [type]: { schema: { type: "string" as const }, example } } };
}

export function toJsonSchema(schema: z.ZodType, io: "input" | "output" = "output"): any {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io, unrepresentable: "any" });
  return rest;
}

/** How a key is sent. Either will do. */
export const SECURITY = [{ key: [] }, { bearer: [] }];

const problem = z.looseObject({
  type: z.string(),
  title: z.string(),
  status: z.int(),
  detail: z.string(),
  instance: z.string().describe("The path of the request"),
  errors: z
    .array(z.object({ path: z.string(), message: z.string() }))
    .optional()
    .describe("With 422: what is wrong, and where"),
  requestId: z.string().optional().describe("With 500: by which the server's log has it"),
});

const PROBLEMS: Record<string, string> = {
  400: "The request can't be read.",
  401: "The key is missing or wrong.",
  403: "The key does not open this.",
  404: "There is no such thing.",
  413: "The body is too long.",
  422: "The request is not valid.",
  429: "Too many wrong keys came from this address.",
  500: "The server failed.",
  503: "Too many requests are in flight, or the server is about to stop.",
  504: "The answer took too long.",
};

const METHODS = ["get", "put", "post", "delete", "options", "head", "patch", "trace"] as const;

/** The document as a plugin, for an app whose routes it describes. */
export function documentation(app: () => AnyElysia) {
  let document: object | undefined;
  let count = 0;
  return new Elysia({ name: "documentation" }).get(
    "/openapi.json",
    ({ set }) => {
      const { length } = app().routes;
      if (length !== count) document = describeApi(app());
      count = length;
      set.headers["access-control-allow-origin"] = "*";
      return document!;
    },
    {
      detail: {
        tags: ["about"],
        summary: "This document",
        responses: { 200: content(z.looseObject({ openapi: z.string() }), "OpenAPI 3.1.") },
      },
    },
  );
}

interface Operation {
  operationId?: string;
  parameters?: { name: string; in: string; required?: boolean; schema: object }[];
  requestBody?: object;
  responses?: Record<string, object>;
  security?: object[];
}

/** What the app's routes do. */
export function describeApi(app: AnyElysia): object {
  const exclude = { staticFile: false, methods: [] };
  const { paths, components } = toOpenAPISchema(
    app,
    exclude,
    undefined,
    undefined,
    "3.1.1" as "3.1.2",
  );
  const described: Record<string, Record<string, Operation>> = {};
  for (const [path, item] of Object.entries(paths)) {
    // OpenAPI has no wildcards, and no WebSockets.
    const name = path.replace(/\*/g, "{path}") || "/";
    for (const method of METHODS) {
      const operation = (item as Record<string, Operation | undefined>)?.[method];
      if (operation) (described[name] ??= {})[method] = complete(operation, name, method);
    }
  }
  return {
    openapi: "3.1.1",
    info: {
      title: "async-concepts",
      version,
      summary: "Asynchronous work for several projects, under limits",
      license: { name: "MIT", identifier: "MIT" },
    },
    servers: [{ url: "/" }],
    tags: [
      { name: "about", description: "How the server is doing, and what it can do" },
      { name: "projects", description: "Work for a project's upstreams" },
      { name: "files", description: "The concepts, to copy" },
    ],
    paths: described,
    components: {
      schemas: { ...components.schemas, Problem: toJsonSchema(problem) },
      securitySchemes: {
        key: { type: "apiKey", in: "header", name: "X-API-Key" },
        bearer: { type: "http", scheme: "bearer" },
      },
    },
  };
}

function complete(operation: Operation, path: string, method: string): Operation {
  const declared = operation.parameters ?? [];
  const inPath = [...path.matchAll(/\{([^}]+)\}/g)].map(([, name]) => name!);
  const parameters = [
    // A pattern with an optional parameter is two paths, and only one of them has it.
    ...declared.filter((parameter) => parameter.in !== "path" || inPath.includes(parameter.name)),
    ...inPath
      .filter(
        (name) => !declared.some((parameter) => parameter.in === "path" && parameter.name === name),
      )
      .map((name) => ({ name, in: "path", required: true, schema: { type: "string" } })),
  ];
  const statuses = ["400", "500", "503", "504"];
  if (inPath.length > 0) statuses.push("404");
  if (operation.requestBody) statuses.push("413");
  if (parameters.length > 0 || operation.requestBody) statuses.push("422");
  if (operation.security) statuses.push("401", "403", "429");
  const responses = { ...(operation.responses ?? { 200: { description: "The answer." } }) };
  for (const status of statuses) responses[status] ??= toProblemResponse(PROBLEMS[status]!);
  const { operationId = method } = operation;
  // Elysia's `.all()` gives all methods one id.
  const isOwn = operationId.toLowerCase().startsWith(method);
  const id = isOwn ? operationId : `${method}-${operationId}`;
  return { ...operation, operationId: id, parameters, responses };
}

/** A problem, as the documentation has it. */
export function toProblemResponse(description: string) {
  const schema = { $ref: "#/components/schemas/Problem" };
  return { description, content: { "application/problem+json": { schema } } };
}
