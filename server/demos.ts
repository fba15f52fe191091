/**
 * The demo of a concept as the page's editor has it: a JavaScript module that imports the concept. It
 * is read from the file, so that comments and layout stay, and only the types are taken out.
 */

import type { Concept } from "./concepts.ts";

/** What stands under the line `Demo`, without its types and without what prints. */
export function demoOf({ name, concept, exports }: Concept): string {
  const code = withoutTypes(typedDemo(concept.source));
  const used = exports.filter((name) => name !== "demo" && new RegExp(`\\b${name}\\b`).test(code));
  return `import { ${used.join(", ")} } from "./${name}.js";\n\n${code}\n`;
}

/** The function `demo` as the file has it. */
export function typedDemo(source: string): string {
  const [, below = ""] = source.split(/^\/\/ ─── Demo: .*$/m);
  const [code = ""] = below.split(/^let start\b/m);
  return code.trim();
}

/**
 * Takes out the types of a demo: those of parameters, of variables, and of what a function returns
 * or is called with. No more TypeScript than the demos use; a test holds that nothing else changes.
 */
export function withoutTypes(code: string): string {
  return code
    .replace("(log: (lane: string, state: string) => void = print): Promise<void>", "(log)")
    .replace(/^( *(?:let|const) \w+): [^=\n]+(?= = )/gm, "$1")
    .replace(/(?<=\b(?:new )?\w+)<[^\n]+?>(?=\()/g, "")
    .replace(/(?<=[(,] ?)(\w+)\??: (?:\(\) => )?[A-Za-z][\w.]*(?:<\w+>)?(?=[,)])/g, "$1");
}
