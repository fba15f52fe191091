/**
 * What browsers get: the list of concepts, a page for each, and their scripts. The text is filled in
 * here, so that it is there before any script has run.
 *
 * The HTML could be imported and served by Bun itself; but what Bun serves comes before Elysia, and so
 * has none of the limits and headers, and another reading of the path. Bun only builds the scripts.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";

import { lazy } from "../concepts/async-basics.ts";
import { type Concept, type File, ROOT, toFile } from "./concepts.ts";
import { demoOf } from "./demos.ts";

const HTML = "text/html; charset=utf-8";
const JAVASCRIPT = "text/javascript; charset=utf-8";
const CSS = "text/css; charset=utf-8";

/** What every page is held to. Styles and scripts come from files, and from here only. */
const PAGE = {
  "content-security-policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; " +
    "connect-src 'self'; worker-src 'self'; font-src 'none'; base-uri 'none'; form-action 'none'; " +
    "frame-ancestors 'none'",
  "cross-origin-opener-policy": "same-origin",
  "referrer-policy": "no-referrer",
};

/** The worker runs what visitors write: it reaches no network, not even this server. */
const WORKER = { "content-security-policy": "default-src 'none'; script-src blob:" };

/** An asset's name has the hash of what is in it. */
const FOREVER = { "cache-control": "public, max-age=31536000, immutable" };

/** Their clocks are their own, or what they show. They run in real time. */
const LIVE = new Set(["interleavings", "performance", "virtual-time"]);

interface Assets {
  /** By their paths. */
  files: Map<string, File>;
  /** The path of each, by the name of its source. */
  paths: Map<string, string>;
}

const assets = lazy(build);

/** The pages of these concepts, for people who found the server at an origin. */
export class Pages {
  readonly #concepts: ReadonlyMap<string, Concept>;
  readonly #modules = new Map<string, () => Promise<File>>();

  constructor(concepts: readonly Concept[]) {
    this.#concepts = new Map(concepts.map((concept) => [concept.name, concept]));
    for (const { name, concept } of concepts) {
      this.#modules.set(
        name,
        lazy(() => toModule(name, concept.source)),
      );
    }
  }

  /** The list. */
  async list(): Promise<File> {
    const { paths } = await assets();
    const items = [...this.#concepts.values()].map(toItem).join("\n");
    return fill("index.html", paths, (rewriter) =>
      rewriter
        .on("body", attributes({ "data-worker": paths.get("worker.ts")! }))
        .on("#concepts", { element: (list) => void list.setInnerContent(items, { html: true }) }),
    );
  }

  /** The page of a concept, if there is such a one. */
  async concept(name: string, origin: string): Promise<File | undefined> {
    const concept = this.#concepts.get(name);
    if (!concept) return undefined;
    const { paths } = await assets();
    const { source } = concept.concept;
    const needs = LIVE.has(name) ? [name] : [name, "virtual-time"];
    const about = Bun.markdown.html(concept.header);
    void origin;
    return fill("concept.html", paths, (rewriter) =>
      rewriter
        .on(
          "body",
          attributes({
            "data-concept": name,
            "data-worker": paths.get("worker.ts")!,
            "data-needs": needs.join(" "),
            "data-clock": LIVE.has(name) ? "live" : "virtual",
          }),
        )
        .on("h1", { element: (title) => void title.setInnerContent(concept.title) })
        .on("#about", { element: (section) => void section.setInnerContent(about, { html: true }) })
        .on("#code", {
          element: (code) => void code.setInnerContent(demoOf(name, source, concept.exports)),
        })
        .on("#orders", {
          element: (section) => void (name === "interleavings" || section.remove()),
        }),
    );
  }

  /** A concept as JavaScript for browsers. */
  async module(name: string): Promise<File | undefined> {
    return this.#modules.get(name)?.();
  }

  /** One of the pages' own scripts and styles. */
  async asset(name: string): Promise<File | undefined> {
    const { files } = await assets();
    return files.get(`/page/${name}`);
  }
}

/** Builds the scripts of the pages. */
async function build(): Promise<Assets> {
  const names = ["list.ts", "concept.ts", "worker.ts"];
  const files = new Map<string, File>();
  const paths = new Map<string, string>();
  const add = (source: string, name: string, suffix: string, headers: Record<string, string>) => {
    const file = toFile(source, headers);
    const path = `/page/${name.split(".")[0]}-${file.etag.slice(1, 13)}.${suffix}`;
    files.set(path, file);
    paths.set(name, path);
  };
  const { outputs } = await Bun.build({
    entrypoints: names.map((name) => join(ROOT, "page", name)),
    target: "browser",
    minify: true,
  });
  for (const [n, name] of names.entries()) {
    const headers = { "content-type": JAVASCRIPT, ...FOREVER };
    add(
      await outputs[n]!.text(),
      name,
      "js",
      name === "worker.ts" ? { ...headers, ...WORKER } : headers,
    );
  }
  const style = readFileSync(join(ROOT, "page/style.css"), "utf8");
  add(style, "style.css", "css", { "content-type": CSS, ...FOREVER });
  return { files, paths };
}

/** Bundles a concept, which keeps the line that says where it comes from. */
async function toModule(name: string, source: string): Promise<File> {
  const { outputs } = await Bun.build({
    entrypoints: [join(ROOT, "concepts", `${name}.ts`)],
    target: "browser",
    banner: source.slice(0, source.indexOf("\n")),
  });
  return toFile(await outputs[0]!.text(), { "content-type": JAVASCRIPT });
}

/** Fills in a page's HTML, in which scripts and styles have the names of their sources. */
function fill(
  name: string,
  paths: ReadonlyMap<string, string>,
  fillIn: (rewriter: HTMLRewriter) => HTMLRewriter,
): File {
  const link = (attribute: string) => ({
    element(element: HTMLRewriterTypes.Element) {
      const path = paths.get(element.getAttribute(attribute) ?? "");
      if (path) element.setAttribute(attribute, path);
    },
  });
  const rewriter = new HTMLRewriter().on("link", link("href")).on("script", link("src"));
  const html = readFileSync(join(ROOT, "page", name), "utf8");
  return toFile(fillIn(rewriter).transform(html), { "content-type": HTML, ...PAGE });
}

function attributes(values: Record<string, string>) {
  return {
    element(element: HTMLRewriterTypes.Element) {
      for (const [name, value] of Object.entries(values)) element.setAttribute(name, value);
    },
  };
}

function toItem({ name, title, summary, elsewhere }: Concept): string {
  return `<li data-concept="${name}"><article>
<h2><a href="/concepts/${name}">${Bun.escapeHTML(title)}</a></h2>
<p>${Bun.escapeHTML(summary)}</p>
<p>${Bun.escapeHTML(elsewhere)}</p>
<div class="picture"></div>
</article></li>`;
}
