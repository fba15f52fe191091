/**
 * The pages as they come from the server, before any script has run: their text, their headers, the
 * scripts that are built for them, and the demos as JavaScript. Nothing here needs a browser.
 */
import { afterAll, beforeAll, describe, expect, spyOn, test } from "bun:test";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { virtualTime } from "../concepts/virtual-time.ts";
import { KNOBS } from "../page/knobs.ts";
import { createApp } from "../server.ts";
import { readConcepts } from "../server/concepts.ts";
import { demoOf, typedDemo } from "../server/demos.ts";
import { Pages } from "../server/pages.ts";
import { config, expectProblem, inProcess, overSocket, type Server } from "./serving.ts";

const root = join(import.meta.dir, "..");
const concepts = readConcepts();
const names = concepts.map(({ name }) => name);
/** What Chrome sends. */
const BROWSER = { accept: "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8" };

describe.each([
  ["in process", inProcess],
  ["over a socket", (app: Parameters<typeof inProcess>[0]) => overSocket(app)],
])("%s", (_, start) => {
  let server: Server;
  beforeAll(async () => void (server = await start(createApp(config()))));
  afterAll(() => server[Symbol.asyncDispose]());

  const open = async (path: string) => {
    const response = await server.fetch(path, { headers: BROWSER });
    return { response, page: new Page(await response.text()) };
  };

  describe("GET /", () => {
    test("lists each concept with its sentence, its other names, its size and a place for a picture", async () => {
      const { page } = await open("/");

      expect(page.attributes("#concepts > li", "data-concept")).toEqual(names);
      expect(page.attributes("#concepts > li", "data-clock")).toEqual(names.map(clockOf));
      expect(page.attributes("#concepts h2 a", "href")).toEqual(names.map((n) => `/concepts/${n}`));
      expect(page.all("#concepts h2 a")).toEqual(concepts.map(({ title }) => title));
      expect(page.all("article > p:first-of-type")).toEqual(
        concepts.map(({ summary }) => summary.replaceAll("`", "")),
      );
      for (const text of page.all(".elsewhere p"))
        expect(text).toMatch(/^Known elsewhere as: .+\.$/);
      for (const text of page.all(".size")) expect(text).toMatch(/^\d+\.\d kB gzipped$/);
      expect(page.all("article > .picture")).toEqual(names.map(() => ""));
    });

    test("names the columns where the other names are a table", async () => {
      const { page } = await open("/");

      expect(page.all(".elsewhere p")[names.indexOf("mocks")]).toBe(
        "Known elsewhere as: Jest, Vitest, bun:test; Python's AsyncMock.",
      );
    });
  });

  describe("GET /concepts/:name", () => {
    test.each(concepts)(
      "has the header of $name as text, and its demo as code",
      async (concept) => {
        const { name, title, summary } = concept;
        const { page } = await open(`/concepts/${name}`);

        expect(page.all("h1")).toEqual([title]);
        expect(page.all("title")).toEqual([`${title} – async-concepts`]);
        expect(page.attributes('meta[name="description"]', "content")).toEqual([summary]);
        const about = page.all("#about")[0]!.replace(/\s+/g, " ");
        expect(about).toStartWith(summary.replaceAll("`", ""));
        expect(about).toContain("Known elsewhere as:");
        expect(about).not.toMatch(/@link|@module/);
        expect(page.all("#code")).toEqual([demoOf(concept)]);
        expect(page.attributes("#code", "rows")).toEqual([`${demoOf(concept).split("\n").length}`]);
        expect(page.all("nav a[aria-current]")).toEqual([title]);
        expect(page.all("#knobs label")).toEqual(KNOBS[name]!.map(({ label }) => label));
        expect(page.attributes("#knobs label", "for")).toEqual(
          KNOBS[name]!.map((_, index) => `knob-${index}`),
        );
      },
    );

    test.each(concepts)("tells the scripts what $name needs", async ({ name }) => {
      const { page } = await open(`/concepts/${name}`);
      const [needs] = page.attributes("body", "data-needs");

      expect(page.attributes("body", "data-concept")).toEqual([name]);
      for (const need of needs!.split(" ")) {
        expect((await server.fetch(`/concepts/${need}.js`)).status).toBe(200);
      }
      expect(page.attributes("body", "data-clock")).toEqual([clockOf(name)]);
      expect(needs).toBe(clockOf(name) === "live" ? name : `${name} virtual-time`);
    });

    test("has the orders where there are some, and a word on `using` where it is used", async () => {
      const orders: string[] = [];
      const using: string[] = [];
      for (const { name } of concepts) {
        const { page } = await open(`/concepts/${name}`);
        if (page.all("#orders").length > 0) orders.push(name);
        if (page.all("#using").length > 0) using.push(name);
      }

      expect(orders).toEqual(["concurrency", "interleavings", "semaphores", "synchronization"]);
      expect(using).toEqual(["context-managers", "pools", "semaphores", "synchronization"]);
    });

    test("has links to all that it names, and commands with the address of this server", async () => {
      const { page, response } = await open("/concepts/semaphores");

      const { origin } = new URL(response.url || "http://localhost");
      expect(page.attributes("#commands button", "data-copy")).toEqual([
        `curl -O ${origin}/concepts/semaphores.ts`,
        "cp concepts/semaphores.ts your-project/src/",
        `bunx shadcn add ${origin}/r/semaphores.json`,
        `deno run ${origin}/concepts/semaphores.ts`,
      ]);
      expect(page.all("#commands dt")).toEqual([
        "Fetch it",
        "From a clone",
        "With its test, which needs interleavings, virtual-time",
        "See what it does, in Deno",
      ]);
      expect(page.all("#commands code")).toEqual(page.attributes("#commands button", "data-copy"));
      expect(page.attributes("#files a", "href")).toEqual([
        "/concepts/semaphores.ts",
        "/concepts/semaphores.js",
        "/tests/semaphores.test.ts",
        "/benches/semaphores.bench.ts",
      ]);
    });

    test("is JSON for programs, the same as in the list", async () => {
      const list = await (await server.fetch("/concepts")).json();

      for (const [index, name] of names.entries()) {
        const response = await server.fetch(`/concepts/${name}`);
        expect(response.headers.get("content-type")).toStartWith("application/json");
        expect(response.headers.get("vary")).toBe("Accept");
        expect(await response.json()).toEqual(list[index]);
      }
    });
  });

  describe("every page", () => {
    const paths = ["/", "/concepts/errors", "/concepts/nope"];

    test.each(paths)("%s is kept to this server by its headers", async (path) => {
      const { response } = await open(path);

      expect(Object.fromEntries(response.headers)).toMatchObject({
        "content-type": "text/html; charset=utf-8",
        "content-security-policy":
          "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; " +
          "connect-src 'self'; worker-src 'self'; font-src 'none'; base-uri 'none'; " +
          "form-action 'none'; frame-ancestors 'none'",
        "cross-origin-opener-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        vary: "Accept",
      });
    });

    test.each(paths)("%s has nothing inline, and no link that leads nowhere", async (path) => {
      const { page } = await open(path);

      expect(page.all("style, [style], script:not([src])")).toEqual([]);
      expect(page.html).not.toMatch(/<[^>]+\son\w+=/);
      const links = [
        ...page.attributes("[href]", "href"),
        ...page.attributes("[src]", "src"),
        ...page.attributes("[data-worker]", "data-worker"),
      ];
      expect(links.length).toBeGreaterThan(10);
      for (const link of links.filter((link) => link !== "data:,")) {
        expect(link).toStartWith("/");
        expect([200, 401]).toContain((await server.fetch(link)).status);
      }
    });

    test.each(paths)("%s has one heading of the first level, and a language", async (path) => {
      const { page } = await open(path);

      expect(page.all("h1")).toHaveLength(1);
      expect(page.attributes("html", "lang")).toEqual(["en"]);
      expect(page.all("main")).toHaveLength(1);
      expect(page.html).not.toMatch(/\b(href|src)="[\w.]+\.(ts|css)"/);
    });
  });

  describe("GET /page/:file", () => {
    test("hands out scripts and styles for ever, by names that have their hash", async () => {
      const { page } = await open("/concepts/errors");
      const scripts = [
        ...page.attributes("script", "src"),
        ...page.attributes("body", "data-worker"),
      ];
      const styles = page.attributes("link[rel=stylesheet]", "href");

      for (const path of [...scripts, ...styles]) {
        const { headers } = await server.fetch(path);

        expect(headers.get("cache-control")).toBe("public, max-age=31536000, immutable");
        expect(headers.get("content-type")).toBe(
          styles.includes(path) ? "text/css; charset=utf-8" : "text/javascript; charset=utf-8",
        );
        expect(path).toContain(`-${headers.get("etag")!.slice(1, 13)}.`);
      }
    });

    test("gives the worker a policy of its own: blobs, and no network", async () => {
      const { page } = await open("/");
      const [worker] = page.attributes("body", "data-worker");

      const { headers } = await server.fetch(worker!);

      expect(worker).toMatch(/^\/page\/worker-[\w-]{12}\.js$/);
      expect(headers.get("content-security-policy")).toBe("default-src 'none'; script-src blob:");
    });

    test.each(["list.ts", "worker.ts", "style.css", "index.html", "..%2fserver.ts"])(
      "answers 404 to %s",
      async (file) => {
        await expectProblem(await server.fetch(`/page/${file}`), 404, "Not Found", `/page/${file}`);
      },
    );
  });

  describe("GET /concepts/:name.js", () => {
    test.each(concepts)("is $name as one module", async ({ name, exports, concept }) => {
      const response = await server.fetch(`/concepts/${name}.js`, { headers: BROWSER });
      const source = await response.text();

      expect(response.headers.get("content-type")).toBe("text/javascript; charset=utf-8");
      expect(response.headers.get("access-control-allow-origin")).toBe("*");
      expect(source.split("\n")[0]).toBe(concept.source.split("\n")[0]!);
      const { imports, exports: names } = new Bun.Transpiler({ loader: "js" }).scan(source);
      expect(imports).toEqual([]);
      expect(names.toSorted()).toEqual(exports.toSorted());
    });
  });

  describe("GET /benches/:file", () => {
    test.each(names)("hands out the bench of %s", async (name) => {
      const response = await server.fetch(`/benches/${name}.bench.ts`);

      expect(response.headers.get("content-type")).toBe("text/typescript; charset=utf-8");
      expect(response.headers.get("access-control-allow-origin")).toBe("*");
      const source = await Bun.file(join(root, "bench", `${name}.bench.ts`)).text();
      expect(await response.text()).toBe(source);
    });

    test.each(["all.ts", "server.bench.ts", "..%2fserver.ts"])(
      "answers 404 to %s",
      async (file) => {
        const response = await server.fetch(`/benches/${file}`);

        await expectProblem(response, 404, "Not Found", `/benches/${file}`);
      },
    );
  });

  test.each(["/concepts/errors.ts", "/tests/errors.test.ts", "/benches/errors.bench.ts"])(
    "%s can be read in a browser, which would save TypeScript",
    async (path) => {
      const { response } = await open(path);

      expect(response.headers.get("content-type")).toBe("text/plain; charset=utf-8");
      expect(response.headers.get("vary")).toBe("Accept");
    },
  );

  test.each(["/", "/concepts/errors", "/concepts/errors.js", "/benches/errors.bench.ts"])(
    "%s is not sent again to a browser that has it, and has the same headers for HEAD",
    async (path) => {
      const get = await server.fetch(path, { headers: BROWSER });
      const etag = get.headers.get("etag")!;
      const length = Buffer.byteLength(await get.text());

      expect(get.headers.get("cache-control")).toBe("no-cache");
      const head = await server.fetch(path, { method: "HEAD", headers: BROWSER });
      expect(await head.text()).toBe("");
      expect(head.headers.get("content-length")).toBe(`${length}`);
      expect(head.headers.get("content-type")).toBe(get.headers.get("content-type"));
      expect(head.headers.get("etag")).toBe(etag);
      const headers = { ...BROWSER, "if-none-match": etag };
      const again = await server.fetch(path, { headers });
      expect(again.status).toBe(304);
      expect(await again.text()).toBe("");
    },
  );

  test("a concept that there is not is a page for browsers, and a problem for programs", async () => {
    for (const path of ["/concepts/nope", "/concepts/nope.ts"]) {
      const headers = { ...BROWSER, "if-none-match": "*" };
      const response = await server.fetch(path, { headers });
      expect(response.status).toBe(404);
      expect(response.headers.get("cache-control")).toBe("no-store");
      expect(response.headers.get("etag")).toBeNull();
      expect(new Page(await response.text()).attributes("main a", "href")).toEqual(
        names.map((name) => `/concepts/${name}`),
      );
      await expectProblem(await server.fetch(path), 404, "Not Found", path);
    }
    const script = await server.fetch("/concepts/nope.js", { headers: BROWSER });
    await expectProblem(script, 404, "Not Found", "/concepts/nope.js");
  });
});

