/** Every order, in a real Chromium: the pages find the bugs that Bun finds, and in the same orders. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { lazy } from "../../concepts/async-basics.ts";
import { InterleavingError, interleavings } from "../../concepts/interleavings.ts";
import { SCENARIOS } from "../../page/scenarios.ts";
import { createApp } from "../../server.ts";
import { config, overSocket } from "../serving.ts";
import { browser, openPage, type Page } from "./browser.ts";

const AXE = join(import.meta.dir, "node_modules/axe-core/axe.min.js");

// A busy machine is slow to start browsers and workers.
setDefaultTimeout(100_000);

if (!browser) console.log("The tests of every order are skipped: there is no Chromium.");

describe("the pages' text", () => {
  const textOf = async (name: string) => {
    const headers = { accept: "text/html" };
    const request = new Request(`http://localhost/concepts/${name}`, { headers });
    return (await createApp(config()).handle(request)).text();
  };

  test("that of interleavings has all scenarios, before any script has run", async () => {
    const text = await textOf("interleavings");
    for (const { title, broken, mended } of SCENARIOS) {
      for (const part of [title, broken, mended]) {
        expect([part, text.includes(Bun.escapeHTML(part))]).toEqual([part, true]);
      }
    }
  });

  test("those of other concepts have what concerns them, or nothing", async () => {
    for (const name of ["semaphores", "concurrency", "synchronization", "pools"]) {
      const text = await textOf(name);
      const shown = SCENARIOS.filter((it) => text.includes(`<h3 id="${it.name}">`));
      expect(shown).toEqual(SCENARIOS.filter(({ concepts }) => concepts.includes(name)));
      expect(text.includes('id="orders"')).toBe(name !== "pools");
    }
  });
});

describe.skipIf(!browser)("in Chromium", () => {
  let server: Awaited<ReturnType<typeof overSocket>>;
  let page: Page;

  beforeAll(async () => {
    server = await overSocket(createApp(config()));
    page = await openPage();
  });

  afterAll(async () => {
    page?.[Symbol.dispose]();
    await server?.[Symbol.asyncDispose]();
  });

  async function open(name = "interleavings"): Promise<void> {
    page.errors.length = page.requests.length = 0;
    await page.open(`${server.origin}/concepts/${name}`);
    await page.until("document.querySelector('.chosen input')");
  }

  /** What an expression says of each version: `v` finds in it, and `all` in the whole page. */
  const ofVersions = <T>(expression: string) =>
    page.evaluate<T[]>(
      `[...document.querySelectorAll(".version")].map((version) => {
        const v = (selector) => version.querySelector(selector);
        return ${expression};
      })`,
    );

  /** Runs the scenarios whose number it is, or all, and waits for the verdicts. */
  async function run(index?: number): Promise<string[]> {
    await page.evaluate(`document.querySelectorAll(".scenario").forEach((scenario, index) => {
      if (${index ?? "index"} !== index) return;
      scenario.open = true;
      scenario.querySelector(".explore").click();
    })`);
    await page.until(`!document.querySelector(".verdict[aria-busy]")`, 90_000);
    const verdicts = await ofVersions<string>(`v(".verdict").textContent`);
    return index === undefined ? verdicts : verdicts.slice(2 * index, 2 * index + 2);
  }

  /** Puts code in the place of the first scenario's, and runs it. */
  async function runCode(code: string): Promise<string> {
    await page.evaluate(
      `void (document.querySelector(".version textarea").value = ${JSON.stringify(code)})`,
    );
    const [verdict] = await run(0);
    return verdict!;
  }

  /** All scenarios, explored once for the tests that look at that. */
  const explored = lazy(async () => {
    await open();
    await page.evaluate(`void (window.shift = 0, new PerformanceObserver((list) =>
      list.getEntries().forEach(({ value }) => (window.shift += value)))
      .observe({ type: "layout-shift" }))`);
    return {
      verdicts: await run(),
      dots: await ofVersions<[number, number, string]>(
        `[...version.querySelectorAll(".dots path")].slice(0, 2)
          .map((path) => path.getAttribute("d").split("M").length - 1)
          .concat(v(".dots").ariaLabel)`,
      ),
      chosen: await ofVersions<{ reason: string; schedule: string; spans: number }>(
        `({ reason: v(".reason").textContent, schedule: v(".chosen code").textContent,
            spans: version.querySelectorAll(".order svg [aria-label]").length })`,
      ),
      shift: await page.evaluate<number>("window.shift"),
      errors: [...page.errors],
      requests: [...page.requests],
    };
  });

  test("each bug is found in as many orders as on Bun, and mended in none", async () => {
    const { verdicts, dots, shift, errors, requests } = await explored();

    expect(verdicts).toEqual([
      "Fails in 1,512 of all 1,680 orders.",
      "Holds in all 72 orders.",
      "Fails in 12 of all 20 orders.",
      "Holds in all 6 orders.",
      "Fails in 60 of all 66 orders.",
      "Holds in all 18 orders.",
      "Fails in 60 of all 90 orders.",
      "Holds in all 90 orders.",
      "Fails in 1 of all 57 orders.",
      "Holds in all 57 orders.",
      "Fails in 14 of all 24 orders.",
      "Holds in all 24 orders.",
      "Fails in 4 of all 8 orders.",
      "Holds in all 6 orders.",
      "Fails in 48 of all 90 orders.",
      "Holds in all 55 orders.",
    ]);
    expect(dots[0]).toEqual([168, 1512, "1,680 orders, 1,512 of which fail"]);
    expect(dots[1]).toEqual([72, 0, "72 orders, 0 of which fail"]);
    expect(shift).toBeLessThan(0.01);
    expect(errors).toEqual([]);
    const isOwn = (url: string) => /^(data|blob):/.test(url) || url.startsWith(server.origin);
    expect(requests.filter((url) => !isOwn(url))).toEqual([]);
  });

  test("the first failing order of each is shown, and its schedule replays it on Bun", async () => {
    const { chosen } = await explored();
    for (const [index, { name, broken }] of SCENARIOS.entries()) {
      const { reason, schedule: text, spans } = chosen[2 * index]!;
      const schedule = /^interleavings\(scenario, \{ schedule: "(.+)" \}\)$/.exec(text)![1]!;
      const path = join(tmpdir(), `${name}-${crypto.randomUUID()}.js`);
      const concepts = join(import.meta.dir, "../../concepts");
      await Bun.write(path, broken.replace(/"\.\/([\w-]+)\.js"/g, `"${concepts}/$1.ts"`));
      const { scenario } = await import(path);
      await Bun.file(path).delete();
      const error = await interleavings(scenario, { schedule }).catch((error) => error);

      expect(error).toBeInstanceOf(InterleavingError);
      const switched = `${error.switches} ${error.switches === 1 ? "switch" : "switches"}`;
      expect(reason).toBe(`With ${switched}: ${error.message.split("\n\n")[0]}`);
      expect(spans).toBeGreaterThan(4);
    }
  });

  test("an order is chosen by a click, by the slider, and as the next that fails", async () => {
    await open("semaphores");
    await run(0);
    const place = async () => (await ofVersions<string>(`v("output").value`))[0];
    expect(await place()).toBe("7 of 1,680");

    await page.evaluate(`document.querySelector(".chosen input").focus()`);
    await page.view.press("Home");
    expect(await place()).toBe("1 of 1,680");
    expect((await ofVersions(`v(".reason").textContent`))[0]).toBe("With 0 switches: it holds.");
    const events = `[...version.querySelectorAll("li")].map((li) => li.value + " " + li.textContent)`;
    expect((await ofVersions<string[]>(events))[0]!.slice(0, 5)).toEqual([
      "1 ann: starts",
      "2 ann: read",
      "3 ann: write 110",
      "3 ann: done",
      "4 bob: starts",
    ]);
    await page.view.click(".chosen button");
    expect(await place()).toBe("7 of 1,680");
    const heard = await ofVersions(`v("input").ariaValueText`);
    expect(heard[0]).toBe("Order 7, failing");
    await page.view.press("End");

    // The third dot from the left in the upper row.
    const [x, y] = await page.evaluate<[number, number]>(`(() => {
      const svg = document.querySelector(".dots");
      svg.scrollIntoView();
      const { left, top, width } = svg.getBoundingClientRect();
      const [dot] = svg.querySelector("path").getAttribute("d").match(/[\\d.]+/);
      return [left + (5 * dot * width) / 480, top + (dot * width) / 480];
    })()`);
    await page.view.click(x, y);
    expect(await place()).toBe("3 of 1,680");
    expect((await ofVersions(`v(".order svg")?.ariaLabel`))[0]).toBe("Order 3, holding");
  });

  test("what a visitor changes is what is run", async () => {
    await open("semaphores");
    const { broken } = SCENARIOS.find(({ name }) => name === "lost-update")!;
    const own = broken.replace(/^.*eve.*\n/m, "").replace("160", "130");
    expect(await runCode(own)).toBe("Fails in 12 of all 20 orders.");

    expect(await runCode(own.replace('await world.step("read");', ""))).toBe(
      "Fails in 4 of all 6 orders.",
    );
    expect(await runCode(`export function scenario() {}`)).toBe("Holds in all 1 order.");
  });

  test.each([
    ["is not JavaScript", "export const a = ;", /^SyntaxError: .* at line 1$/],
    ["exports no scenario", "export const a = 1;", /scenario must be a function/],
    [
      "depends on more than the order",
      `let n = 0;
       export const scenario = (world) => Promise.all([world.step("a" + n++), world.step("b")]);`,
      /^InterleavingError: The scenario is not deterministic\./,
    ],
    [
      "never ends",
      "export function scenario() { for (;;); }",
      /^ended after 2 s: an endless loop\?$/,
    ],
    [
      "has too many orders",
      `export const scenario = (world) =>
         Promise.all([..."abcdefghi"].map((label) => world.step(label)));`,
      /^Holds in the first 5,500 orders\.$/,
    ],
  ])("code that %s", async (_, code, verdict) => {
    await open("semaphores");
    expect(await runCode(code)).toMatch(verdict);
    expect(page.errors).toEqual([]);
  });

  test("code that imports what there is not", async () => {
    await open("semaphores");
    expect(await runCode(`import "./nothing.js";`)).toBe(
      "Error: /concepts/nothing.js was answered with 404",
    );
  });

  test.skipIf(!existsSync(AXE))("axe-core finds nothing in what it shows", async () => {
    const axe = await Bun.file(AXE).text();
    await open("synchronization");
    await run();
    for (const value of ["light", "dark"]) {
      const features = [{ name: "prefers-color-scheme", value }];
      await page.view.cdp("Emulation.setEmulatedMedia", { features });
      const { result } = await page.view.cdp<{ result: { value: string } }>("Runtime.evaluate", {
        expression: `${axe};axe.run().then(({ violations }) => JSON.stringify(violations))`,
        awaitPromise: true,
        returnByValue: true,
      });
      expect(JSON.parse(result.value)).toEqual([]);
    }
  });
});
