/**
 * How to test a web service: every answer twice, in process and over a socket, so that neither the
 * router nor the network makes a difference unseen; then what only a socket can do to it (garbage,
 * half a request, a client that hangs up); and the program itself, with its environment, signals
 * and exit codes. Nothing sleeps: slow handlers wait for a promise that the test resolves, and what
 * comes from outside is waited for by what it says.
 */
import { afterAll, beforeAll, describe, expect, spyOn, test } from "bun:test";
import { readdirSync } from "node:fs";

import { NotFoundError } from "elysia";
import { z } from "zod";

import { poll } from "../concepts/async-basics.ts";
import { virtualTime } from "../concepts/virtual-time.ts";
import packageJson from "../package.json";
import { type Config, createApp, parseConfig, serve } from "../server.ts";

const KEY = "the-key-of-the-tests";
const KEY_RULE = "must be printable ASCII characters, none of them a space";
const authorized = { headers: { "X-API-Key": KEY } };
const files = readdirSync(new URL("../concepts/", import.meta.url)).sort();

describe.each([
  ["in process", inProcess],
  ["over a socket", overSocket],
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

  describe("GET /metrics", () => {
    test.each([
      ["no key", {}],
      ["an empty key", { "X-API-Key": "" }],
      ["a wrong key", { "X-API-Key": "a-key-that-is-wrong" }],
      ["a part of the key", { "X-API-Key": KEY.slice(0, -1) }],
      ["more than the key", { "X-API-Key": `${KEY}!` }],
      ["the key in capitals", { "X-API-Key": KEY.toUpperCase() }],
      ["the key in another header", { Authorization: `Bearer ${KEY}` }],
    ])("answers 401 to %s", async (_, headers) => {
      const response = await server.fetch("/metrics", { headers });

      const problem = await expectProblem(response, 401, "Unauthorized", "/metrics");
      expect(response.headers.get("www-authenticate")).toBe('ApiKey realm="metrics"');
      expect(JSON.stringify([problem, [...response.headers]])).not.toContain(KEY);
    });

    test.each(["X-API-Key", "x-api-key", "X-Api-KEY"])(
      "lets in who sends it as %s",
      async (name) => {
        const response = await server.fetch("/metrics", { headers: { [name]: KEY } });

        expect(response.status).toBe(200);
        expect(await response.json()).toEqual({
          timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
          uptime: expect.any(Number),
          requests: expect.any(Object),
          inFlight: 0,
          memory: { rss: expect.any(Number), heapUsed: expect.any(Number) },
        });
      },
    );

    test("counts by route, whatever is in the path; what is no route counts as one", async () => {
      await using server = await start(createApp(config()));
      const paths = ["/health", "/health/?a=1", "/concepts", "/concepts/errors.ts"];
      const others = ["/concepts/nope.ts", "/concepts/!", "/nope", "/nope/2", "/metrics"];
      for (const path of [...paths, ...others]) await server.fetch(path);
      await server.fetch("/health", { method: "HEAD" });
      await server.fetch("/health", { method: "POST" });
      await server.fetch("/nope", { method: "PROPFIND" });

      const { requests } = await metricsOf(server);

      expect(requests).toEqual({
        "GET /health": counted(3, { "2xx": 3 }),
        "GET /concepts": counted(1, { "2xx": 1 }),
        "GET /concepts/:file": counted(3, { "2xx": 1, "4xx": 2 }),
        "GET /metrics": counted(1, { "4xx": 1 }),
        unmatched: counted(4, { "4xx": 4 }),
      });
    });

    test("belong to one app", async () => {
      await using other = await start(createApp(config()));
      await server.fetch("/health");

      expect((await metricsOf(other)).requests).toEqual({});
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
      "semaphores",
      "..%2fserver.ts",
      "%2e%2e%2fserver.ts",
      "..%5cserver.ts",
      "%E0%A4%A",
      "errors.ts%00",
    ])("answers 404 to %s, which is not in the list", async (file) => {
      const response = await server.fetch(`/concepts/${file}`);

      await expectProblem(response, 404, "Not Found", `/concepts/${file}`);
    });
  });

  describe("every path", () => {
    test.each(["/health", "/concepts", "/concepts/errors.ts", "/metrics", "/nope"])(
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

    test.each(["/", "/Health", "/health/x", "/concepts/a/b", "/%E0%A4%A", "/he%61lth"])(
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

    test("refuses a body that is announced too long with 413", async () => {
      await using server = await start(createApp(config({ MAX_BODY_BYTES: 10 })));
      const post = (body: string) =>
        server.fetch("/health", {
          method: "POST",
          body,
          headers: { "content-length": `${body.length}` },
        });

      await expectProblem(await post("x".repeat(11)), 413, "Payload Too Large", "/health");
      await expectProblem(await post("x".repeat(10)), 405, "Method Not Allowed", "/health");
    });
  });

  describe("a route that is added", () => {
    test("is answered 503 while too many are in flight, but not /health and /metrics", async () => {
      const slow = gate();
      const app = createApp(config({ MAX_IN_FLIGHT: 2 })).get("/slow", () => slow.pass());
      await using server = await start(app);
      const first = [server.fetch("/slow"), server.fetch("/slow")];
      await slow.reached(2);

      const third = await server.fetch("/slow");

      await expectProblem(third, 503, "Service Unavailable", "/slow");
      expect(third.headers.get("retry-after")).toBe("1");
      expect((await server.fetch("/concepts")).status).toBe(503);
      expect((await server.fetch("/health")).status).toBe(200);
      expect((await metricsOf(server)).inFlight).toBe(2);
      slow.open();
      for (const response of await Promise.all(first)) expect(await response.text()).toBe("passed");
      const { inFlight, requests } = await metricsOf(server);
      expect(inFlight).toBe(0);
      expect(requests["GET /slow"]).toEqual(counted(3, { "2xx": 2, "5xx": 1 }));
      expect(await (await server.fetch("/slow")).text()).toBe("passed");
    });

    test("is answered 504 when its time is up, and its signal is aborted", async () => {
      using log = errorLog();
      const reasons: unknown[] = [];
      const app = createApp(config({ REQUEST_TIMEOUT_MS: 5 }))
        .get("/deaf", () => new Promise<never>(() => {}))
        .get("/obedient", ({ signal }) => aborted(signal).then((reason) => reasons.push(reason)))
        .get("/throwing", async ({ signal }) => {
          throw await aborted(signal);
        });
      await using server = await start(app);

      for (const path of ["/deaf", "/obedient", "/throwing"]) {
        const response = await server.fetch(path);
        const problem = await expectProblem(response, 504, "Gateway Timeout", path);
        expect(problem.detail).toBe("The answer took longer than 5 ms.");
      }

      expect(reasons).toEqual([expect.objectContaining({ name: "TimeoutError" })]);
      expect((await metricsOf(server)).inFlight).toBe(0);
      expect(log).not.toHaveBeenCalled();
    });

    test("may say that there is nothing", async () => {
      const app = createApp(config()).get("/users/:id", () => {
        throw new NotFoundError();
      });
      await using server = await start(app);

      await expectProblem(await server.fetch("/users/1"), 404, "Not Found", "/users/1");
    });

    test("that fails is answered 500; the error is in the log alone, by its id", async () => {
      using log = errorLog();
      const thrown = [
        new Error("secret"),
        Object.assign(new Error("secret"), { status: 404, code: "NOT_FOUND" }),
        new DOMException("secret", "TimeoutError"),
        "secret",
      ];
      const app = createApp(config())
        .get("/fail/:n", ({ params }) => {
          throw thrown[Number(params.n)];
        })
        .get("/fail-later/:n", async ({ params }) => {
          await null;
          throw thrown[Number(params.n)];
        });
      await using server = await start(app);

      for (const path of thrown.flatMap((_, n) => [`/fail/${n}`, `/fail-later/${n}`])) {
        log.mockClear();
        const response = await server.fetch(path, authorized);
        const problem = await expectProblem(response, 500, "Internal Server Error", path);

        expect(JSON.stringify(problem)).not.toContain("secret");
        expect(log.mock.calls).toEqual([
          [`Request ${problem.requestId} failed:`, thrown[Number(path.at(-1))]],
        ]);
      }
      const { inFlight, requests } = await metricsOf(server);
      expect(inFlight).toBe(0);
      expect(requests["GET /fail/:n"]).toEqual(counted(4, { "5xx": 4 }));
    });

    test("has its schemas checked: 400 and 422 are the client's fault, 500 is ours", async () => {
      using log = errorLog();
      const user = z.object({ name: z.string(), age: z.number("must be a number") });
      const app = createApp(config())
        .post("/users", ({ body }) => body, { body: user })
        // @ts-expect-error this handler does not keep its promise
        .get("/users", () => "secret", { response: user });
      await using server = await start(app);
      const post = (body: string) =>
        server.fetch("/users", {
          method: "POST",
          body,
          headers: { "content-type": "application/json" },
        });

      expect(await (await post('{"name":"Ada","age":36}')).json()).toEqual({
        name: "Ada",
        age: 36,
      });
      await expectProblem(await post('{"name'), 400, "Bad Request", "/users");
      const invalid = await post('{"name":"Ada","age":"secret"}');
      const problem = await expectProblem(invalid, 422, "Unprocessable Entity", "/users");
      expect(problem.errors).toEqual([{ path: "age", message: "must be a number" }]);
      expect(log).not.toHaveBeenCalled();
      const broken = await server.fetch("/users");
      const failure = await expectProblem(broken, 500, "Internal Server Error", "/users");
      expect(JSON.stringify([problem, failure])).not.toContain("secret");
      expect(log).toHaveBeenCalledTimes(1);
      const patch = await server.fetch("/users", { method: "PATCH" });
      expect(patch.headers.get("allow")).toBe("POST, GET, HEAD, OPTIONS");
    });

    test("learns by its signal that the client has gone, and is no longer in flight", async () => {
      const slow = gate();
      const gone = Promise.withResolvers<unknown>();
      const app = createApp(config()).get("/slow", ({ signal }) => {
        void aborted(signal).then(gone.resolve);
        return slow.pass();
      });
      await using server = await start(app);
      const controller = new AbortController();
      const response = server.fetch("/slow", { signal: controller.signal });
      response.catch(() => {});
      await slow.reached(1);
      expect((await metricsOf(server)).inFlight).toBe(1);

      controller.abort();

      expect(await gone.promise).toHaveProperty("name", "AbortError");
      await eventually(async () => (await metricsOf(server)).inFlight === 0);
      const { requests } = await metricsOf(server);
      expect(requests["GET /slow"]).toEqual(counted(1, { "4xx": 1 }));
    });
  });
});

describe("metrics", () => {
  test("have the percentiles of the last thousand latencies", async () => {
    await virtualTime(async () => {
      const app = createApp(config()).get("/sleep/:ms", async ({ params }) => {
        await new Promise((resolve) => setTimeout(resolve, Number(params.ms)));
        return "awake";
      });
      const server = await inProcess(app);
      const sleepFor = (times: number[]) =>
        Promise.all(times.map((ms) => server.fetch(`/sleep/${ms}`)));
      const latency = async () => (await metricsOf(server)).requests["GET /sleep/:ms"];

      await sleepFor([7]);
      expect(await latency()).toEqual(counted(1, { "2xx": 1 }, { p50: 7, p90: 7, p99: 7 }));
      await sleepFor(Array.from({ length: 1000 }, (_, n) => n + 1));
      const spread = { p50: 500, p90: 900, p99: 990 };
      expect(await latency()).toEqual(counted(1001, { "2xx": 1001 }, spread));
      await sleepFor(Array(1000).fill(3));
      expect(await latency()).toEqual(counted(2001, { "2xx": 2001 }, { p50: 3, p90: 3, p99: 3 }));
    });
  });

  test("of a request whose time is up have exactly that time", async () => {
    await virtualTime(async (clock) => {
      const app = createApp(config()).get("/deaf", () => new Promise<never>(() => {}));
      const server = await inProcess(app);

      expect((await server.fetch("/deaf")).status).toBe(504);

      expect(clock.elapsed).toBe(10_000);
      const { requests, uptime } = await metricsOf(server);
      expect(uptime).toBe(10);
      const latency = { p50: 10_000, p90: 10_000, p99: 10_000 };
      expect(requests["GET /deaf"]).toEqual(counted(1, { "5xx": 1 }, latency));
    });
  });
});

describe("a client on a bare socket", () => {
  test.each([
    ["hangs up before it says anything", ""],
    ["hangs up in the headers", "GET /health HTTP/1.1\r\nHost: te"],
    ["hangs up in the body", "POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1"],
    ["hangs up before the answer", "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"],
  ])("that %s does no harm", async (_, text) => {
    const slow = gate();
    const app = createApp(config())
      .get("/slow", () => slow.pass())
      .post("/slow", ({ body }) => body, { body: z.string() });
    await using server = await overSocket(app);
    const client = await connect(server.port, text);
    if (text.startsWith("GET /slow")) await slow.reached(1);

    client.hangUp();

    await eventually(async () => (await metricsOf(server)).inFlight === 0);
    expect((await server.fetch("/health")).status).toBe(200);
  });

  test.each([
    ["garbage", "\0\x01\xff garbage\r\n\r\n", 400],
    ["no Host", "GET /health HTTP/1.1\r\n\r\n", 400],
    ["headers without end", `GET /health HTTP/1.1\r\nHost: a\r\nX: ${"x".repeat(100_000)}`, 431],
    ["a path without end", `GET /${"x".repeat(100_000)} HTTP/1.1\r\nHost: a\r\n\r\n`, 431],
    ["a length that is none", "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400],
  ])("that sends %s is turned away by Bun, and the next is served", async (_, text, status) => {
    await using server = await overSocket(createApp(config()));

    const client = await connect(server.port, text);

    // The server closes the connection, so that all has been received.
    expect(await client.received).toStartWith(`HTTP/1.1 ${status} `);
    expect((await server.fetch("/health")).status).toBe(200);
  });

  test.each([
    ["Content-Length: 99999999999", 413],
    ["Transfer-Encoding: chunked", 411],
  ])("is told so before it sends a body of %s", async (header, status) => {
    await using server = await overSocket(createApp(config()));
    const text = `PUT /health HTTP/1.1\r\nHost: a\r\n${header}\r\n\r\n`;

    const client = await connect(server.port, text);

    const answer = await client.received;
    expect(answer).toStartWith(`HTTP/1.1 ${status} `);
    expect(answer).toContain("application/problem+json");
  });

  test("gets no route for two slashes, which fetch makes one of", async () => {
    await using server = await overSocket(createApp(config()));
    const text = "GET //health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

    const client = await connect(server.port, text);

    expect(await client.received).toStartWith("HTTP/1.1 404 ");
  });

  test("may leave out a proper host name", async () => {
    await using server = await overSocket(createApp(config()));

    for (const host of ["a", "[", "x".repeat(300)]) {
      const text = `GET /concepts/errors.ts HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`;
      const client = await connect(server.port, text);

      expect(await client.received).toStartWith("HTTP/1.1 200 ");
    }
  });
});

describe("serve", () => {
  test("accepts nothing more after the abort, and ends when all is answered", async () => {
    const slow = gate();
    const controller = new AbortController();
    const listening = Promise.withResolvers<string>();
    const app = createApp(config()).get("/slow", () => slow.pass());
    const served = serve(app, config({ PORT: 0 }), controller.signal, listening.resolve);
    const origin = await listening.promise;
    const response = fetch(`${origin}/slow`);
    await slow.reached(1);

    controller.abort();

    await eventually(() =>
      fetch(origin)
        .then(() => false)
        .catch(() => true),
    );
    expect(Bun.peek.status(served)).toBe("pending");
    slow.open();
    expect(await (await response).text()).toBe("passed");
    await served;
  });

  test("answers 500 even if an app throws, which ours does not", async () => {
    using log = errorLog();
    const error = new Error("secret");
    await using server = await overSocket({
      fetch: () => {
        throw error;
      },
    });

    const response = await server.fetch("/");

    const problem = await expectProblem(response, 500, "Internal Server Error", "");
    expect(JSON.stringify(problem)).not.toContain("secret");
    expect(log.mock.calls).toEqual([[`Request ${problem.requestId} failed:`, error]]);
  });

  test("cuts off what goes on for twice the time of a request", async () => {
    const controller = new AbortController();
    const listening = Promise.withResolvers<string>();
    const given = config({ PORT: 0, REQUEST_TIMEOUT_MS: 10 });
    const app = createApp(given).get("/endless", () => {
      const body = new ReadableStream({ start: (stream) => stream.enqueue("the beginning") });
      return new Response(body);
    });
    const served = serve(app, given, controller.signal, listening.resolve);
    const response = await fetch(`${await listening.promise}/endless`);
    const text = response.text();
    text.catch(() => {});

    controller.abort();

    await served;
    await expect(text).rejects.toThrow();
  });
});

describe("parseConfig", () => {
  test("has defaults for all, and a key that nobody can guess", () => {
    const given = parseConfig({ UNRELATED: "1" });

    expect(given).toEqual({
      PORT: 3000,
      API_KEY: expect.stringMatching(/^[0-9a-f-]{36}$/),
      MAX_IN_FLIGHT: 1000,
      REQUEST_TIMEOUT_MS: 10_000,
      MAX_BODY_BYTES: 1_000_000,
    });
    expect(parseConfig({}).API_KEY).not.toBe(given.API_KEY);
  });

  test("takes what is given", () => {
    const env = {
      PORT: "0",
      HOST: "127.0.0.1",
      API_KEY: KEY,
      MAX_IN_FLIGHT: "1",
      REQUEST_TIMEOUT_MS: "120000",
      MAX_BODY_BYTES: "0",
    };

    expect(parseConfig(env)).toEqual({
      PORT: 0,
      HOST: "127.0.0.1",
      API_KEY: KEY,
      MAX_IN_FLIGHT: 1,
      REQUEST_TIMEOUT_MS: 120_000,
      MAX_BODY_BYTES: 0,
    });
  });

  test.each([
    ["PORT", "abc", 'must be an integer from 0 to 65535, received "abc"'],
    ["PORT", "65536", 'must be an integer from 0 to 65535, received "65536"'],
    ["PORT", "-1", 'must be an integer from 0 to 65535, received "-1"'],
    ["PORT", "1e3", 'must be an integer from 0 to 65535, received "1e3"'],
    ["PORT", "80.5", 'must be an integer from 0 to 65535, received "80.5"'],
    ["PORT", " 80", 'must be an integer from 0 to 65535, received " 80"'],
    ["PORT", "", 'must be an integer from 0 to 65535, received ""'],
    ["HOST", "", "must not be empty"],
    ["MAX_IN_FLIGHT", "0", 'must be an integer from 1 to 1000000, received "0"'],
    ["REQUEST_TIMEOUT_MS", "0", 'must be an integer from 1 to 120000, received "0"'],
    ["MAX_BODY_BYTES", "1MB", 'must be an integer from 0 to 1000000000, received "1MB"'],
    ["API_KEY", "", KEY_RULE],
    ["API_KEY", "sesame sesame sesame", KEY_RULE],
    ["API_KEY", "sésame-sésame-sésame", KEY_RULE],
  ])("refuses %s=%j", (name, value, message) => {
    const header = "the environment is not as it must be\n";
    expect(() => parseConfig({ [name]: value })).toThrow(
      new Error(`${header}  ${name} ${message}`),
    );
  });
});

// Each in a process of its own, so that they may as well run side by side.
describe.concurrent("the program", () => {
  test("prints where it listens and the key that it made, once, and stops on SIGTERM", async () => {
    await using program = start({ PORT: "0" });
    const origin = await program.printed(/Listening on (\S+)\n/);
    const key = await program.printed(/X-API-Key of this run: (\S+)\n/);

    const headers = { "x-api-key": key };
    expect((await fetch(`${origin}/metrics`, { headers })).status).toBe(200);
    expect((await fetch(`${origin}/metrics`)).status).toBe(401);
    program.kill("SIGTERM");

    expect(await program.ended()).toEqual({
      exitCode: 0,
      stdout: `Listening on ${origin}\nX-API-Key of this run: ${key}\n`,
      stderr: "",
    });
  });

  test("never prints a key that it was given, and stops on SIGINT", async () => {
    await using program = start({ PORT: "0", HOST: "127.0.0.1", API_KEY: KEY });
    const origin = await program.printed(/Listening on (http:\/\/127\.0\.0\.1:\d+)\n/);

    expect((await fetch(`${origin}/metrics`, authorized)).status).toBe(200);
    program.kill("SIGINT");

    const stdout = `Listening on ${origin}\n`;
    expect(await program.ended()).toEqual({ exitCode: 0, stdout, stderr: "" });
  });

  test("says in a line that its port is in use", async () => {
    using other = Bun.serve({ port: 0, fetch: () => new Response("other") });
    await using program = start({ PORT: `${other.port}`, API_KEY: KEY });

    expect(await program.ended()).toEqual({
      exitCode: 1,
      stdout: "",
      stderr: `Cannot start: Failed to start server. Is port ${other.port} in use?\n`,
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
    });`;

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

type App = Pick<ReturnType<typeof createApp>, "fetch">;

interface Server extends AsyncDisposable {
  fetch(path: string, init?: RequestInit): Promise<Response>;
}

function config(given: Partial<Config> = {}): Config {
  return { ...parseConfig({ API_KEY: KEY }), ...given };
}

async function inProcess(app: Pick<ReturnType<typeof createApp>, "handle">): Promise<Server> {
  return {
    fetch: (path, init) => app.handle(new Request(`http://localhost${path}`, init)),
    [Symbol.asyncDispose]: async () => {},
  };
}

async function overSocket(app: App): Promise<Server & { port: number }> {
  const controller = new AbortController();
  const listening = Promise.withResolvers<string>();
  const served = serve(app, config({ PORT: 0 }), controller.signal, listening.resolve);
  const origin = await listening.promise;
  return {
    port: Number(new URL(origin).port),
    fetch: (path, init) => fetch(origin + path, init),
    [Symbol.asyncDispose]: () => {
      controller.abort();
      return served;
    },
  };
}

/** What /metrics says, to one who has the key. */
async function metricsOf(server: Server) {
  const response = await server.fetch("/metrics", authorized);
  return (await response.json()) as {
    uptime: number;
    inFlight: number;
    requests: Record<string, unknown>;
  };
}

function counted(
  count: number,
  status: Record<string, number>,
  latencyMs: object = { p50: expect.any(Number), p90: expect.any(Number), p99: expect.any(Number) },
) {
  return { count, status, latencyMs };
}

/** Checks all that RFC 9457 asks of an answer, and returns its members. */
async function expectProblem(response: Response, status: number, title: string, instance: string) {
  expect(response.status).toBe(status);
  expect(response.headers.get("content-type")).toBe("application/problem+json");
  const problem = await response.json();
  expect(problem).toMatchObject({ type: "about:blank", title, status, instance });
  expect(problem.detail).toMatch(/^[A-Z].+\.$/);
  return problem as { detail: string; errors?: unknown; requestId?: string };
}

/** A place where handlers wait until the test opens it; from then on they pass. */
function gate() {
  const opened = Promise.withResolvers<string>();
  let waiting = 0;
  let onArrival = () => {};
  return {
    open: () => opened.resolve("passed"),
    pass: () => {
      waiting++;
      onArrival();
      return opened.promise;
    },
    reached: (count: number) =>
      new Promise<void>((resolve) => {
        onArrival = () => waiting >= count && resolve();
        onArrival();
      }),
  };
}

function aborted(signal: AbortSignal): Promise<unknown> {
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(signal.reason)));
}

/** Waits for what another process or the network brings about. */
function eventually(isTrue: () => Promise<boolean>): Promise<true> {
  return poll(isTrue, { interval: 1, timeout: 1000 });
}

/** What goes to console.error until the end of the block. */
function errorLog() {
  return spyOn(console, "error").mockImplementation(() => {});
}

/** Sends text over TCP. `received` is all that comes until the server closes the connection. */
async function connect(port: number, text: string) {
  const received = Promise.withResolvers<string>();
  let answer = "";
  let rest = Buffer.from(text, "latin1");
  const write = (socket: { write(data: Buffer): number }) =>
    void (rest = rest.subarray(Math.max(0, socket.write(rest))));
  const socket = await Bun.connect({
    hostname: "localhost",
    port,
    socket: {
      open: write,
      drain: write,
      data: (_, chunk) => void (answer += chunk.toString()),
      close: () => received.resolve(answer),
    },
  });
  return { received: received.promise, hangUp: () => socket.terminate() };
}

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