test.each(["a;b", "a$(b)", "a'b", 'a"b', "a&b"])(
  "the host %s is put into no command",
  async (host) => {
    const request = new Request(`http://${host}/concepts/errors`, { headers: BROWSER });

    const response = await createApp(config()).handle(request);

    await expectProblem(response, 400, "Bad Request", "/concepts/errors");
  },
);

describe("Pages", () => {
  test("are built once, however many ask at first, and anew after a failure", async () => {
    using build = spyOn(Bun, "build");
    build.mockRejectedValueOnce(new Error("out of memory"));
    const pages = new Pages(concepts);

    await expect(pages.list()).rejects.toThrow("out of memory");
    expect(build).toHaveBeenCalledTimes(2);
    const same = await Promise.all([pages.list(), pages.list(), pages.list()]);

    await Promise.all([pages.missing(), pages.module("errors"), pages.asset("none")]);
    expect(new Set(same).size).toBe(1);
    expect(build).toHaveBeenCalledTimes(4);
  });

  test("take what a header says for text, but for its Markdown", async () => {
    const header =
      "A `Task<T>` of *yours*. See {@link sleep}, <b>not</b> this.\n\n<script>alert()</script>";
    const concept = { ...concepts[0]!, title: "<i>", header, summary: '"', elsewhere: "<u>" };
    const pages = new Pages([concept]);

    const { source } = await pages.concept(concept, "http://localhost");
    const { source: list } = await pages.list();

    expect(source).toContain(
      "<p>A <code>Task&lt;T&gt;</code> of <em>yours</em>. See <code>sleep</code>, &lt;b&gt;not&lt;/b&gt; this.</p>",
    );
    expect(source).toContain("&lt;script&gt;alert()&lt;/script&gt;");
    expect(source).toContain("<h1>&lt;i&gt;</h1>");
    expect(source).toContain('content="&quot;"');
    expect(source + list).not.toMatch(/<(b|i|u|script)>/);
  });

  const app = createApp(config());
  test.each(["", ...names])(
    "/concepts/%s takes less than 60 kB gzipped with all that it loads",
    async (name) => {
      const get = async (path: string) => {
        const response = await app.handle(new Request(`http://a${path}`, { headers: BROWSER }));
        return response.text();
      };
      const html = await get(name ? `/concepts/${name}` : "/");
      const page = new Page(html);
      const paths = [
        ...page.attributes("script", "src"),
        ...page.attributes("link[rel=stylesheet]", "href"),
        ...page.attributes("body", "data-worker"),
        ...(page.attributes("body", "data-needs")[0]?.split(" ") ?? []).map(
          (n) => `/concepts/${n}.js`,
        ),
      ];

      const texts = [html, ...(await Promise.all(paths.map(get)))];

      const bytes = texts.reduce((sum, text) => sum + Bun.gzipSync(text).byteLength, 0);
      expect(bytes).toBeLessThan(60_000);
    },
  );
});

