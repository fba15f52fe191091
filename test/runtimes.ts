/**
 * Takes every concept to where a copy of it may live: alone into an empty folder, type-checked there
 * under the strictest flags and without anybody's types, run on Bun, Node and Deno, loaded with
 * `require()`, and bundled to CommonJS and to a script for browsers. Its companion goes along, with
 * what it imports, and runs under vitest on Node and on Deno.
 *
 * All that is needed beside Bun comes from the npm registry.
 *
 * Run as `bun run test:runtimes`. Exits with 1 if anything fails.
 */
import { cp, mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

const root = join(import.meta.dir, "..");
const names = (await readdir(join(root, "concepts"))).sort().map((file) => file.slice(0, -3));
const folder = await mkdtemp(join(tmpdir(), "async-concepts-"));
const inFolder = (...path: string[]) => join(folder, "node_modules", ...path);
const bun = process.execPath;
const node = inFolder("node26", "bin", "node");
const node24 = inFolder("node24", "bin", "node");
const deno = inFolder("deno", "bin.cjs");
let failed = 0;

try {
  await install("node26@npm:node@26", "node24@npm:node@24", "deno@2.9", "vitest@4", "esbuild@0.28");
  for (const name of names) {
    const alone = await copyConcept(name);
    const file = `${name}.ts`;
    await claim(`${name} type-checks alone`, [bun, "check"], alone);
    await claim(`${name} runs on Bun`, [bun, file], alone, /\S/);
    await claim(`${name} runs on Node 26`, [node, file], alone, /\S/);
    await claim(`${name} runs on Node 24`, [node24, file], alone, /\S/);
    await claim(`${name} runs on Deno 2.9`, [node, deno, "run", "--no-prompt", file], alone, /\S/);

    const load = (path: string) => `console.log(typeof require("${path}").demo)`;
    const runScript = "vm.runInThisContext(fs.readFileSync(process.argv[1]))";
    const withBun = [bun, "build", "--target=browser"];
    const withEsbuild = [inFolder(".bin", "esbuild"), "--bundle", "--log-level=error"];
    for (const [claimed, command, expected] of [
      ["is loaded by require() on Node 26", [node, "-e", load(`./${file}`)], /^function/],
      ["is bundled to CommonJS by Bun", [...withBun, file, "--format=cjs", "--outfile=bun.cjs"]],
      ["… and loaded", [node, "-e", load("./bun.cjs")], /^function/],
      [
        "is bundled to a script by Bun",
        [...withBun, "app.ts", "--format=iife", "--outfile=bun.js"],
      ],
      ["… and run", [node, "-e", runScript, "bun.js"], /^function/],
      [
        "is bundled to CommonJS by esbuild",
        [...withEsbuild, file, "--format=cjs", "--outfile=es.cjs"],
      ],
      ["… and loaded", [node, "-e", load("./es.cjs")], /^function/],
      [
        "is bundled to a script by esbuild",
        [...withEsbuild, "app.ts", "--format=iife", "--outfile=es.js"],
      ],
      ["… and run", [node, "-e", runScript, "es.js"], /^function/],
    ] as const) {
      await claim(`${name} ${claimed}`, [...command], alone, expected);
    }
    await copyCompanion(name);
  }
  const vitest = inFolder("vitest", "vitest.mjs");
  const files = names.map((name) => `companions/${name}/test/${name}.test.ts`);
  const run = [vitest, "run", "--reporter=dot", ...files];
  await claim("all companions pass under vitest on Node 26", [node, ...run], folder, /passed/);
  await claim(
    "all companions pass under vitest on Deno 2.9",
    [node, deno, "run", "-A", ...run],
    folder,
    /passed/,
  );
  console.log(failed ? `${failed} failed` : `all ${names.length} concepts run everywhere`);
  if (failed) process.exitCode = 1;
} finally {
  await rm(folder, { recursive: true });
}

async function install(...packages: string[]): Promise<void> {
  await writeFile(join(folder, "package.json"), '{ "type": "module", "private": true }');
  const command = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", ...packages];
  const { code, stdout, stderr } = await execute(command, folder);
  if (code !== 0) throw new Error(`Cannot install ${packages.join(", ")}: ${stdout}${stderr}`);
}

async function copyConcept(name: string): Promise<string> {
  const alone = join(folder, "alone", name);
  await mkdir(alone, { recursive: true });
  await cp(join(root, "concepts", `${name}.ts`), join(alone, `${name}.ts`));
  const { compilerOptions } = await Bun.file(join(root, "tsconfig.json")).json();
  const strictest = {
    ...compilerOptions,
    types: [],
    isolatedDeclarations: true,
    declaration: true,
  };
  await writeFile(join(alone, "package.json"), '{ "type": "module" }');
  const app = `import { demo } from "./${name}.ts";\nconsole.log(typeof demo);\n`;
  await writeFile(join(alone, "app.ts"), app);
  await writeFile(join(alone, "tsconfig.json"), JSON.stringify({ compilerOptions: strictest }));
  return alone;
}

/** Copies a companion with the concepts it imports, and changes what the README says to change. */
async function copyCompanion(name: string): Promise<void> {
  const companion = join(folder, "companions", name);
  const source = await Bun.file(join(root, "test", `${name}.test.ts`)).text();
  await Bun.write(
    join(companion, "test", `${name}.test.ts`),
    source.replace('from "bun:test"', 'from "vitest"'),
  );
  for (const [, imported] of source.matchAll(/from "\.\.\/(concepts\/[\w-]+\.ts)"/g)) {
    await cp(join(root, imported!), join(companion, imported!));
  }
}

/** Runs a command that must succeed, and whose output must match. */
async function claim(
  claimed: string,
  command: string[],
  cwd: string,
  expected = /(?:)/,
): Promise<void> {
  const { code, stdout, stderr } = await execute(command, cwd);
  const holds = code === 0 && expected.test(stdout);
  console.log(`${holds ? "ok  " : "FAIL"} ${claimed}`);
  if (holds) return;
  failed++;
  console.log(stdout + stderr);
}

async function execute(command: string[], cwd: string) {
  const program = Bun.spawn(command, {
    cwd,
    env: { ...process.env, NO_COLOR: "1" },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    timeout: 300_000,
  });
  const [code, stdout, stderr] = await Promise.all([
    program.exited,
    new Response(program.stdout).text(),
    new Response(program.stderr).text(),
  ]);
  return { code, stdout, stderr };
}
