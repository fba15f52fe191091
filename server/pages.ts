/**
 * What browsers get: the list of concepts, a page for each, and their scripts. The text is filled in
 * here, so that it is there before any script has run.
 *
 * Bun could serve an imported HTML file by itself, but it would do so before Elysia: without the
 * limits and headers of this server, and with another reading of the path. So it only builds.
 */
import { readFileSync } from "node:fs";
import { basename, join } from "node:path";

import { lazy } from "../concepts/async-basics.ts";
import { version } from "../package.json";
import { type Knob, KNOBS } from "../page/knobs.ts";
import { type Scenario, SCENARIOS } from "../page/scenarios.ts";
import { type Concept, type File, ROOT, toFile } from "./concepts.ts";
import { demoOf } from "./demos.ts";

const HTML = { "content-type": "text/html; charset=utf-8" };
const JAVASCRIPT = { "content-type": "text/javascript; charset=utf-8" };
const CSS = { "content-type": "text/css; charset=utf-8" };

/** What every page is held to: nothing comes from elsewhere, and nothing is inline. */
const PAGE = {
  ...HTML,
  "content-security-policy": [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data: blob:",
    "connect-src 'self'",
    "worker-src 'self'",
    "font-src 'none'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join("; "),
  "cross-origin-opener-policy": "same-origin",
  "referrer-policy": "no-referrer",
};

/** The worker runs what visitors write: no network is open to it, not even this server. */
const WORKER = { "content-security-policy": "default-src 'none'; script-src blob:" };

/** The name of an asset has a hash of what is in it. */
const FOREVER = { "cache-control": "public, max-age=31536000, immutable" };

/** On which clock a demo runs: some concepts have one of their own, or measure the real one. */
function clockOf(name: string): "live" | "virtual" {
  return ["interleavings", "performance", "virtual-time"].includes(name) ? "live" : "virtual";
}

interface Built {
  /** The files below `/page/`. */
  assets: Map<string, File>;
  /** Where the pages find them, by the names of their sources. */
  paths: Map<string, string>;
  /** The concepts as JavaScript, by their names. */
  modules: Map<string, File>;
}

/** The pages of some concepts. They are built when the first of them is asked for. */
export class Pages {
  readonly #concepts: readonly Concept[];
  readonly #built: () => Promise<Built>;
  /** The list of the concepts. */
  readonly list: () => Promise<File>;

  constructor(concepts: readonly Concept[]) {
    this.#concepts = concepts;
    this.#built = lazy(() => build(concepts));
    this.list = lazy(async () => {
      const { paths, modules } = await this.#built();
      const items = concepts.map((concept) => toItem(concept, modules.get(concept.name)!));
      return fill("index.html", paths, {
        body: { attributes: { "data-worker": paths.get("worker.ts")! } },
        "#version": { text: version },
        "#concepts": { html: items.join("\n") },
      });
    });
  }

  /**
   * The page of a concept.
   *
   * @param origin where visitors have found the server, for commands that they copy
   */
  async concept(concept: Concept, origin: string): Promise<File> {
    const { paths } = await this.#built();
    const { name, title, header, summary } = concept;
    const code = demoOf(concept);
    const clock = clockOf(name);
    const isOwn = ({ concepts }: Scenario) => concepts.includes(name) || name === "interleavings";
    const scenarios = SCENARIOS.filter(isOwn);
    return fill("concept.html", paths, {
      body: {
        attributes: {
          "data-concept": name,
          "data-worker": paths.get("worker.ts")!,
          "data-needs": clock === "live" ? name : `${name} virtual-time`,
          "data-clock": clock,
        },
      },
      title: { text: `${title} – async-concepts` },
      'meta[name="description"]': { attributes: { content: summary } },
      "nav ul": { html: this.#links(name) },
      h1: { text: title },
      "#about": { html: toHtml(header) },
      "#knobs": { html: (KNOBS[name] ?? []).map(toRow).join("\n") },
      "#code": { text: code, attributes: { rows: `${code.split("\n").length}` } },
      "#using": { isLeftOut: !/\busing\b/.test(code) },
      "#orders": { isLeftOut: scenarios.length === 0 },
      "#scenarios": { html: scenarios.map(toScenario).join("\n") },
      "#files": { html: filesOf(concept) },
      "#commands": { html: commandsOf(concept, origin) },
    });
  }

  /** The page for a concept that there is not. */
  async missing(): Promise<File> {
    const { paths } = await this.#built();
    return fill("missing.html", paths, { "main ul": { html: this.#links() } });
  }

  /** A concept as JavaScript for browsers, if there is one with this name. */
  async module(name: string): Promise<File | undefined> {
    return (await this.#built()).modules.get(name);
  }

  /** A script or the styles, if there is such a file. */
  async asset(name: string): Promise<File | undefined> {
    return (await this.#built()).assets.get(name);
  }

  #links(current?: string): string {
    return this.#concepts
      .map(({ name, title }) => {
        const isCurrent = name === current ? ' aria-current="page"' : "";
        return `<li><a href="/concepts/${name}"${isCurrent}>${Bun.escapeHTML(title)}</a></li>`;
      })
      .join("\n");
  }
}

async function build(concepts: readonly Concept[]): Promise<Built> {
  const scripts = ["list", "concept", "worker"];
  const [license = ""] = concepts[0]!.concept.source.split("\n", 1);
  const [pages, bundles] = await Promise.all([
    bundle("page", scripts, { minify: true }),
    // For people to read as well. The line that says where a file comes from stays with it.
    bundle(
      "concepts",
      concepts.map(({ name }) => name),
      { banner: license },
    ),
  ]);
  const style = readFileSync(join(ROOT, "page/style.css"), "utf8");
  const built: Built = { assets: new Map(), paths: new Map(), modules: new Map() };
  const add = (name: string, source: string, suffix: string, headers: Record<string, string>) => {
    const file = toFile(source, { ...headers, ...FOREVER });
    const path = name.replace(/\.\w+$/, `-${file.etag.slice(1, 13)}.${suffix}`);
    built.assets.set(path, file);
    built.paths.set(name, `/page/${path}`);
  };
  add("style.css", style, "css", CSS);
  for (const name of scripts) {
    const headers = name === "worker" ? { ...JAVASCRIPT, ...WORKER } : JAVASCRIPT;
    add(`${name}.ts`, pages.get(name)!, "js", headers);
  }
  for (const [name, source] of bundles) built.modules.set(name, toFile(source, JAVASCRIPT));
  return built;
}

/** Bundles TypeScript files of a folder for browsers, each on its own. */
async function bundle(folder: string, names: string[], options: Partial<Bun.BuildConfig>) {
  const entrypoints = names.map((name) => join(ROOT, folder, `${name}.ts`));
  const { outputs } = await Bun.build({ entrypoints, target: "browser", ...options });
  const sources = outputs.map(async (output) => {
    return [basename(output.path, ".js"), await output.text()] as const;
  });
  return new Map(await Promise.all(sources));
}

interface Filling {
  text?: string;
  html?: string;
  attributes?: Record<string, string>;
  isLeftOut?: boolean;
}

/** Fills in an HTML file, by selectors. It has the sources of scripts and styles, and gets their paths. */
function fill(name: string, paths: ReadonlyMap<string, string>, fillings: Record<string, Filling>) {
  const rewriter = new HTMLRewriter();
  for (const attribute of ["href", "src"]) {
    rewriter.on(`[${attribute}]`, {
      element(element) {
        const path = paths.get(element.getAttribute(attribute)!);
        if (path) element.setAttribute(attribute, path);
      },
    });
  }
  for (const [selector, { text, html, attributes = {}, isLeftOut }] of Object.entries(fillings)) {
    rewriter.on(selector, {
      element(element) {
        for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
        if (text !== undefined) element.setInnerContent(text);
        if (html !== undefined) element.setInnerContent(html, { html: true });
        if (isLeftOut) element.remove();
      },
    });
  }
  const html = readFileSync(join(ROOT, "page", name), "utf8");
  return toFile(rewriter.transform(html), PAGE);
}

/** The Markdown of comments, in which links to names are no more than names. */
function toHtml(markdown: string): string {
  const text = markdown.replace(/\{@link (\w+)\}/g, "`$1`");
  return Bun.markdown.html(text, { noHtmlBlocks: true, noHtmlSpans: true });
}

function toItem({ name, title, summary, elsewhere }: Concept, module: File): string {
  const size = (Bun.gzipSync(module.source).byteLength / 1000).toFixed(1);
  return `<li data-concept="${name}" data-clock="${clockOf(name)}"><article>
<h2><a href="/concepts/${name}">${Bun.escapeHTML(title)}</a></h2>
${toHtml(summary)}
<div class="picture"></div>
<div class="elsewhere">${toHtml(`Known elsewhere as: ${elsewhere}`)}</div>
<p class="size">${size} kB gzipped</p>
</article></li>`;
}

/** The label of a knob. The script puts the knob beside it, where there is room already. */
function toRow({ label }: Knob, index: number): string {
  return `<p><label for="knob-${index}">${Bun.escapeHTML(label)}</label></p>`;
}

function filesOf({ name }: Concept): string {
  const files = [
    ["The file", `/concepts/${name}.ts`],
    ["as JavaScript", `/concepts/${name}.js`],
    ["its test", `/tests/${name}.test.ts`],
    ["its bench", `/benches/${name}.bench.ts`],
  ] as const;
  return files.map(([label, path]) => `<li><a href="${path}">${label}</a></li>`).join("\n");
}

function toScenario({ name, title, text, broken, mended }: Scenario, index: number): string {
  const lengths = [broken, mended].map((code) => code.split("\n").length);
  // One more for what may be scrolled to the side.
  const rows = Math.min(24, Math.max(...lengths) + 1);
  const version = (kind: string, code: string) =>
    `<div class="version" role="group" aria-labelledby="${name}-${kind}">
<h4 id="${name}-${kind}">${kind}</h4>
<textarea rows="${rows}" aria-label="${title}, ${kind.toLowerCase()}: a scenario as JavaScript" aria-describedby="code-help" spellcheck="false"
autocapitalize="off" autocomplete="off" wrap="off">
${Bun.escapeHTML(code)}</textarea>
<svg class="dots" viewBox="0 0 480 144" role="img" aria-label="No order has been run"></svg>
<p class="verdict" role="status"></p>
<div class="chosen"></div>
</div>`;
  return `<details class="scenario"${index === 0 ? " open" : ""}>
<summary><h3 id="${name}">${title}</h3></summary>
${toHtml(text)}<p class="buttons"><button class="explore" type="button" aria-describedby="${name}">Run every order</button></p>
<div class="versions">${version("Broken", broken)}${version("Mended", mended)}</div>
</details>`;
}

/** Commands to copy. The origin has nothing in it that a shell or HTML would read as its own. */
function commandsOf({ name, needs }: Concept, origin: string): string {
  const others = needs.length > 0 ? `, which needs ${needs.join(", ")}` : "";
  const commands = [
    ["Fetch it", `curl -O ${origin}/concepts/${name}.ts`],
    ["From a clone", `cp concepts/${name}.ts your-project/src/`],
    [`With its test${others}`, `bunx shadcn add ${origin}/r/${name}.json`],
    ["See what it does, in Deno", `deno run ${origin}/concepts/${name}.ts`],
  ] as const;
  return commands
    .map(
      ([label, command]) => `<dt>${label}</dt>
<dd><code>${command}</code> <button type="button" data-copy="${command}" aria-label="Copy: ${label}">Copy</button></dd>`,
    )
    .join("\n");
}
