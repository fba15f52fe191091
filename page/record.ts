/** Runs a program in a worker of its own, and gives back what it logged, and when. */
import { ask } from "./ask.ts";
import type { Done, Failed, Line, Run } from "./protocol.ts";

export interface Recording {
  lines: Line[];
  /** When it ended, in ms. */
  end: number;
  failed?: Failed;
}

/** How long a program may take, in real ms, once its worker has begun with it. */
const LIMITS = { virtual: 2000, live: 5000 };

/** Records a program. When the signal is aborted it rejects. */
export async function record(
  worker: string,
  program: Omit<Run, "kind">,
  signal: AbortSignal,
): Promise<Recording> {
  const lines: Line[] = [];
  const limit = LIMITS[program.clock];
  const question: Run = { kind: "run", ...program };
  const answer = await ask<Line, Done>(worker, question, limit, signal, (line) => {
    lines.push(line);
    return false;
  });
  const failed = answer.kind === "failed" ? { failed: answer } : {};
  return { lines, end: Math.max(answer.ms, lines.at(-1)?.ms ?? 0), ...failed };
}

const sources = new Map<string, Promise<string>>();

/** The sources of these concepts, as a {@link Run} has them. */
export async function fetchModules(names: readonly string[]): Promise<Record<string, string>> {
  const entries = names.map(async (name) => {
    let source = sources.get(name);
    if (!source) sources.set(name, (source = fetchText(`/concepts/${name}.js`)));
    source.catch(() => sources.delete(name));
    return [name, await source];
  });
  return Object.fromEntries(await Promise.all(entries));
}

async function fetchText(path: string): Promise<string> {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path} was answered with ${response.status}`);
  return response.text();
}
