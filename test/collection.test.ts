/**
 * What holds for every concept, those to come included: it stands alone, it can be imported without
 * any effect, it explains and shows itself, and every example in it and in the README compiles and
 * runs.
 */
import { afterAll, beforeAll, describe, expect, spyOn, test } from "bun:test";
import { cp, mkdtemp, readdir, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { judge } from "../bench/thresholds.ts";
import { virtualTime } from "../concepts/virtual-time.ts";

const root = join(import.meta.dir, "..");
const files = (await readdir(join(root, "concepts"))).sort();
const { version } = await Bun.file(join(root, "package.json")).json();
const concepts = await Promise.all(
  files.map(async (file) => {
    const path = join(root, "concepts", file);
    return { name: file.replace(/\.ts$/, ""), path, source: await Bun.file(path).text() };
  }),
);

describe.each(concepts.map((concept) => [concept.name, concept] as const))(
  "concepts/%s.ts",
  (name, { path, source }) => {
    test("imports nothing, not even types", () => {
      const statements = source.match(/^(import\s*[^.\s].*|export\b.*\bfrom\b.*)$/gm);

      expect(statements).toBeNull();
      expect(new Bun.Transpiler({ loader: "ts" }).scanImports(source)).toEqual([]);
    });

    test("has a companion and a bench", async () => {
      expect(await Bun.file(join(root, "test", `${name}.test.ts`)).exists()).toBe(true);
      expect(await Bun.file(join(root, "bench", `${name}.bench.ts`)).exists()).toBe(true);
    });

    test("begins with a line that says where a copy comes from", () => {
      expect(source.split("\n")[0]).toBe(
        `// async-concepts ${version}, MIT License. A file to copy and own; please keep this line.`,
      );
    });

    // Otherwise require() on Node and bundlers that write CommonJS refuse the file.
    test("awaits nothing at the top level", () => {
      expect(source).not.toMatch(/^(?!(export )?async )[^\s/*].*\bawait\b/m);
      expect(source.trimEnd()).toMatch(/\nif \(\(import\.meta as .*\)\.main\) void demo\(\);$/);
    });

    test("begins with a header that says what it is and what others call it", () => {
      const header = source.slice(0, source.indexOf("*/"));

      expect(header).toMatch(/^\/\/.*\n\n\/\*\*\n \* # \S/);
      expect(header).toContain("Known elsewhere as:");
      expect(header).toContain("@module");
    });

    test("documents every export, with an example for all that can be called", () => {
      for (const { declaration, doc } of exportsOf(source)) {
        expect(doc, declaration).toMatch(/^\/\*\*[^]+\*\/$/);
        const canBeCalled = /^export ((async )?function(?! demo\b)|class (?!\w+ extends \w*Error))/;
        if (canBeCalled.test(declaration)) expect(doc, declaration).toContain("@example");
      }
    });

    test("shows itself in under two seconds, in lanes and states", async () => {
      const { demo } = await import(path);
      const lines: unknown[][] = [];
      const show = async (clock?: { elapsed: number }) => {
        await demo((...line: unknown[]) => lines.push(line));
        return clock?.elapsed;
      };

      // A virtual clock can't be nested, and the demos that have one need no other.
      const hasClock = ["virtual-time", "interleavings"].includes(name);
      const ms = hasClock ? 0 : await virtualTime(show);
      if (hasClock) await show();

      expect(ms).toBeLessThan(2000);
      expect(lines.length).toBeGreaterThan(1);
      for (const line of lines) expect(line).toEqual([expect.any(String), expect.any(String)]);
    });
  },
);

describe("what several concepts need", () => {
  const declarations = concepts.flatMap(({ name, source }) =>
    declarationsOf(source).map((declaration) => ({ ...declaration, concept: name })),
  );

  test.each([...new Set(declarations.filter(({ isShared }) => isShared).map(({ name }) => name))])(
    "%s is the same to the letter wherever it is shared",
    (name) => {
      const versions = declarations.filter((other) => other.isShared && other.name === name);

      expect(new Set(versions.map(({ text }) => text)).size).toBe(1);
    },
  );

  // Otherwise a second version of a helper could grow beside the Shared block.
  test("stands nowhere but in the Shared block", () => {
    const repeated = declarations.filter(({ isShared, isExported, name, text, concept }) =>
      declarations.some(
        (other) =>
          !(isShared || isExported) &&
          other.name === name &&
          other.concept !== concept &&
          (/^(async )?function/m.test(text) || other.text === text),
      ),
    );

    expect(repeated.map(({ concept, name }) => `${concept}: ${name}`)).toEqual([]);
  });
});

test("imported, no concept does anything", async () => {
  const paths = concepts.map(({ path }) => path);
  const importer = Bun.spawn([process.execPath, "-e", importQuietly, ...paths], {
    stdout: "pipe",
    stderr: "pipe",
  });

  expect(await textOf(importer.stderr)).toBe("");
  expect(await textOf(importer.stdout)).toBe("");
  expect(await importer.exited).toBe(0);
});

test("run as programs, all concepts print lines of one shape", async () => {
  const outputs = concepts.map(({ path }) => textOf(Bun.spawn([process.execPath, path]).stdout));

  for (const output of await Promise.all(outputs)) {
    expect(output).toMatch(/^(\+ *\d+ ms {2}\S.* {2}\S.*\n)+$/);
  }
});

describe("examples", async () => {
  const examples = concepts.flatMap(({ name, source }) =>
    blocksOf(source.replace(/^ *\* ?/gm, "")).map((code, n) => ({
      title: `concepts/${name}.ts, ${n + 1}`,
      file: `concepts/${name}.example-${n + 1}.ts`,
      code,
    })),
  );
  const readme = blocksOf(await Bun.file(join(root, "README.md")).text()).map((code, n) => ({
    file: `readme-${n + 1}${code.includes('"bun:test"') ? ".test" : ".example"}.ts`,
    code,
  }));
  let folder: string;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "async-concepts-"));
    await cp(join(root, "concepts"), join(folder, "concepts"), { recursive: true });
    for (const name of ["node_modules", "package.json", "page", "server", "server.ts"]) {
      await symlink(join(root, name), join(folder, name));
    }
    for (const { file, code } of [...examples, ...readme])
      await Bun.write(join(folder, file), code);
    const options = await Bun.file(join(root, "tsconfig.json")).json();
    const write = (to: string, types: string[], include: string[]) => {
      const compilerOptions = { ...options.compilerOptions, types };
      return Bun.write(join(folder, to), JSON.stringify({ compilerOptions, include }));
    };
    await write("tsconfig.concepts.json", [], ["concepts"]);
    await write("tsconfig.readme.json", ["bun-types"], ["*.ts"]);
  });
  afterAll(() => rm(folder, { recursive: true }));

  test.each(["tsconfig.concepts.json", "tsconfig.readme.json"])(
    "type-check: %s",
    async (config) => {
      const check = Bun.spawn([process.execPath, "check", "-p", config], {
        cwd: folder,
        stdout: "pipe",
        stderr: "ignore",
      });

      expect(await textOf(check.stdout)).toBe("");
      expect(await check.exited).toBe(0);
    },
  );

  test.each(examples)("run: $title", async ({ file }) => {
    const assert = spyOn(console, "assert");
    try {
      await import(join(folder, file));

      for (const [condition] of assert.mock.calls) expect(condition).toBe(true);
      expect(assert).toHaveBeenCalled();
    } finally {
      assert.mockRestore();
    }
  });

  const isTest = ({ file }: { file: string }) => file.endsWith(".test.ts");
  const programs = readme.filter((example) => !isTest(example)).map(({ file }) => [file]);
  test.each([...programs, ["test", "readme"]])("run: README, bun %s", async (...command) => {
    const program = Bun.spawn([process.execPath, ...command], {
      cwd: folder,
      stdout: "ignore",
      stderr: "pipe",
    });

    const stderr = await textOf(program.stderr);
    expect(stderr).not.toContain("Assertion failed");
    expect(await program.exited, stderr).toBe(0);
  });
});

