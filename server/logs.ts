/**
 * The log: one line for each request, as JSON or to be read. No line has a key, a query or a body.
 */
import { ADMIN } from "./auth.ts";
import type { Config } from "./config.ts";
import type { Exchange } from "./limits.ts";

/** Writes a line for an exchange that has ended. */
export type Log = (exchange: Exchange) => void;

/** @param write is given each line, without its end */
export function createLog(
  kind: Exclude<Config["LOG"], "silent">,
  write: (line: string) => void = writeToStdout,
): Log {
  const format = kind === "json" ? toJson : toText;
  return (exchange) => write(format(exchange));
}

let isHeard = false;

function writeToStdout(line: string): void {
  // The reader of the log may have gone, which is no reason to stop serving.
  if (!isHeard) process.stdout.on("error", () => {});
  isHeard = true;
  process.stdout.write(`${line}\n`);
}

function toJson(exchange: Exchange): string {
  const { id, request, context, route, project, caller, status, started, bytes, problem, error } =
    exchange;
  return JSON.stringify({
    time: new Date().toISOString(),
    level: error === undefined ? "info" : "error",
    id,
    method: request.method,
    path: context?.path,
    route,
    project,
    isAdmin: caller === ADMIN || undefined,
    status,
    durationMs: Math.round((performance.now() - started) * 1000) / 1000,
    bytes,
    // What it was told, if it ended early; of the rest the status tells enough.
    ended: problem?.message,
    error: error === undefined ? undefined : textOf(error),
  });
}

function toText(exchange: Exchange): string {
  const { id, request, context, project = "-", status, started, bytes, problem, error } = exchange;
  const ms = (performance.now() - started).toFixed(1);
  const line = `${status} ${request.method} ${context?.path ?? "-"}  ${ms} ms  ${bytes} B  ${project}  ${id}`;
  const ended = problem ? `  ${problem.message}` : "";
  return error === undefined ? line + ended : `${line + ended}\n${textOf(error)}`;
}

function textOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { stack, cause } = error;
  // Bun's stack has no message where the error was made elsewhere, as a DOMException is.
  const text = stack?.includes(error.message) ? stack : `${error.name}: ${error.message}`;
  return cause === undefined ? text : `${text}\nCaused by: ${textOf(cause)}`;
}
