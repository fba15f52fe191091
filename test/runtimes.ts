/**
 * Copies every concept alone into an empty folder, type-checks it there under the strictest flags
 * and without anybody's types, and runs its demo on Bun, Node and Deno. Node and Deno come from the
 * npm registry; nothing but npx needs to be there.
 *
 * Run as `bun run test:runtimes`. Exits with 1 if anything fails.
 */
import { cp, mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

const root = join(import.meta.dir, "..");
const files = (await readdir(join(root, "concepts"))).sort();
const { compilerOptions } = await Bun.file(join(root, "tsconfig.json")).json();
const folder = await mkdtemp(join(tmpdir(), "async-concepts-"));

try {
  const [node, deno] = await fetchRuntimes("node@26", "deno@2.9");
  let failed = 0;
  for (const file of files) {
    const alone = join(folder, file.replace(".ts", ""));
    await mkdir(alone);
    await cp(join(root, "concepts", file), join(alone, file));
    await Bun.write(
      join(alone, "tsconfig.json"),
      JSON.stringify({
        compilerOptions: {
          ...compilerOptions,
          types: [],
          isolatedDeclarations: true,
          declaration: true,
        },
      }),
    );
    const attempts = {
      "type-checks alone": [process.execPath, "check"],
      "runs on Bun": [process.execPath, file],
      "runs on Node 26": [node, file],
      "runs on Deno 2.9": [deno, "run", "--no-prompt", file],
    };
    for (const [claim, command] of Object.entries(attempts)) {
      const { code, stdout, stderr } = await execute(command, alone);
      const ok = code === 0 && (claim === "type-checks alone" || stdout !== "");
      console.log(`${ok ? "ok  " : "FAIL"} ${file} ${claim}`);
      if (!ok) {
        failed++;
        console.log(stdout + stderr);
      }
    }
  }
  console.log(failed ? `${failed} failed` : `all ${files.length} concepts run everywhere`);
  if (failed) process.exitCode = 1;
} finally {
  await rm(folder, { recursive: true });
}

/** Has npx fetch packages, and returns where it has put their commands. */
async function fetchRuntimes<T extends string[]>(
  ...packages: T
): Promise<{ [K in keyof T]: string }> {
  const commands = packages.map((name) => `command -v ${name.split("@")[0]}`).join(" && ");
  const flags = packages.flatMap((name) => ["-p", name]);
  const { code, stdout, stderr } = await execute(["npx", "-y", ...flags, "-c", commands], folder);
  if (code !== 0) throw new Error(`npx could not fetch ${packages.join(" and ")}: ${stderr}`);
  return stdout.trim().split("\n") as { [K in keyof T]: string };
}

async function execute(command: string[], cwd: string) {
  const program = Bun.spawn(command, { cwd, stdout: "pipe", stderr: "pipe" });
  const [code, stdout, stderr] = await Promise.all([
    program.exited,
    new Response(program.stdout).text(),
    new Response(program.stderr).text(),
  ]);
  return { code, stdout, stderr };
}