describe("thresholds", () => {
  const threshold = {
    name: "made up",
    subject: ["fast", () => {}],
    baseline: ["slow", () => {}],
    atMost: 2,
  } as const;
  const measuring = (...ratios: number[]) => {
    const measure = async () => {
      const median = ratios[measure.calls++]!;
      return { low: median / 2, median, high: 2 * median };
    };
    measure.calls = 0;
    return measure;
  };

  test.each([1.99, 2])("a ratio of %d is within 2, and is measured once", async (ratio) => {
    const measure = measuring(ratio);

    const verdict = await judge(threshold, measure);

    expect(verdict.met).toBe(true);
    expect(verdict.line).toStartWith(`ok      ${ratio.toFixed(2)} x, at most 2`);
    expect(measure.calls).toBe(1);
  });

  test("a miss counts only when it is measured three times", async () => {
    expect(await judge(threshold, measuring(2.01, 9, 1))).toHaveProperty("met", true);

    const verdict = await judge(threshold, measuring(9, 8, 2.01, 1));
    expect(verdict.met).toBe(false);
    expect(verdict.line).toStartWith("MISS    2.01 x, at most 2");
    expect(verdict.line).toContain("half of the rounds lie between 1.00 and 4.02; some are within");
  });

  test("what could not be measured is a miss", async () => {
    expect(await judge(threshold, measuring(NaN, NaN, NaN))).toHaveProperty("met", false);
  });

  test.each([
    { busy: "subject", exitCode: 1 },
    { busy: "baseline", exitCode: 0 },
  ])("a bench whose $busy is the slower one exits with $exitCode", async ({ busy, exitCode }) => {
    const bench = `
      import { checkThresholds } from ${JSON.stringify(join(root, "bench/thresholds.ts"))};
      const idle = () => {};
      const busy = () => { for (let n = 0; n < 1e5; n++) globalThis.sum = (globalThis.sum ?? 0) + n; };
      const [subject, baseline] = ${busy === "subject" ? "[busy, idle]" : "[idle, busy]"};
      await checkThresholds([{ name: "", subject: ["", subject], baseline: ["", baseline], atMost: 1 }]);
    `;
    const program = Bun.spawn([process.execPath, "-e", bench], {
      env: { ...process.env, BENCH: "quick" },
      stderr: "inherit",
    });

    expect(await textOf(program.stdout)).toStartWith(exitCode ? "MISS" : "ok");
    expect(await program.exited).toBe(exitCode);
  });
});

