/** Runs every bench, one after the other, and exits with 1 if one of them does not exit with 0. */
import { join } from "node:path";

const files = [...new Bun.Glob("*.bench.ts").scanSync(import.meta.dir)].sort();
for (const file of files) {
  console.log(`\n${file}\n`);
  const { exitCode } = Bun.spawnSync([process.execPath, join(import.meta.dir, file)], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  if (exitCode !== 0) process.exitCode = 1;
}
