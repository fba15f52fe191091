/** Has a worker of its own run what a visitor has written. */
import type { Answer, Done, Explored, Failed, Line, Orders, Question } from "./protocol.ts";

/** How long the worker may take to start, and to load the concepts, in real ms. */
const START_LIMIT = 20_000;

/**
 * Gives back the worker's last answer. The worker is ended with that, when it takes too long, or when
 * the signal is aborted, which rejects.
 *
 * @param limit how many ms it may take once it has begun
 * @param hear is told the other answers; after one for which it returns `true` the time begins anew
 */
export function ask<Part extends Line | Orders, Last extends Done | Explored>(
  worker: string,
  question: Question,
  limit: number,
  signal: AbortSignal,
  hear: (answer: Part) => boolean,
): Promise<Last | Failed> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const running = new Worker(worker, { type: "module" });
    let timer: ReturnType<typeof setTimeout> | undefined;
    const allow = (limit: number) => {
      clearTimeout(timer);
      timer = setTimeout(fail, limit, `ended after ${limit / 1000} s: an endless loop?`);
    };
    const close = () => {
      clearTimeout(timer);
      running.terminate();
      signal.removeEventListener("abort", leave);
    };
    const leave = () => (close(), reject(signal.reason));
    const end = (answer: Last | Failed) => (close(), resolve(answer));
    const fail = (message: string) => end({ kind: "failed", name: "", message, ms: 0 });
    signal.addEventListener("abort", leave);
    running.onmessage = ({ data }: MessageEvent<Answer>) => {
      if (data.kind === "begun") allow(limit);
      else if (data.kind === "line" || data.kind === "orders") hear(data as Part) && allow(limit);
      else end(data as Last | Failed);
    };
    running.onerror = (event) => {
      event.preventDefault();
      fail(event.message || "The worker could not start");
    };
    allow(START_LIMIT);
    running.postMessage(question);
  });
}
