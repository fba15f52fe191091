/** Each name of ours on the page of equivalents exists. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";

const root = join(import.meta.dir, "..");
const read = (path: string) => Bun.file(join(root, path)).text();
const concepts = [...new Bun.Glob("concepts/*.ts").scanSync(root)];
const code = (await Promise.all(concepts.map(read)))
  .join("\n")
  .replace(/\/\*[^]*?\*\/|\/\/.*/g, "");

const exported = allOf(/^export (?:async )?(?:function\*?|class|interface|type|const) (\w+)/gm);
const members = allOf(/^ +(?:(?:readonly|get|set|async|static|override) )*\*?(\w+)\??[(<:]/gm);

/** Globals, and what their objects have. */
const platform = new Set(
  [
    globalThis,
    ...[Promise, AbortController, AbortSignal, Array, Symbol, Object, JSON, performance],
    ...[Promise, AbortSignal, Array, Map, Set, ReadableStream, Response, EventTarget, Error].map(
      ({ prototype }): object => prototype,
    ),
    Object.getPrototypeOf(async function* () {}.prototype),
  ].flatMap((it) => Object.getOwnPropertyNames(it)),
);

/** Keywords, what only some platforms have, and what stands for the reader's own. */
const others = new Set(
  (
    "await break const finally if return throw try value text main " +
    "AbortError AsyncDisposable AsyncLocalStorage Readable SuppressedError TimeoutError anything " +
    "asymmetricMatch expect statechange toEqual toHaveLength action add call enter exit fly fn " +
    "forever healthy manager open remove see sources test"
  ).split(" "),
);

const page = await read("EQUIVALENTS.md");
const rows = page.split("\n").flatMap((line) => {
  const [, there, here] = line.split(/(?<!\\)\|/);
  return !here || /^ (---|There )/.test(there!) ? [] : [{ there: there!.trim(), here }];
});

describe("the page of equivalents", () => {
  test("names nothing of ours that doesn't exist", () => {
    const unknown = rows.flatMap(({ there, here }) =>
      namesIn(here).flatMap((name) => (isKnown(name) ? [] : [`${name}, for ${there}`])),
    );

    expect(unknown).toEqual([]);
  });

  test("has a row for hundreds of names; where there is nothing, it says why", () => {
    expect(rows.length).toBeGreaterThan(500);
    for (const { there, here } of rows) {
      expect(here, there).toMatch(/\w/);
      const says = here.replaceAll('"none"', "");
      if (/\bnone\b/.test(says)) expect(says, there).toMatch(/\bnone, (because .+|as above)/);
    }
  });

  test.each(concepts)("says what %s has", async (path) => {
    const names = (await read(path)).match(/(?<=^export (async )?(function\*?|class) )\w+/gm)!;
    const [, listed] = page.match(new RegExp(`\\]\\(${path}\\)\\s+\\| (.*) \\|`)) ?? [];

    const expected = new Set(names).difference(new Set(["demo"]));
    expect(new Set(listed!.match(/\w+/g))).toEqual(expected);
  });

  test("the README opens with it", async () => {
    expect((await read("README.md")).slice(0, 2500)).toContain("(EQUIVALENTS.md)");
  });
});

function allOf(pattern: RegExp): Set<string> {
  return new Set([...code.matchAll(pattern)].map(([, name]) => name!));
}

/** What is called, what stands after a dot, and what stands alone, in the code of a cell. */
function namesIn(cell: string): string[] {
  const spans = [...cell.matchAll(/`([^`]+)`/g)].map(([, span]) => span!.replace(/"[^"]*"/g, ""));
  return spans.flatMap((span) => {
    const called = span.match(/\w+(?=\()/g) ?? [];
    const dotted = span.match(/(?<=\.)[a-z]\w*/gi) ?? [];
    return [...called, ...dotted, ...(/^\w+$/.test(span) ? [span] : [])];
  });
}

function isKnown(name: string): boolean {
  return [exported, members, platform, others].some((names) => names.has(name));
}
