/**
 * Runs what the visitor has written. The server sends this file with a policy of its own, which
 * allows scripts from `blob:` and no connection at all: nothing that runs here has a network.
 */
import { explore } from "./explore.ts";
import type { Answer, Explore, Failed, Question, Run } from "./protocol.ts";

type VirtualTime = <T>(
  body: (clock: { readonly elapsed: number }) => Promise<T>,
  options?: { realTimeLimit?: number },
) => Promise<T>;

/** More than anybody looks at; a program that logs without end must not fill the page's memory. */
const MAX_LINES = 2000;

/** Less than the page waits, so that the error can say where on the virtual clock it was. */
const REAL_TIME_LIMIT = 1500;

const post = (answer: Answer): void => self.postMessage(answer);
const toURL = (source: string): string =>
  URL.createObjectURL(new Blob([source], { type: "text/javascript" }));

self.onmessage = ({ data }: MessageEvent<Question>) =>
  data.kind === "run" ? run(data) : tryOrders(data);

/** The modules as blobs, by name. */
function load(modules: Record<string, string>): Map<string, string> {
  return new Map(Object.entries(modules).map(([name, source]) => [name, toURL(source)]));
}

/** The code with what it imports replaced by blobs. It keeps its lines. */
function link(code: string, urls: ReadonlyMap<string, string>): string {
  return code.replace(
    /(\bfrom\s*|\bimport\s*\(?\s*)(["'])\.\/([\w-]+)\.js\2/g,
    (whole, before: string, quote: string, name: string) =>
      urls.has(name) ? before + quote + urls.get(name) + quote : whole,
  );
}

async function run({ modules, code, clock }: Run): Promise<void> {
  const urls = load(modules);
  const url = toURL(link(code, urls));
  let now = (): number => 0;
  let lines = 0;
  let isOver = false;

  const log = (lane: unknown, state: unknown): void => {
    if (isOver) return;
    const ms = now();
    if (++lines <= MAX_LINES) {
      return post({ kind: "line", lane: String(lane), state: String(state), ms });
    }
    isOver = true;
    // At once: the loop that logs may never let anything else run.
    post({ kind: "failed", name: "", message: `ended after ${MAX_LINES} events`, ms });
  };
  const fail = (error: unknown): void => {
    if (isOver) return;
    isOver = true;
    const ms = now();
    void describe(error, code, url).then((found) => post({ kind: "failed", ...found, ms }));
  };
  self.onerror = (_, __, ___, ____, error) => (fail(error), true);
  self.onunhandledrejection = (event) => (event.preventDefault(), fail(event.reason));

  try {
    const virtualTime: VirtualTime | undefined =
      clock === "virtual" ? (await import(urls.get("virtual-time")!)).virtualTime : undefined;
    for (const url of urls.values()) await import(url);
    post({ kind: "begun" });
    const { demo } = await import(url);
    if (typeof demo !== "function") throw new TypeError("The code must export demo(log)");
    if (virtualTime) {
      const body = (clock: { readonly elapsed: number }) => {
        now = () => clock.elapsed;
        return demo(log);
      };
      await virtualTime(body, { realTimeLimit: REAL_TIME_LIMIT });
    } else {
      // From the first line, as the demos print it: it may be on a virtual clock of its own.
      let start: number | undefined;
      let last = 0;
      now = () => (last = Math.max(last, performance.now() - (start ??= performance.now())));
      await demo(log);
    }
    if (!isOver) post({ kind: "done", ms: now() });
    isOver = true;
  } catch (error) {
    fail(error);
  }
}

async function tryOrders({ modules, code }: Explore): Promise<void> {
  const urls = load(modules);
  const url = toURL(link(code, urls));
  try {
    for (const url of urls.values()) await import(url);
    const { interleavings } = await import(urls.get("interleavings")!);
    post({ kind: "begun" });
    const { scenario } = await import(url);
    await explore(interleavings, scenario, post);
  } catch (error) {
    post({ kind: "failed", ...(await describe(error, code, url)), ms: 0 });
  }
}

type Description = Omit<Failed, "kind" | "ms">;

async function describe(error: unknown, code: string, url: string): Promise<Description> {
  if (!(error instanceof Error)) return { name: "", message: String(error) };
  const { name, message } = error;
  const inner = error instanceof AggregateError ? error.errors.map(String).join("; ") : "";
  const [, line, column] = new RegExp(`${url}:(\\d+):(\\d+)`).exec(error.stack ?? "") ?? [];
  const place = line
    ? { line: Number(line), column: Number(column) }
    : error instanceof SyntaxError
      ? await findSyntaxError(code)
      : {};
  return { name, message: inner ? `${message}: ${inner}` : message, ...place };
}

/**
 * Chrome tells the place of a syntax error to nobody but the `error` event of a classic worker. So
 * the code is parsed once more in one, without its imports and exports, inside a function that
 * nobody calls.
 */
function findSyntaxError(code: string): Promise<{ line?: number; column?: number }> {
  const blank = (text: string) => text.replace(/\S/g, " ");
  const before = '"use strict";async()=>{';
  const script = code
    .replace(/^import\b[^;]*?["'][^"'\n]*["'];?/gm, blank)
    .replace(/^export\s+(default\b)?/gm, blank);
  return new Promise((resolve) => {
    const parser = new Worker(toURL(`${before}${script}\n};postMessage(0)`));
    parser.onmessage = () => resolve({});
    parser.onerror = (event) => {
      event.preventDefault();
      const { lineno: line, colno: column } = event;
      const isInside = line > 0 && line <= code.split("\n").length;
      resolve(isInside ? { line, column: line === 1 ? column - before.length : column } : {});
    };
  });
}
