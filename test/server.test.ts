/**
 * How to test a web service: every answer twice, in process and over a socket, so that neither the
 * router nor the network makes a difference unseen; then the program itself, with its environment,
 * signals and exit codes. Nothing sleeps: slow handlers wait for a promise that the test resolves, and
 * what comes from outside is waited for by what it says.
 *
 * The rooms of the server have tests of their own: `server-limits`, `server-access`, `batches`.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync } from "node:fs";

import packageJson from "../package.json";
import { createApp, serve } from "../server.ts";
import {
  aborted,
  config,
  eventually,
  expectProblem,
  gate,
  inProcess,
  KEY,
  metricsOf,
  overSocket,
  type Server,
} from "./serving.ts";

// A program takes half a second to start, on a busy machine much longer.
setDefaultTimeout(30_000);

const files = readdirSync(new URL("../concepts/", import.meta.url)).sort();

describe.each([
  ["in process", inProcess],
  ["over a socket", (app: Parameters<typeof inProcess>[0]) => overSocket(app)],
])("%s", (_, start) => {
  let server: Server;
  beforeAll(async () => void (server = await start(createApp(config()))));
  afterAll(() => server[Symbol.asyncDispose]());

  describe("GET /health", () => {
    test("says that it is well, which version it is, and since when", async () => {
      const before = Date.now();
      const response = await server.fetch("/health");

      expect(response.status).toBe(200);
      expect(response.headers.get("content-type")).toStartWith("application/json");
      const health = await response.json();
      expect(health).toEqual({
        status: "ok",
        version: packageJson.version,
        uptime: expect.any(Number),
        timestamp: expect.any(String),
      });
      expect(health.uptime).toBeGreaterThanOrEqual(0);
      expect(new Date(health.timestamp).toISOString()).toBe(health.timestamp);
      expect(Date.parse(health.timestamp)).toBeWithin(before, Date.now() + 1);
    });

    // The one place in which a second is a promise: so the service's own specification has it.
    test.each([1, 10, 100, 1000])("answers %d at once in under a second", async (count) => {
      const started = performance.now();
      const responses = await Promise.all(
        Array.from({ length: count }, () => server.fetch("/health")),
      );
      const elapsed = performance.now() - started;

      expect(responses.map(({ status }) => status)).toEqual(Array(count).fill(200));
      expect(elapsed).toBeLessThan(1000);
      await Promise.all(responses.map((response) => response.text()));
    });
  });

  describe("GET /", () => {
    test("says where everything is, to programs and to people", async () => {
      const json = await server.fetch("/");
      expect(json.headers.get("vary")).toBe("Accept");
      const { name, version, links } = await json.json();
      expect({ name, version }).toEqual({ name: "async-concepts", version: packageJson.version });
      for (const path of Object.values<string>(links)) {
        expect([200, 401]).toContain((await server.fetch(path)).status);
      }

      const accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
      const html = await server.fetch("/", { headers: { accept } });
      expect(html.headers.get("content-type")).toBe("text/html; charset=utf-8");
      const page = await html.text();
      for (const path of Object.values<string>(links)) expect(page).toContain(`href="${path}"`);
    });
  });

  describe("GET /concepts", () => {
    test("lists all files with what they say of themselves", async () => {
      const response = await server.fetch("/concepts");

      expect(response.status).toBe(200);
      const list: { name: string; file: string; summary: string; exports: string[] }[] =
        await response.json();
      expect(list.map(({ file }) => file)).toEqual(files);
      for (const { name, file, summary, exports } of list) {
        expect(`${name}.ts`).toBe(file);
        expect(summary).toMatch(/^[A-Z][^\n]+\.$/);
        const module = await import(`../concepts/${file}`);
        expect(exports.toSorted()).toEqual(Object.keys(module).sort());
      }
      expect(list.find(({ name }) => name === "semaphores")).toEqual({
        name: "semaphores",
        file: "semaphores.ts",
        summary: expect.stringContaining("how many tasks run at a time"),
        exports: expect.arrayContaining(["Semaphore", "Mutex", "limit"]),
      });
    });
  });

  describe("GET /concepts/:file", () => {
    test.each(files)("hands out %s as it is", async (file) => {
      const response = await server.fetch(`/concepts/${file}`);

      expect(response.status).toBe(200);
      expect(response.headers.get("content-type")).toBe("text/typescript; charset=utf-8");
      expect(response.headers.get("cache-control")).toBe("no-cache");
      const source = await Bun.file(new URL(`../concepts/${file}`, import.meta.url)).text();
      expect(await response.text()).toBe(source);
    });

    test("gives each file a strong ETag of its own, and always the same", async () => {
      const etag = async (file: string) =>
        (await server.fetch(`/concepts/${file}`)).headers.get("etag");
      const [first, again] = [
        await Promise.all(files.map(etag)),
        await Promise.all(files.map(etag)),
      ];

      expect(first).toEqual(again);
      expect(new Set(first).size).toBe(files.length);
      for (const tag of first) expect(tag).toMatch(/^"[^"]+"$/);
    });

    test.each([
      ["the ETag", (etag: string) => etag, 304],
      ["a weak one", (etag: string) => `W/${etag}`, 304],
      ["a list with it", (etag: string) => `"a", W/"b,c",${etag} , "d"`, 304],
      ["a star", () => "*", 304],
      ["another one", () => '"other"', 200],
      ["a list without it", () => '"a", W/"b"', 200],
      ["it without quotes", (etag: string) => etag.slice(1, -1), 200],
      ["a part of it", (etag: string) => `${etag.slice(0, -2)}"`, 200],
      ["garbage", () => 'W/,,""*', 200],
      ["nothing", () => "", 200],
    ])("to If-None-Match with %s", async (_, header, status) => {
      const full = await server.fetch("/concepts/errors.ts");
      const etag = full.headers.get("etag")!;

      for (const method of ["GET", "HEAD"]) {
        const headers = { "If-None-Match": header(etag) };
        const response = await server.fetch("/concepts/errors.ts", { method, headers });

        expect(response.status).toBe(status);
        expect(response.headers.get("etag")).toBe(etag);
        expect(response.headers.get("cache-control")).toBe("no-cache");
        if (status === 304) expect(response.headers.get("content-length")).toBeNull();
        expect((await response.text()).length > 0).toBe(status === 200 && method === "GET");
      }
    });

    test.each([
      "nope.ts",
      "server.ts",
      "constructor.ts",
      "semaphores.mjs",
      "..%2fserver.ts",
      "%2e%2e%2fserver.ts",
      "..%5cserver.ts",
      "errors.ts%00",
    ])("answers 404 to %s, which is not in the list", async (file) => {
      const response = await server.fetch(`/concepts/${file}`);

      await expectProblem(response, 404, "Not Found", `/concepts/${file}`);
    });
  });

  describe("GET /tests/:file", () => {
    test.each(files)("hands out the companion of %s", async (file) => {
      const name = file.replace(/\.ts$/, ".test.ts");
      const response = await server.fetch(`/tests/${name}`);

      expect(response.headers.get("content-type")).toBe("text/typescript; charset=utf-8");
      const source = await Bun.file(new URL(name, import.meta.url)).text();
      expect(await response.text()).toBe(source);
    });

    test.each(["server.test.ts", "serving.ts", "semaphores.ts", "..%2fserver.ts"])(
      "answers 404 to %s, which is not one",
      async (file) => {
        await expectProblem(
          await server.fetch(`/tests/${file}`),
          404,
          "Not Found",
          `/tests/${file}`,
        );
      },
    );
  });

  describe("the registry", () => {
    test("has an item for each concept, with both files and what the test needs", async () => {
      const registry = await (await server.fetch("/r/registry.json")).json();
      expect(registry.name).toBe("async-concepts");
      expect(registry.items.map(({ name }: { name: string }) => `${name}.ts`)).toEqual(files);

      for (const { name, registryDependencies } of registry.items) {
        const item = await (await server.fetch(`/r/${name}.json`)).json();
        const paths = [`concepts/${name}.ts`, `test/${name}.test.ts`];
        expect(item).toMatchObject({ name, type: "registry:item", registryDependencies });
        expect(item.files).toEqual(
          await Promise.all(
            paths.map(async (path) => ({
              path,
              type: "registry:file",
              target: `~/${path}`,
              content: await Bun.file(new URL(`../${path}`, import.meta.url)).text(),
            })),
          ),
        );
        const imported = [
          ...item.files[1].content.matchAll(/from "\.\.\/concepts\/([\w-]+)\.ts"/g),
        ];
        const needed = new Set(
          imported.map(([, other]) => other).filter((other) => other !== name),
        );
        const { origin } = new URL(registry.homepage);
        expect(registryDependencies.toSorted()).toEqual(
          [...needed].map((other) => `${origin}/r/${other}.json`).sort(),
        );
      }
    });

    test.each(["nope.json", "semaphores", "semaphores.ts"])("answers 404 to %s", async (file) => {
      await expectProblem(await server.fetch(`/r/${file}`), 404, "Not Found", `/r/${file}`);
    });
  });

  test.each(["/concepts", "/concepts/errors.ts", "/tests/errors.test.ts", "/r/errors.json"])(
    "%s may be read by pages of any origin",
    async (path) => {
      const { headers } = await server.fetch(path, { headers: { origin: "https://page.example" } });

      expect(headers.get("access-control-allow-origin")).toBe("*");
    },
  );

  describe("every path", () => {
    test.each(["/health", "/concepts", "/concepts/errors.ts", "/metrics", "/nope", "/"])(
      "%s has the same headers for HEAD, and no body",
      async (path) => {
        const get = await server.fetch(path);
        const head = await server.fetch(path, { method: "HEAD" });

        expect(head.status).toBe(get.status);
        expect(await head.text()).toBe("");
        for (const name of ["content-type", "etag", "cache-control", "x-content-type-options"]) {
          expect(head.headers.get(name)).toBe(get.headers.get(name));
        }
        const length = Buffer.byteLength(await get.text());
        // The uptime in it may get longer between the two.
        if (path !== "/health") expect(head.headers.get("content-length")).toBe(`${length}`);
      },
    );

    test.each(["/health", "/metrics", "/concepts", "/concepts/errors.ts"])(
      "%s answers 405 to other methods and tells OPTIONS which there are",
      async (path) => {
        for (const method of ["POST", "PUT", "DELETE", "PATCH", "PROPFIND"]) {
          const response = await server.fetch(path, { method });

          await expectProblem(response, 405, "Method Not Allowed", path);
          expect(response.headers.get("allow")).toBe("GET, HEAD, OPTIONS");
        }
        const options = await server.fetch(path, { method: "OPTIONS" });
        expect(options.status).toBe(204);
        expect(options.headers.get("allow")).toBe("GET, HEAD, OPTIONS");
      },
    );

    test.each(["/Health", "/health/x", "/concepts/a/b", "/he%61lth", "/constructor", "/__proto__"])(
      "%s is none, and is answered 404",
      async (path) => {
        for (const method of ["GET", "POST", "OPTIONS"]) {
          const response = await server.fetch(`${path}?key=secret`, { method });

          await expectProblem(response, 404, "Not Found", path);
        }
      },
    );

    test("is kept from being cached and sniffed", async () => {
      for (const path of ["/health", "/metrics", "/nope"]) {
        const { headers } = await server.fetch(path);

        expect(headers.get("cache-control")).toBe("no-store");
        expect(headers.get("x-content-type-options")).toBe("nosniff");
      }
    });
  });
});

describe("serve", () => {
  test("says at /health that it drains, answers what is in flight, and ends", async () => {
    const slow = gate();
    const app = createApp(config()).get("/slow", () => slow.pass());
    await using server = await overSocket(app, config());
    const response = server.fetch("/slow");
    await slow.reached(1);

    server.stop();

    const health = await server.fetch("/health");
    expect(health.status).toBe(503);
    expect(await health.json()).toMatchObject({ status: "draining" });
    expect(Bun.peek.status(server.stopped)).toBe("pending");
    slow.open();
    expect(await (await response).text()).toBe("passed");
    await server.stopped;
    await expect(server.fetch("/health")).rejects.toThrow();
  });

  test("takes no new batches while it drains", async () => {
    const slow = gate();
    const given = config();
    const app = createApp(given).get("/slow", () => slow.pass());
    await using server = await overSocket(app, given);
    const response = server.fetch("/slow");
    await slow.reached(1);

    server.stop();

    const batch = await server.fetch("/projects/demo/batches", {
      method: "POST",
      headers: { "x-api-key": KEY },
      body: JSON.stringify({ requests: [{ url: `${server.origin}/health` }] }),
    });
    await expectProblem(batch, 503, "Service Unavailable", "/projects/demo/batches");
    expect(Number(batch.headers.get("retry-after"))).toBeGreaterThan(0);
    slow.open();
    await response;
  });

  test("aborts what has not ended within DRAIN_MS, which may say a last word", async () => {
    const reasons: unknown[] = [];
    const app = createApp(config())
      .get("/polite", async function* ({ signal }) {
        yield "begun\n";
        reasons.push(await aborted(signal));
        yield "stopped\n";
      })
      .get("/obedient", async ({ signal }) => {
        throw await aborted(signal);
      });
    await using server = await overSocket(app, config({ DRAIN_MS: 10 }));
    const polite = await server.fetch("/polite");
    const obedient = server.fetch("/obedient");
    await eventually(async () => (await metricsOf(server)).inFlight === 2);

    server.stop();

    expect(await polite.text()).toBe("begun\nstopped\n");
    expect(reasons).toEqual([expect.objectContaining({ name: "AbortError" })]);
    await expectProblem(await obedient, 503, "Service Unavailable", "/obedient");
    await server.stopped;
  });

  test("answers for a deaf handler, cuts a deaf stream, and ends", async () => {
    const app = createApp(config())
      .get("/deaf", () => new Promise<never>(() => {}))
      .get(
        "/endless",
        () => new Response(new ReadableStream({ start: (c) => c.enqueue("begun") })),
      );
    await using server = await overSocket(app, config({ DRAIN_MS: 0 }));
    const deaf = server.fetch("/deaf");
    const endless = await server.fetch("/endless");
    const text = endless.text();
    text.catch(() => {});
    await eventually(async () => (await metricsOf(server)).inFlight === 2);

    server.stop();

    await expectProblem(await deaf, 503, "Service Unavailable", "/deaf");
    await server.stopped;
    await expect(text).rejects.toThrow();
  });

  test("does not share its port, and names what it can't listen at", async () => {
    await using server = await overSocket(createApp(config()));

    const taken = config({ PORT: server.port });
    const again = serve(createApp(taken), taken, new AbortController().signal);
    expect(again).rejects.toThrow(`HOST 127.0.0.1, PORT ${server.port}`);
    const nowhere = config({ HOST: "192.0.2.1" });
    const elsewhere = serve(createApp(nowhere), nowhere, new AbortController().signal);
    await expect(elsewhere).rejects.toThrow("HOST 192.0.2.1");
  });

  test("gives the demo project the server itself for an upstream", async () => {
    const given = config();
    await using server = await overSocket(createApp(given), given);

    const response = await server.fetch("/projects/demo/batches", {
      method: "POST",
      headers: { "x-api-key": given.demoKey! },
      body: JSON.stringify({ requests: [{ url: `${server.origin}/health` }] }),
    });

    const { results } = await response.json();
    expect(JSON.parse(results[0].body)).toMatchObject({ status: "ok" });
  });
});

// Each in a process of its own, so that they may as well run side by side.
describe.concurrent("the program", () => {
  test("prints where it listens and the keys that it made, once, and stops on SIGTERM", async () => {
    await using program = start({ PORT: "0", LOG: "silent" });
    const origin = await program.printed(/Listening on (\S+)\n/);
    const key = await program.printed(/The administrator's key: (\S+)\n/);
    const demo = await program.printed(/The key of the project demo: (\S+)\n/);

    const headers = { "x-api-key": key };
    expect((await fetch(`${origin}/metrics`, { headers })).status).toBe(200);
    expect((await fetch(`${origin}/metrics`)).status).toBe(401);
    program.kill("SIGTERM");

    expect(await program.ended()).toEqual({
      exitCode: 0,
      stdout: `Listening on ${origin}\nThe administrator's key: ${key}\nThe key of the project demo: ${demo}\n`,
      stderr: "",
    });
  });

  test("says in a line that its port is in use", async () => {
    const fetch = () => new Response("other");
    using other = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch });
    await using program = start({ PORT: `${other.port}`, API_KEY: KEY });

    expect(await program.ended()).toEqual({
      exitCode: 1,
      stdout: "",
      stderr: `Cannot start: Cannot listen at HOST 127.0.0.1, PORT ${other.port}: Failed to start server. Is port ${other.port} in use?\n`,
    });
  });

  test("names all that is wrong with its environment, and shows no secret", async () => {
    await using program = start({
      PORT: "http",
      API_KEY: "secret with spaces",
      MAX_IN_FLIGHT: "many",
    });

    const { exitCode, stdout, stderr } = await program.ended();

    expect({ exitCode, stdout }).toEqual({ exitCode: 1, stdout: "" });
    expect(stderr.split("\n").map((line) => line.trim().split(" ")[0])).toEqual([
      "Cannot",
      "PORT",
      "API_KEY",
      "MAX_IN_FLIGHT",
      "",
    ]);
    expect(stderr).not.toContain("secret with spaces");
  });

  test("ends within its time, whatever handlers are up to", async () => {
    const deaf = slowProgram("await new Promise(() => setInterval(() => {}, 10));");
    await using program = start({ PORT: "0", DRAIN_MS: "10", LOG: "silent" }, deaf);
    const response = fetch(`${await program.printed(/Listening on (\S+)\n/)}/slow`);
    await program.printed(/(in flight)/);

    program.kill("SIGTERM");

    expect((await response).status).toBe(503);
    expect((await program.ended()).exitCode).toBe(0);
  });

  test("logs a line of JSON for each request, never prints a key that it was given, and stops on SIGINT", async () => {
    await using program = start({ PORT: "0", API_KEY: KEY, LOG: "json" });
    const origin = await program.printed(/Listening on (\S+)\n/);
    const headers = { "x-request-id": "my-id.7", "x-api-key": KEY };
    await (await fetch(`${origin}/metrics?key=${KEY}`, { headers })).text();
    await (await fetch(`${origin}/nope`, { headers: { "x-request-id": "not sane" } })).text();
    program.kill("SIGINT");

    const { exitCode, stdout, stderr } = await program.ended();
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
    expect(stdout).not.toContain(KEY);
    const [first, second] = stdout
      .split("\n")
      .filter((line) => line.startsWith("{"))
      .map((line) => JSON.parse(line));
    expect(first).toEqual({
      time: expect.any(String),
      level: "info",
      id: "my-id.7",
      method: "GET",
      path: "/metrics",
      route: "/metrics",
      isAdmin: true,
      status: 200,
      durationMs: expect.any(Number),
      bytes: expect.any(Number),
    });
    expect(second).toMatchObject({ path: "/nope", status: 404 });
    expect(second.id).toMatch(/^[0-9a-f-]{36}$/);
  });

  // A program like server.ts, with a route that ends when the program has heard of the signal.
  const slowProgram = (onSignal: string) => `
    import { run } from "./concepts/async-basics.ts";
    import { createApp, parseConfig, serve } from "./server.ts";
    const config = parseConfig(process.env);
    await run((signal) => {
      const heard = new Promise((resolve) => signal.addEventListener("abort", resolve));
      const app = createApp(config).get("/slow", async () => {
        console.log("in flight");
        await heard;
        console.log("stopping");
        ${onSignal}
      });
      return serve(app, config, signal, (origin) => console.log("Listening on " + origin));
    });
    process.exit();`;

  test("answers what is in flight when it is told to stop", async () => {
    await using program = start({ PORT: "0" }, slowProgram('return "answered";'));
    const response = fetch(`${await program.printed(/Listening on (\S+)\n/)}/slow`);
    await program.printed(/(in flight)/);

    program.kill("SIGTERM");

    expect(await (await response).text()).toBe("answered");
    expect((await program.ended()).exitCode).toBe(0);
  });

  test("stops at once at the second signal", async () => {
    await using program = start({ PORT: "0" }, slowProgram("await new Promise(() => {});"));
    const response = fetch(`${await program.printed(/Listening on (\S+)\n/)}/slow`);
    response.catch(() => {});
    await program.printed(/(in flight)/);
    program.kill("SIGTERM");
    await program.printed(/(stopping)/);

    program.kill("SIGTERM");

    expect((await program.ended()).exitCode).toBe(143);
    await expect(response).rejects.toThrow();
  });
});

/** Runs server.ts, or other code beside it, as a program with this environment and no other. */
function start(env: Record<string, string>, code?: string) {
  const child = Bun.spawn([process.execPath, ...(code ? ["-e", code] : ["server.ts"])], {
    cwd: new URL("..", import.meta.url).pathname,
    env,
    stdout: "pipe",
    stderr: "pipe",
  });
  const stderr = new Response(child.stderr).text();
  const output = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let stdout = "";
  const read = async () => {
    const { done, value = "" } = await output.read();
    stdout += value;
    return !done;
  };
  return {
    kill: (signal: NodeJS.Signals) => child.kill(signal),
    /** Waits until the program has printed what matches, and returns the group in it. */
    printed: async (pattern: RegExp): Promise<string> => {
      for (;;) {
        const match = pattern.exec(stdout);
        if (match) return match[1]!;
        if (!(await read())) throw new Error(`Not printed: ${pattern}\n${stdout}${await stderr}`);
      }
    },
    ended: async () => {
      while (await read());
      return { exitCode: await child.exited, stdout, stderr: await stderr };
    },
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}
