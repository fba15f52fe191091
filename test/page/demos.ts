/**
 * The pages in a real Chromium: what they show is what the demos do, and what visitors write runs
 * here and nowhere else.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";

import { virtualTime } from "../../concepts/virtual-time.ts";
import { KNOBS, read, write } from "../../page/knobs.ts";
import { format } from "../../page/timeline.ts";
import { createApp } from "../../server.ts";
import { readConcepts } from "../../server/concepts.ts";
import { demoOf } from "../../server/demos.ts";
import { config, overSocket } from "../serving.ts";
import { browser, openPage, type Page } from "./browser.ts";

type Demo = (log: (lane: string, state: string) => void) => Promise<void>;

const names = Object.keys(KNOBS);
const IS_RECORDED = "/^Recorded/.test(document.querySelector('#status').textContent)";
const AXE = join(import.meta.dir, "node_modules/axe-core/axe.min.js");

// A busy machine is slow to start browsers and workers.
setDefaultTimeout(30_000);

if (!browser) console.log("The tests of the pages are skipped: there is no Chromium.");
else if (!existsSync(AXE)) {
  console.log("axe-core is not asked: bun install --cwd test/page installs it.");
}

describe("knobs", () => {
  test("there are some for every concept but one", async () => {
    const files = [...new Bun.Glob("*.ts").scanSync(join(import.meta.dir, "../../concepts"))];
    expect(files.map((file) => file.slice(0, -3)).sort()).toEqual(names.toSorted());
    expect(names.filter((name) => KNOBS[name]!.length === 0)).toEqual(["interleavings"]);
  });

  const all = names.flatMap((name) => KNOBS[name]!.map((knob) => ({ name, ...knob })));
  test.each(all)("$name: $label has one place in the demo, and turns it", async (knob) => {
    const code = demoOf(readConcepts().find(({ name }) => name === knob.name)!);
    expect([...code.matchAll(new RegExp(knob.at, "g"))]).toHaveLength(1);
    const value = read(knob, code)!;
    expect(value).toBeWithin(knob.min, knob.max + 1);

    const turn = (code: string, value: number) =>
      write(knob, code, value).reduce(
        (code, [from, to, text]) => code.slice(0, from) + text + code.slice(to),
        code,
      );
    for (const other of [knob.min, knob.max]) {
      expect(read(knob, turn(code, other))).toBe(other);
      expect(turn(turn(code, other), value)).toBe(code);
    }
  });

  test("one whose place is gone reads nothing", () => {
    expect(read(KNOBS["semaphores"]![0]!, "export function demo() {}")).toBeUndefined();
    expect(write(KNOBS["semaphores"]![0]!, "export function demo() {}", 1)).toEqual([]);
  });
});

describe.skipIf(!browser)("in Chromium", () => {
  let server: Awaited<ReturnType<typeof overSocket>>;
  let page: Page;
  /** What the server was asked for. */
  let asked: string[];

  beforeAll(async () => {
    const app = createApp(config());
    app.store.exchanges.observe(({ request }) => asked.push(request.url));
    server = await overSocket(app);
    page = await openPage();
  });

  afterAll(async () => {
    page?.[Symbol.dispose]();
    await server?.[Symbol.asyncDispose]();
  });

  /** The concept whose page is open, and fit for another test. */
  let current: string | undefined;
  let count = 0;

  /** Opens a page, where nothing moves by itself unless it is said. */
  async function open(path: string, motion: "reduce" | "no-preference" = "reduce"): Promise<void> {
    current = undefined;
    asked = [];
    page.errors.length = page.requests.length = 0;
    const features = [{ name: "prefers-reduced-motion", value: motion }];
    await page.view.cdp("Emulation.setEmulatedMedia", { features });
    // Another fragment alone would not load the page anew.
    const url = new URL(path, server.origin);
    url.search = `${++count}`;
    await page.open(url.href);
  }

  /** Opens a concept's page, or puts the open one back. */
  async function openDemo(name: string): Promise<void> {
    if (current === name) await evaluate("status.textContent = ''; $('#reset').click()");
    else await open(`/concepts/${name}`);
    await page.until(IS_RECORDED);
    current = name;
  }

  /** Runs statements in the page, which has `$` for `document.querySelector`. */
  const evaluate = <T>(statements: string) =>
    page.evaluate<T>(
      `(($, status) => { ${statements} })(document.querySelector.bind(document), document.querySelector("#status"))`,
    );

  /** Puts code in the editor, and runs it. */
  async function runCode(code: string): Promise<void> {
    await evaluate(`
      $("#code").focus();
      $("#code").select();
      document.execCommand("insertText", false, ${JSON.stringify(code)});
      status.textContent = "";
      $("#run").click();
    `);
    await page.until(IS_RECORDED);
  }

  async function click(selector: string): Promise<void> {
    await page.view.scrollTo(selector);
    await page.view.click(selector);
  }

  const text = (selector: string) => evaluate<string>(`return $('${selector}').textContent`);
  const code = () => evaluate<string>("return $('#code').value");
  const press = (key: string, ...modifiers: ("Control" | "Shift")[]) =>
    page.view.press(key, { modifiers });
  const undo = () => evaluate("$('#code').focus(); document.execCommand('undo')");

  const lines = () =>
    evaluate<string[]>(
      "return [...document.querySelectorAll('#controls li')].map((li) => li.textContent)",
    );

  test.each(names)("%s: its lanes are those that its demo prints", async (name) => {
    await openDemo(name);

    const shown = await lines();
    expect(await text("#error")).toBe("");
    const { demo }: { demo: Demo } = await import(`../../concepts/${name}.ts`);
    if (name === "performance") {
      // It measures real time: what was measured differs in every run.
      const rough = shown.map((line) => line.replace(/^\S+ ms: |: done.*|(?<=^report): .*/g, ""));
      expect(rough.slice(0, 4)).toEqual([
        "closed loop: running",
        "closed loop",
        "open loop: running",
        "open loop",
      ]);
    } else if (name === "interleavings") {
      const printed: string[] = [];
      await demo((lane, state) => printed.push(`${lane}: ${state}`));
      expect(shown.map((line) => line.replace(/^\S+ ms: /, ""))).toEqual(printed);
    } else if (name === "virtual-time") {
      const printed: string[] = [];
      let start: number | undefined;
      await demo((lane, state) => {
        start ??= performance.now();
        printed.push(`${format(performance.now() - start)}: ${lane}: ${state}`);
      });
      expect(shown).toEqual(printed);
    } else {
      const printed: string[] = [];
      await virtualTime((clock) =>
        demo((lane, state) => printed.push(`${format(clock.elapsed)}: ${lane}: ${state}`)),
      );
      expect(shown).toEqual(printed);
    }
    expect(shown.length).toBeGreaterThan(3);
    const isLive = ["interleavings", "performance", "virtual-time"].includes(name);
    expect(await text("#status")).toStartWith(isLive ? "Recorded live" : "Recorded on a virtual");
    const lanes = new Set(shown.map((line) => line.split(": ")[1]!));
    const drawn = await page.evaluate<string[]>(
      "[...document.querySelectorAll('#picture > svg > text')].map((text) => text.textContent)",
    );
    expect(drawn).toEqual([...lanes]);
    expect(page.errors).toEqual([]);
    expect(
      page.requests.filter((url) => !url.startsWith(server.origin) && !url.startsWith("data:")),
    ).toEqual([]);
  });

  describe("the player", () => {
    test("goes back and forth by the slider, and tells where it is", async () => {
      await openDemo("semaphores");
      expect(await text("#time")).toBe("300 ms, event 15 of 15");

      await page.evaluate(`document.querySelector("#slider").focus()`);
      await press("Home");
      expect(await text("#time")).toBe("0 ms, event 7 of 15");
      await press("End");
      expect(await text("#time")).toBe("300 ms, event 15 of 15");
      expect(await page.evaluate("document.querySelector('#slider').ariaValueText")).toBe(
        await text("#time"),
      );
    });

    test("steps from event to event", async () => {
      await openDemo("semaphores");
      const times = [];
      for (const button of ["back", "back", "back", "back", "next"]) {
        await click(`#${button}`);
        times.push(await text("#time"));
      }
      expect(times).toEqual([
        "200 ms, event 14 of 15",
        "100 ms, event 11 of 15",
        "0 ms, event 7 of 15",
        "0 ms, event 7 of 15",
        "100 ms, event 11 of 15",
      ]);
    });

    test("plays by itself once, and again when told, at another speed", async () => {
      await open("/concepts/semaphores", "no-preference");
      await page.until("document.querySelector('#play').textContent === 'Pause'");
      await page.until("document.querySelector('#play').textContent === 'Play'");
      expect(await text("#time")).toBe("300 ms, event 15 of 15");

      // At a quarter of the speed it is seen on its way, however slow the machine.
      await page.evaluate(`document.querySelector("#speed").value = "0.25"`);
      await click("#play");
      await page.until("document.querySelector('#slider').valueAsNumber > 0");
      await click("#play");
      const paused = await text("#time");
      expect(await text("#play")).toBe("Play");
      expect(paused).not.toBe("300 ms, event 15 of 15");
      expect(await text("#time")).toBe(paused);
    });

    test("doesn't move by itself when less motion is wanted", async () => {
      await openDemo("semaphores");
      expect(await text("#play")).toBe("Play");
      expect(await text("#time")).toBe("300 ms, event 15 of 15");
    });

    test("is played faster and slower", async () => {
      const run = async (speed: string) => {
        await page.evaluate(`document.querySelector("#speed").value = "${speed}"`);
        return page.evaluate<number>(`new Promise((resolve) => {
          const play = document.querySelector("#play");
          const start = performance.now();
          new MutationObserver(() => play.textContent === "Play" && resolve(performance.now() - start))
            .observe(play, { childList: true });
          play.click();
        })`);
      };
      await openDemo("semaphores");
      expect(await run("0.25")).toBeGreaterThan(1100);
      expect(await run("0.5")).toBeGreaterThan(550);
      expect(await run("4")).toBeGreaterThan(50);
    });

    test("draws the order instead of the time", async () => {
      await openDemo("mocks");
      await page.evaluate(
        `((axis) => (axis.value = "order", axis.onchange()))(document.querySelector("#axis"))`,
      );
      expect(await text("#time")).toBe("100 ms, event 10 of 10");
      await click("#back");
      expect(await text("#time")).toBe("100 ms, event 10 of 10");
      await click("#back");
      expect(await text("#time")).toBe("100 ms, event 9 of 10");
    });

    test("has nothing to play when nothing was logged", async () => {
      await openDemo("semaphores");
      await runCode("export const demo = () => {};");
      expect(await text("#time")).toBe("nothing recorded");
      expect(await evaluate("return $('#play').disabled && $('#slider').disabled")).toBe(true);
      expect(await evaluate("return $('#picture').childElementCount")).toBe(0);

      await runCode(`export const demo = (log) => log("a", "done");`);
      expect(await text("#time")).toBe("0 ms, event 1 of 1");
      expect(await evaluate("return $('#play').disabled")).toBe(false);
    });

    test("tells each span's state and duration, by keyboard", async () => {
      await openDemo("semaphores");
      await page.evaluate(`document.querySelector("#picture [tabindex='0']").focus()`);
      const label = () =>
        page.evaluate<string>("document.activeElement.getAttribute('aria-label')");
      const heard = [await label()];
      for (const key of ["ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp", "ArrowLeft"] as const) {
        await press(key);
        heard.push(await label());
      }
      expect(heard).toEqual([
        "task 1: waiting, at 0 ms",
        "task 2: running, from 0 ms to 100 ms",
        "task 3: waiting, from 0 ms to 100 ms",
        "task 3: running, from 100 ms to 200 ms",
        "task 2: done, at 100 ms",
        "task 2: running, from 0 ms to 100 ms",
      ]);
      expect(
        await page.evaluate("document.querySelectorAll('#picture [tabindex=\"0\"]').length"),
      ).toBe(1);
    });

    test("saves the picture as one file that stands alone", async () => {
      await openDemo("semaphores");
      const file = await evaluate<string>(`
        const { createObjectURL } = URL;
        return new Promise((resolve) => {
          URL.createObjectURL = (blob) => (resolve(blob.text()), "data:,");
          $("#save").click();
          URL.createObjectURL = createObjectURL;
        });
      `);
      expect(file).toStartWith("<svg");
      expect(file).toContain("color-scheme: light dark");
      expect(file).toContain("<title>task 3: waiting, from 0 ms to 100 ms</title>");
      expect(file).not.toContain("future");
      expect(page.errors).toEqual([]);
    });
  });

  describe("the editor", () => {
    test("an edit that throws shows message, line and column", async () => {
      await openDemo("semaphores");
      await runCode(`export async function demo(log) {\n  log("a", "running");\n  missing();\n}\n`);
      expect(await text("#error")).toBe(
        "ReferenceError: missing is not defined at line 3, column 3",
      );
      expect(await lines()).toEqual(["0 ms: a: running"]);

      await click("#error button");
      expect(await page.evaluate("getSelection().toString()")).toBe("  missing();");
    });

    test.each([
      [
        "in the middle",
        `export async function demo(log) {\n  const a = ;\n}\n`,
        "line 2, column 13",
      ],
      ["in the first line", `const a = ;\nexport async function demo() {}`, "line 1, column 11"],
      [
        "after an import",
        `import { Mutex } from "./semaphores.js";\nexport async function demo() {\n  const = 1;\n}`,
        "line 3, column 9",
      ],
    ])("one that is not JavaScript %s shows where", async (_, code, where) => {
      await openDemo("semaphores");
      await runCode(code);
      expect(await text("#error")).toMatch(/^SyntaxError: .+ at line/);
      expect(await text("#error")).toEndWith(where);
    });

    test.each([
      ["no demo", "export const a = 1;", "TypeError: The code must export demo(log)"],
      ["no Error", "export function demo() {\n  throw 'a string';\n}", "a string"],
      [
        "several errors",
        "export function demo() {\n  throw new AggregateError([new Error('a'), 'b'], 'both');\n}",
        "AggregateError: both: Error: a; b at line 2, column 9",
      ],
      [
        "a rejection that nobody handles",
        "export async function demo() {\n  void Promise.reject(new Error('lost'));\n  await new Promise((resolve) => setTimeout(resolve, 10));\n}",
        "Error: lost at line 2, column 23",
      ],
      [
        "a deadlock",
        "export function demo() {\n  return new Promise(() => {});\n}",
        "DeadlockError: Deadlock at 0 ms",
      ],
    ])("%s is told", async (_, code, message) => {
      await openDemo("semaphores");
      await runCode(code);
      expect(await text("#error")).toStartWith(message);
    });

    test("one that never ends is ended, and the next one runs", async () => {
      await openDemo("semaphores");
      await runCode(`export function demo(log) {\n  log("a", "running");\n  for (;;);\n}\n`);
      expect(await text("#error")).toBe("ended after 2 s: an endless loop?");
      expect(await lines()).toEqual(["0 ms: a: running"]);

      await runCode(`export function demo(log) {\n  log("b", "done");\n}\n`);
      expect(await text("#error")).toBe("");
      expect(await lines()).toEqual(["0 ms: b: done"]);
    });

    test("one that logs without end is ended as well", async () => {
      await openDemo("semaphores");
      await runCode(`export function demo(log) {\n  for (;;) log("a", "running");\n}\n`);
      expect(await text("#error")).toBe("ended after 2000 events");
    });

    test("one that reaches for the network is refused by the policy", async () => {
      await openDemo("virtual-time");
      const elsewhere: string[] = [];
      using other = Bun.serve({
        port: 0,
        hostname: "127.0.0.1",
        fetch(request) {
          elsewhere.push(request.url);
          return new Response("", { headers: { "access-control-allow-origin": "*" } });
        },
      });
      asked = [];
      await runCode(
        ATTEMPTS.replaceAll("THERE", other.url.origin).replaceAll("HERE", server.origin),
      );

      expect(await lines()).toEqual(
        [
          "fetch here",
          "fetch there",
          "XHR",
          "WebSocket",
          "EventSource",
          "import here",
          "import there",
          "importScripts",
          "a worker of its own",
          "eval",
        ].map((what) => expect.stringMatching(new RegExp(`: ${what}: refused$`))),
      );
      expect(elsewhere).toEqual([]);
      expect(asked).toEqual([]);
    });

    test("Tab indents, Escape and Tab leaves, and undo takes it all back", async () => {
      await openDemo("semaphores");
      const original = await code();
      await page.evaluate(
        "((area) => (area.focus(), area.setSelectionRange(0, 0)))(document.querySelector('#code'))",
      );
      await press("Tab");
      expect(await code()).toBe(`  ${original}`);
      await press("Tab", "Shift");
      expect(await code()).toBe(original);
      await press("Tab");
      await page.view.type("let a;");
      expect(await code()).toBe(`  let a;${original}`);
      // What is typed at once, Chromium takes back at once.
      for (let n = 0; n < 4 && (await code()) !== original; n++) await undo();
      expect(await code()).toBe(original);

      await press("Escape");
      await press("Tab");
      expect(await page.evaluate("document.activeElement.id")).not.toBe("code");
    });

    test("a knob rewrites the code and runs it, and undo turns it back", async () => {
      await openDemo("semaphores");
      const original = await code();
      await page.evaluate("document.querySelector('#knob-0').focus()");
      await press("ArrowRight");
      await page.until("/took 200 ms/.test(document.querySelector('#status').textContent)");
      expect(await code()).toBe(original.replace("Semaphore(2)", "Semaphore(3)"));
      expect(await page.evaluate("document.activeElement.id")).toBe("knob-0");

      await undo();
      expect(await code()).toBe(original);
      expect(await page.evaluate("document.querySelector('#knob-0').value")).toBe("2");
    });

    test("a knob follows the code, and can't be turned when its place is gone", async () => {
      await openDemo("semaphores");
      await runCode(
        `import { Semaphore } from "./semaphores.js";\nexport async function demo(log) {\n  using _ = await new Semaphore(4).acquire();\n  log("a", "done");\n}\n`,
      );
      const knobs = await page.evaluate<unknown[]>(
        "[...document.querySelectorAll('#knobs input')].map(({ value, disabled }) => [value, disabled])",
      );
      expect(knobs[0]).toEqual(["4", false]);
      expect(knobs[1]).toEqual(["5", true]);
      expect(await text("#knobs p:nth-of-type(2) output")).toBe("edited away");
    });

    test("Ctrl+Enter runs, Reset puts everything back", async () => {
      await openDemo("semaphores");
      await page.evaluate("document.querySelector('#code').select()");
      await page.view.type(`export const demo = (log) => log("only", "done");`);
      await press("Enter", "Control");
      await page.until("document.querySelectorAll('#controls li').length === 1");
      expect(await page.evaluate("location.hash")).toStartWith("#code=");

      await click("#reset");
      await page.until("document.querySelectorAll('#controls li').length === 15");
      expect(await page.evaluate("location.hash")).toBe("");
      expect(
        await page.evaluate(
          "document.querySelector('#code').value === document.querySelector('#code').defaultValue",
        ),
      ).toBe(true);
    });
  });

  describe("a link with code", () => {
    const code = `export const demo = (log) => log("shared", "done: ä & <b>");`;
    const link = `/concepts/semaphores#code=${encodeURIComponent(code)}`;

    test("does nothing by itself, and nothing of it reaches the server", async () => {
      await open(link);
      await page.until("document.querySelector('#status').textContent");
      expect(await text("#status")).toContain("It has not run");
      expect(await page.evaluate("document.querySelector('#code').value")).toBe(code);
      // Turning a knob is not asking to run it, either.
      await page.evaluate(
        "document.querySelectorAll('#knobs input').forEach((input) => input.oninput())",
      );
      expect(await page.evaluate("document.querySelectorAll('#picture svg').length")).toBe(0);
      expect(asked.filter((url) => url.endsWith(".js") && url.includes("/concepts/"))).toEqual([]);

      await click("#run");
      await page.until("document.querySelectorAll('#picture svg').length === 1");
      expect(await lines()).toEqual(["0 ms: shared: done: ä & <b>"]);
      expect(asked.filter((url) => url.includes("shared"))).toEqual([]);
    });

    test("is made by Copy link, and leads another visitor to the same", async () => {
      await openDemo("semaphores");
      await runCode(code);
      await click("#share");
      await page.until("/^The link/.test(document.querySelector('#status').textContent)");
      const hash = await page.evaluate<string>("location.hash");

      await open(`/concepts/semaphores${hash}`);
      expect(await page.evaluate("document.querySelector('#code').value")).toBe(code);
    });

    test("that is broken leaves the demo as it is", async () => {
      await openDemo("semaphores#code=%E0%A4%A");
      expect(await lines()).toHaveLength(15);
    });
  });

  describe("every page", () => {
    test("the list pictures each demo", async () => {
      await open("/");
      await page.view.resize(1280, 6000);
      await page.until("document.querySelectorAll('.picture svg').length === 13");
      const labels = await page.evaluate<string[]>(
        "[...document.querySelectorAll('.picture svg')].map((svg) => svg.getAttribute('aria-label'))",
      );
      expect(labels).toContain("Its demo, recorded: 5 lanes, 300 ms");
      expect(page.errors).toEqual([]);
      await page.view.resize(1280, 900);
    });

    test.each(["/", "/concepts/semaphores", "/concepts/performance", "/concepts/interleavings"])(
      "%s doesn't jump while it is made",
      async (path) => {
        await open(path);
        await page.until(
          path === "/"
            ? "document.querySelector('.picture svg')"
            : "document.querySelector('#picture svg')",
        );
        const shift = await page.evaluate<number>(`new Promise((resolve) => {
          let sum = 0;
          new PerformanceObserver((list) => list.getEntries().forEach(({ value }) => (sum += value)))
            .observe({ type: "layout-shift", buffered: true });
          setTimeout(() => resolve(sum), 100);
        })`);
        expect(shift).toBeLessThan(0.01);
      },
    );

    test.each([360, 768, 1920])("fits into %d px", async (width) => {
      await page.view.resize(width, 900);
      for (const path of ["/", "/concepts/async-basics"]) {
        await open(path);
        await page.until("document.querySelector('svg')");
        expect(
          await page.evaluate("document.documentElement.scrollWidth - innerWidth"),
        ).toBeLessThanOrEqual(0);
      }
      await page.view.resize(1280, 900);
    });

    test("is under 60 kB in all, gzipped", async () => {
      for (const path of ["/", "/concepts/semaphores"]) {
        await open(path);
        await page.until("document.querySelector('svg')");
        const sizes = await Promise.all(
          [...new Set(page.requests)]
            .filter(
              (url) => url.startsWith("http") && !(path === "/" && url.includes("/concepts/")),
            )
            .map(async (url) => {
              const answer = await fetch(url, { headers: { accept: "text/html" } });
              return Bun.gzipSync(await answer.bytes()).byteLength;
            }),
        );
        expect(sizes.length).toBeGreaterThan(2);
        expect(sizes.reduce((sum, size) => sum + size)).toBeLessThan(60_000);
      }
    });

    const pages = ["/", "/concepts/nothing", "/concepts/async-basics", "/concepts/interleavings"];
    test.skipIf(!existsSync(AXE)).each(pages)("%s: axe-core finds nothing", async (path) => {
      await open(path);
      if (path !== "/concepts/nothing") await page.until("document.querySelector('svg')");
      // Not as a script of the page: its policy would refuse it.
      const expression = await Bun.file(AXE).text();
      await page.view.cdp("Runtime.evaluate", { expression });
      for (const scheme of ["light", "dark"]) {
        const features = [{ name: "prefers-color-scheme", value: scheme }];
        await page.view.cdp("Emulation.setEmulatedMedia", { features });
        const options = {
          resultTypes: ["violations"],
          preload: false,
          ...(scheme === "dark" && { runOnly: ["color-contrast"] }),
        };
        const violations = await evaluate<unknown[]>(`
          return axe.run(document, ${JSON.stringify(options)}).then(({ violations }) => violations.map(
            ({ id, nodes }) => [id, ...nodes.map((node) => node.html + node.failureSummary)],
          ))
        `);
        expect({ scheme, violations }).toEqual({ scheme, violations: [] });
      }
    });
  });
});

