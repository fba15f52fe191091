/** Runs a program in a worker of its own, and gives back what it logged, and when. */
import type { Answer, Failed, Line, Run } from "./protocol.ts";

export interface Recording {
  lines: Line[];
  /** When it ended, in ms. */
  end: number;
  failed?: Failed;
}

/** How long a program may take, in real ms, once its worker has begun with it. */
const LIMITS = { virtual: 2000, live: 5000 };

/** The same for the worker to start, and to load the concepts. */
const START_LIMIT = 20_000;

/**
 * Records a program. The worker is ended in any case: with the program, when the program does not
 * end, or when the signal is aborted, which rejects.
 */
export function record(
  worker: string,
  program: Omit<Run, "kind">,
  signal: AbortSignal,
): Promise<Recording> {
  const lines: Line[] = [];
  return new Promise<Recording>((resolve, reject) => {
    signal.throwIfAborted();
    const running = new Worker(worker, { type: "module" });
    let timer: ReturnType<typeof setTimeout> | undefined;
    const allow = (limit: number) => {
      clearTimeout(timer);
      const message = `ended after ${limit / 1000} s: an endless loop?`;
      const ms = () => lines.at(-1)?.ms ?? 0;
      timer = setTimeout(() => end({ kind: "failed", name: "", message, ms: ms() }), limit);
    };
    const close = () => {
      clearTimeout(timer);
      running.terminate();
      signal.removeEventListener("abort", leave);
    };
    const leave = () => (close(), reject(signal.reason));
    const end = (answer: Exclude<Answer, Line | { kind: "begun" }>) => {
      close();
      const failed = answer.kind === "failed" ? { failed: answer } : {};
      resolve({ lines, end: Math.max(answer.ms, lines.at(-1)?.ms ?? 0), ...failed });
    };
    signal.addEventListener("abort", leave);
    running.onmessage = ({ data }: MessageEvent<Answer>) => {
      if (data.kind === "line") lines.push(data);
      else if (data.kind === "begun") allow(LIMITS[program.clock]);
      else end(data);
    };
    running.onerror = (event) => {
      event.preventDefault();
      const message = event.message || "The worker could not start";
      end({ kind: "failed", name: "", message, ms: lines.at(-1)?.ms ?? 0 });
    };
    allow(START_LIMIT);
    running.postMessage({ kind: "run", ...program } satisfies Run);
  });
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
