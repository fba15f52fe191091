/** A real Chromium for the tests of the pages, and what they do in it. One browser serves them all. */
import { poll, timeout } from "../../concepts/async-basics.ts";

/** Where the browser is, if there is one. */
export const browser =
  process.env["BUN_CHROME_PATH"] ??
  ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome"]
    .map((name) => Bun.which(name))
    .find((path) => path !== null);

/** What a page did that no page should do. */
export interface Complaints {
  /** Errors in the console, and exceptions that nobody caught. */
  errors: string[];
  /** Everything that it asked for. */
  requests: string[];
}

export interface Page extends Disposable, Complaints {
  readonly view: Bun.WebView;
  open(url: string): Promise<void>;
  /** The value of an expression in the page. */
  evaluate<T = unknown>(expression: string): Promise<T>;
  /** Waits until an expression is true, for so many ms at most. Default: 15,000. */
  until(expression: string, ms?: number): Promise<void>;
}

/** Opens an empty page. */
export async function openPage(width = 1280, height = 900): Promise<Page> {
  const view = new Bun.WebView({
    width,
    height,
    // Chromium refuses its own sandbox to root, whom containers use.
    backend: { type: "chrome", path: browser!, argv: ["--no-sandbox"] },
  });
  const errors: string[] = [];
  const requests: string[] = [];
  const listen = (type: string, hear: (data: any) => void) =>
    view.addEventListener(type, (event) => hear((event as MessageEvent).data));
  await view.navigate("about:blank");
  listen("Runtime.exceptionThrown", ({ exceptionDetails: { text, exception } }) =>
    errors.push(exception?.description ?? text),
  );
  listen("Runtime.consoleAPICalled", ({ type, args }) => {
    if (type === "error") errors.push(args.map((arg: any) => arg.value).join(" "));
  });
  listen("Log.entryAdded", ({ entry }) => {
    if (entry.level === "error") errors.push(`${entry.text} ${entry.url ?? ""}`);
  });
  listen("Network.requestWillBeSent", ({ request }) => requests.push(request.url));
  for (const domain of ["Runtime", "Log", "Network", "Page"]) await view.cdp(`${domain}.enable`);

  // A test that runs out of time takes the browser with it, so nothing is waited for that long.
  const evaluate = <T>(expression: string) =>
    timeout(() => view.evaluate(expression) as Promise<T>, 20_000).catch((cause) => {
      throw new Error(`It could not be told: ${expression}`, { cause });
    });
  return {
    view,
    errors,
    requests,
    evaluate,
    async open(url) {
      // Its end was missed once, for no reason that was found; it is then begun anew.
      await timeout(() => view.navigate(url), 8000).catch(() =>
        timeout(() => view.navigate(url), 8000),
      );
    },
    async until(expression, ms = 15_000) {
      const isTrue = () => evaluate<boolean>(`!!(${expression})`);
      await poll(isTrue, { interval: 20, timeout: ms }).catch(async (cause) => {
        const text = await evaluate("document.querySelector('main')?.innerText.slice(-600)");
        throw new Error(`It never came true: ${expression}\n${text}`, { cause });
      });
    },
    [Symbol.dispose]: () => view.close(),
  };
}