/** Each logs whether it was refused. */
const ATTEMPTS = `export async function demo(log) {
  const attempt = async (what, reach) => {
    try {
      await reach();
      log(what, "went through");
    } catch {
      log(what, "refused");
    }
  };
  const opened = (target) => new Promise((resolve, reject) => {
    target.onopen = target.onload = target.onmessage = resolve;
    target.onerror = (event) => (event.preventDefault?.(), reject(event));
  });
  await attempt("fetch here", () => fetch("HERE/a"));
  await attempt("fetch there", () => fetch("THERE/a", { mode: "no-cors" }));
  await attempt("XHR", () => {
    const request = new XMLHttpRequest();
    request.open("GET", "HERE/b");
    request.send();
    return opened(request);
  });
  await attempt("WebSocket", () => opened(new WebSocket("THERE/c".replace("http", "ws"))));
  await attempt("EventSource", () => opened(new EventSource("HERE/d")));
  await attempt("import here", () => import("HERE/concepts/pools.js"));
  await attempt("import there", () => import("THERE/e.js"));
  await attempt("importScripts", () => importScripts("HERE/f.js"));
  await attempt("a worker of its own", () => {
    const source = "fetch('HERE/g').then(() => postMessage(0), () => setTimeout(() => { throw 0 }))";
    return opened(new Worker(URL.createObjectURL(new Blob([source]))));
  });
  await attempt("eval", () => (0, eval)("1"));
}
`;