/**
 * A program that imports the files it is given, and throws if one has changed or started anything.
 */
const importQuietly = `
  const watched = [globalThis, Promise, Promise.prototype, AbortSignal, AbortSignal.prototype, EventTarget.prototype,
    Symbol, Array.prototype, Object.prototype, Function.prototype, Error, Date, performance, console, process];
  const snapshot = () => watched.flatMap((object) =>
    Reflect.ownKeys(object).map((key) => {
      const { value, get } = Object.getOwnPropertyDescriptor(object, key);
      return [object, key, value, get];
    }));
  let timers = 0;
  for (const name of ["setTimeout", "setInterval", "setImmediate", "queueMicrotask"]) {
    const start = globalThis[name];
    globalThis[name] = (...args) => (timers++, start(...args));
  }
  const same = (a, b) => a.length === b.length && a.every((item, n) => Object.is(item, b[n]));
  for (const path of process.argv.slice(1)) {
    const before = snapshot();
    const listeners = process.eventNames();
    await import(path);
    const after = snapshot();
    if (timers) throw new Error(path + " started a timer");
    if (!same(process.eventNames(), listeners)) throw new Error(path + " listens to the process");
    const changed = after.filter((entry, n) => !before[n] || !same(entry, before[n]));
    if (changed.length || after.length !== before.length)
      throw new Error(path + " changed " + changed.map((entry) => String(entry[1])));
  }
`;

/** Every exported declaration's first line, and the comment that ends on the line above it. */
function exportsOf(source: string): { declaration: string; doc: string | undefined }[] {
  const overloads = new Set<string>();
  return [...source.matchAll(/^export .*/gm)].flatMap(({ 0: declaration, index }) => {
    // Only the first of several overloads carries the comment.
    const signature = /^export (?:async )?function \*?\s*(\w+)/.exec(declaration)?.[1];
    if (signature && overloads.has(signature)) return [];
    if (signature) overloads.add(signature);
    const before = source.slice(0, index);
    const doc = before.endsWith("*/\n")
      ? before.slice(before.lastIndexOf("/**")).trim()
      : undefined;
    return [{ declaration, doc }];
  });
}

/** Every declaration at the top level outside of the header, with the comment above it. */
function declarationsOf(source: string) {
  const [own, shared = ""] = source.split(/^\/\/ ─── Shared ─+$/m) as [string, string?];
  const [inBlock, demo = ""] = shared.split(/^\/\/ ─── Demo: .*$/m) as [string, string?];
  const parse = (text: string, isShared: boolean) =>
    text.split(/\n\n(?=\S)/).flatMap((chunk) => {
      const code = chunk.replace(/^(\/\*\*[^]*?\*\/|\/\/.*)\n/, "");
      const match =
        /^(export )?(?:async |abstract )*(?:function\*?|class|interface|type|const|let) (\w+)/.exec(
          code,
        );
      if (!match) return [];
      return [{ name: match[2]!, isExported: Boolean(match[1]), isShared, text: chunk.trim() }];
    });
  // The tail of the demo, which prints, is shared as well.
  return [
    ...parse(own, false),
    ...parse(inBlock, true),
    ...parse(demo, true).filter(({ isExported }) => !isExported),
  ];
}

function blocksOf(markdown: string): string[] {
  return [...markdown.matchAll(/^```ts\n([^]*?)^```$/gm)].map((match) => match[1]!);
}

function textOf(stream: ReadableStream): Promise<string> {
  return new Response(stream).text();
}