describe("demoOf", () => {
  let folder: string;
  beforeAll(async () => void (folder = await mkdtemp(join(tmpdir(), "async-concepts-"))));
  afterAll(() => rm(folder, { recursive: true }));

  test.each(concepts)("takes nothing but the types out of $name", (concept) => {
    const code = demoOf(concept);
    // Without types, the compiler makes the same of both.
    const compiled = (text: string, loader: "js" | "ts") =>
      new Bun.Transpiler({ loader, target: "browser" })
        .transformSync(text)
        .replace(/^import .*;\n/gm, "")
        // Names that it makes up for `using`.
        .replace(/\b(__\w+)_\w{8}\b/g, "$1")
        .replace("(log = print)", "(log)");
    const typed = typedDemo(concept.concept.source);

    expect(code).toStartWith("import { ");
    expect(code).toContain("\nexport async function demo(log) {\n");
    expect(compiled(code, "js")).toBe(compiled(typed, "ts"));
    // Comments and layout stay.
    const comments = (text: string) => text.match(/\/\*\*[^]*?\*\/|^ *\/\/.*$/gm);
    expect(comments(code)).toEqual(comments(typed));
    expect(code.trim().split("\n").length).toBe(typed.split("\n").length + 2);
  });

  test.each(concepts)("is the demo of $name: it logs what the file's own does", async (concept) => {
    const { name } = concept;
    const own = await import(join(root, "concepts", `${name}.ts`));
    const code = demoOf(concept).replace(
      `"./${name}.js"`,
      JSON.stringify(join(root, "concepts", `${name}.ts`)),
    );
    await Bun.write(join(folder, `${name}.js`), code);
    const copy = await import(join(folder, `${name}.js`));
    const linesOf = async ({ demo }: typeof own) => {
      const lines: string[] = [];
      const run = () => demo((lane: string, state: string) => void lines.push(`${lane}: ${state}`));
      await (["interleavings", "virtual-time"].includes(name) ? run() : virtualTime(run));
      // The dates of the virtual clock go on from the real one.
      return lines.map((line) => line.replace(/\d{4}-.*Z/, "a date"));
    };

    expect(await linesOf(copy)).toEqual(await linesOf(own));
  });
});

