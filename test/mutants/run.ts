/**
 * `bun run test:mutants [name …]` breaks a concept, or the server, in every way that StrykerJS knows,
 * one at a time, and runs its tests. A break that no test notices must be listed in `survivors.json`,
 * by its code, with the reason why nobody could notice it. A name may have lines of the concept
 * behind it, `semaphores:40-80,95-99`: only these are broken then.
 *
 * It takes minutes for each. StrykerJS needs Node, and is installed here when it is first run.
 */
import { cp, mkdtemp, readdir, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

interface Survivor {
  /** The line as it is, and as it was broken. */
  code: string;
  broken: string;
  why: string;
}

interface Mutant {
  status: "Killed" | "Timeout" | "Survived" | "NoCoverage" | "RuntimeError" | "CompileError";
  replacement: string;
  location: Record<"start" | "end", { line: number; column: number }>;
}

/** What several concepts share is tried where its tests are. */
const SHARED: Record<string, string[]> = {
  "async-basics": ["require\\w+", "invalid", "describe"],
  concurrency: [
    "onAbort",
    "AbortListeners",
    "releaseHold",
    "requireCount",
    "requirePositiveInteger",
  ],
  semaphores: ["Line", "Waiter"],
  "virtual-time": ["Stage", "builtin", "onTestEnd", "toDelay"],
  performance: ["showMembers"],
};

const here = import.meta.dir;
const root = join(here, "../..");
const listed: Record<string, Survivor[]> = await Bun.file(join(here, "survivors.json")).json();
const concepts = (await readdir(join(root, "concepts"))).map((file) => file.replace(".ts", ""));
const wanted = Bun.argv.length > 2 ? Bun.argv.slice(2) : [...concepts.sort(), "server"];

await Bun.$`bun install --frozen-lockfile`.cwd(here).quiet();
let isClean = true;
for (const name of wanted) isClean = (await check(name)) && isClean;
process.exitCode = isClean ? 0 : 1;

/** Runs the mutants of one concept, and says whether all survivors are listed. */
async function check(target: string): Promise<boolean> {
  const [name = "", range] = target.split(":");
  const folder = await mkdtemp(join(tmpdir(), `mutants-${name}-`));
  try {
    for (const part of ["concepts", "test", "bench", "server", "server.ts", "package.json"]) {
      await cp(join(root, part), join(folder, part), {
        recursive: true,
        filter: (path) => !path.includes("node_modules"),
      }).catch((error) => {
        if (error.code !== "ENOENT") throw error;
      });
    }
    await symlink(join(root, "node_modules"), join(folder, "node_modules"));
    const tests =
      name === "server" ? "test/server test/batches test/upstream" : `test/${name}.test.ts`;
    const run = `bun test --bail ${tests}`;
    // Most breaks are noticed, or hang, without the tests that take long.
    const quick = `timeout 20 ${run} -t '^(?!.*(every order|whatever microtask|needs Bun))'`;
    const command = `${quick} && timeout 30 ${run}`;
    const config = {
      testRunner: "command",
      commandRunner: { command },
      mutate: name === "server" ? ["server/*.ts"] : await partsToBreak(folder, name, range),
      concurrency: 1,
      coverageAnalysis: "off",
      checkers: [],
      reporters: ["json", "progress-append-only"],
      timeoutMS: 52_000,
      symlinkNodeModules: true,
    };
    await Bun.write(join(folder, "stryker.conf.json"), JSON.stringify(config));
    await Bun.$`${join(here, "node_modules/.bin/stryker")} run`.cwd(folder);
    return await judge(name, folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** What stands above the line Shared, and of what stands below it that which is tried here. */
async function partsToBreak(folder: string, name: string, range?: string): Promise<string[]> {
  const path = `concepts/${name}.ts`;
  if (range) return range.split(",").map((lines) => `${path}:${lines}`);
  const lines = (await Bun.file(join(folder, path)).text()).split("\n");
  const shared = lines.findIndex((line) => line.startsWith("// ─── Shared"));
  const parts = [`${path}:1-${shared}`];
  for (const declaration of SHARED[name] ?? []) {
    const begins = new RegExp(`^(async )?(function|class) ${declaration}\\b`);
    for (let line = shared; line < lines.length; line++) {
      if (!begins.test(lines[line]!)) continue;
      const end = lines.findIndex((text, n) => n >= line && /^(\S.*)?\}$/.test(text));
      parts.push(`${path}:${line + 1}-${end + 1}`);
    }
  }
  return parts;
}

async function judge(name: string, folder: string): Promise<boolean> {
  const report = await Bun.file(join(folder, "reports/mutation/mutation.json")).json();
  let killed = 0;
  const survivors: Omit<Survivor, "why">[] = [];
  for (const { source, mutants } of Object.values<{ source: string; mutants: Mutant[] }>(
    report.files,
  )) {
    for (const mutant of mutants) {
      if (mutant.status === "Killed" || mutant.status === "Timeout") killed++;
      else if (mutant.status === "Survived") survivors.push(show(source, mutant));
    }
  }
  const known = listed[name] ?? [];
  const isListed = ({ code, broken }: Omit<Survivor, "why">) =>
    known.some((it) => it.code === code && it.broken === broken);
  const unlisted = survivors.filter((survivor) => !isListed(survivor));
  const score = (100 * killed) / (killed + survivors.length);
  console.log(
    `${name}: ${killed} of ${killed + survivors.length} noticed (${score.toFixed(1)} %), ` +
      `${survivors.length - unlisted.length} survivors listed, ${unlisted.length} not`,
  );
  for (const { code, broken } of unlisted) console.log(`  - ${code}\n  + ${broken}`);
  return unlisted.length === 0;
}

/** The lines of a mutant, before and after, on one line each. */
function show(source: string, { location, replacement }: Mutant): Omit<Survivor, "why"> {
  const { start, end } = location;
  const lines = source.split("\n");
  const before = lines[start.line - 1]!.slice(0, start.column - 1);
  const after = lines[end.line - 1]!.slice(end.column - 1);
  const code = lines.slice(start.line - 1, end.line).join("\n");
  const flat = (text: string) => text.trim().replace(/\s+/g, " ");
  return { code: flat(code), broken: flat(before + replacement + after) };
}