test("page/ imports nothing but itself, and no type of Bun's or the server's", async () => {
  const files = (await readdir(join(root, "page"))).filter((file) => file.endsWith(".ts"));
  const transpiler = new Bun.Transpiler({ loader: "ts" });

  for (const file of files) {
    const source = await Bun.file(join(root, "page", file)).text();
    for (const { path } of transpiler.scanImports(source)) {
      expect(path).toMatch(/^\.\/[\w-]+\.ts$/);
    }
    expect(source).not.toMatch(/\b(Bun|process|Buffer)\./);
  }
});

function clockOf(name: string): string {
  return ["interleavings", "performance", "virtual-time"].includes(name) ? "live" : "virtual";
}

/** A page, asked by selectors. */
class Page {
  readonly html: string;

  constructor(html: string) {
    this.html = html;
  }

  /** The texts of the elements. */
  all(selector: string): string[] {
    const texts: string[] = [];
    new HTMLRewriter()
      .on(selector, {
        element: () => void texts.push(""),
        text: ({ text }) => void (texts[texts.length - 1] += text),
      })
      .transform(this.html);
    return texts.map(decoded);
  }

  /** The values that the elements have for an attribute. */
  attributes(selector: string, name: string): string[] {
    const values: string[] = [];
    new HTMLRewriter()
      .on(selector, { element: (element) => void values.push(element.getAttribute(name) ?? "") })
      .transform(this.html);
    return values.map(decoded);
  }
}

function decoded(html: string): string {
  const names: Record<string, string> = { lt: "<", gt: ">", quot: '"', amp: "&", "#x27": "'" };
  return html.replace(/&(lt|gt|quot|amp|#x27);/g, (_, name) => names[name]!);
}
