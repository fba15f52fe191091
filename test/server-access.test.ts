/**
 * What the server is told, whom it lets in, and what it says of itself: configuration, keys, metrics,
 * documentation and log. The table of who may do what stands here as a table.
 */
import { beforeAll, describe, expect, spyOn, test } from "bun:test";

import { z } from "zod";

import { virtualTime } from "../concepts/virtual-time.ts";
import { createApp, parseConfig } from "../server.ts";
import { Guard } from "../server/auth.ts";
import { hashKey } from "../server/config.ts";
import { createLog } from "../server/logs.ts";
import { preferred } from "../server/negotiation.ts";
import {
  authorized,
  config,
  expectProblem,
  gate,
  inProcess,
  KEY,
  metricsOf,
  overSocket,
  type Server,
} from "./serving.ts";

const KEY_RULE = "must be printable ASCII characters, none of them a space";
const HEADER = "the configuration is not valid\n";

describe("parseConfig", () => {
  test("has defaults for all, and keys that nobody can guess", () => {
    const given = parseConfig({ UNRELATED: "1" });

    expect(given).toEqual({
      PORT: 3000,
      HOST: "127.0.0.1",
      API_KEY: expect.stringMatching(/^[\w-]{32}$/),
      MAX_IN_FLIGHT: 1000,
      REQUEST_TIMEOUT_MS: 10_000,
      MAX_BODY_BYTES: 1_048_576,
      DRAIN_MS: 10_000,
      LOG: process.stdout.isTTY ? "pretty" : "json",
      demoKey: expect.stringMatching(/^[\w-]{32}$/),
      projects: [
        {
          slug: "demo",
          keys: [hashKey(given.demoKey!)],
          origins: [],
          concurrency: 10,
          ratePerSecond: 100,
          maxQueued: 2000,
          timeoutMs: 10_000,
          retries: 2,
          allowPrivate: true,
        },
      ],
    });
    const other = parseConfig({});
    expect(new Set([given.API_KEY, other.API_KEY, given.demoKey, other.demoKey]).size).toBe(4);
  });

  test("takes what is given", () => {
    const env = {
      PORT: "0",
      HOST: "::1",
      API_KEY: KEY,
      MAX_IN_FLIGHT: "1",
      REQUEST_TIMEOUT_MS: "120000",
      MAX_BODY_BYTES: "0",
      DRAIN_MS: "0",
      LOG: "silent",
    };

    expect(parseConfig(env)).toMatchObject({
      PORT: 0,
      HOST: "::1",
      API_KEY: KEY,
      MAX_IN_FLIGHT: 1,
      REQUEST_TIMEOUT_MS: 120_000,
      MAX_BODY_BYTES: 0,
      DRAIN_MS: 0,
      LOG: "silent",
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
    ["HOST", "", 'must be an address or a host name, received ""'],
    ["HOST", "http://a", 'must be an address or a host name, received "http://a"'],
    ["MAX_IN_FLIGHT", "0", 'must be an integer from 1 to 1000000, received "0"'],
    ["REQUEST_TIMEOUT_MS", "0", 'must be an integer from 1 to 120000, received "0"'],
    ["MAX_BODY_BYTES", "1MB", 'must be an integer from 0 to 1000000000, received "1MB"'],
    ["DRAIN_MS", "-1", 'must be an integer from 0 to 3600000, received "-1"'],
    ["LOG", "loud", 'must be json, pretty or silent, received "loud"'],
    ["API_KEY", "", KEY_RULE],
    ["API_KEY", "sesame sesame sesame", KEY_RULE],
    ["API_KEY", "sésame-sésame-sésame", KEY_RULE],
    ["PROJECTS", "", "must not be empty"],
  ])("refuses %s=%j", (name, value, message) => {
    expect(() => parseConfig({ [name]: value })).toThrow(
      new Error(`${HEADER}  ${name} ${message}`),
    );
  });

  describe("the file of projects", () => {
    const read = (file: unknown, env = {}) =>
      parseConfig({ PROJECTS: "projects.json", API_KEY: KEY, ...env }, () =>
        typeof file === "string" ? file : JSON.stringify(file),
      );
    const shop = { keys: ["key-of-the-shop"], origins: ["https://shop.example"] };

    test("has the projects by their slugs; keys are hashed, whatever the file has", () => {
      const hash = hashKey("key-of-the-wiki");
      const { projects, demoKey } = read({
        shop: { ...shop, concurrency: 5, ratePerSecond: 0.5, maxQueued: 0, timeoutMs: 1 },
        wiki: { keys: ["old", hash.toUpperCase().replace("SHA", "sha")], allowPrivate: true },
      });

      expect(demoKey).toBeUndefined();
      expect(projects).toMatchObject([
        {
          slug: "shop",
          keys: [hashKey("key-of-the-shop")],
          origins: ["https://shop.example"],
          concurrency: 5,
          ratePerSecond: 0.5,
          maxQueued: 0,
          timeoutMs: 1,
          retries: 2,
          allowPrivate: false,
        },
        { slug: "wiki", keys: [hashKey("old"), hash], origins: [], allowPrivate: true },
      ]);
    });

    test.each([
      ["what is not JSON, without quoting it", '{"shop":{"keys":["secret', ["is not JSON"]],
      ["no projects", {}, ["must have at least one project"]],
      ["a list", [shop], ["invalid input: expected record, received array"]],
      [
        "a slug that is none",
        { "My Shop": shop },
        ["My Shop must be lower-case letters, digits and dashes"],
      ],
      ["no keys", { shop: { keys: [] } }, ["shop.keys must have at least one key"]],
      [
        "keys that are none",
        { shop: { keys: ["", "a b", "sha256:abc"] } },
        [0, 1, 2].map(
          (n) =>
            `shop.keys[${n}] must be sha256: and 64 hex digits, or the key itself, which ${KEY_RULE}`,
        ),
      ],
      [
        "the same key twice",
        { shop: { keys: ["one", "one"] }, wiki: { keys: ["one"] } },
        ["shop.keys[1] is twice in this project", 'wiki.keys[0] is a key of "shop", too'],
      ],
      [
        "origins that are none",
        {
          shop: {
            ...shop,
            origins: ["https://a.example/", "ftp://a.example", "HTTPS://B.example"],
          },
        },
        ["https://a.example/", "ftp://a.example", "HTTPS://B.example"].map(
          (origin, n) =>
            `shop.origins[${n}] must be an origin such as https://example.com, received "${origin}"`,
        ),
      ],
      [
        "numbers out of range, and members that it does not know",
        { shop: { ...shop, concurrency: 0, retries: 1.5, retrys: 1 } },
        [
          "shop.concurrency too small: expected number to be >=1",
          "shop.retries invalid input: expected int, received number",
          'shop unrecognized key: "retrys"',
        ],
      ],
      [
        "more concurrency than Bun has",
        { shop: { ...shop, concurrency: 200 }, wiki: { keys: ["wiki"], concurrency: 100 } },
        [
          "the concurrency of all projects together is 300, but Bun sends at most 256 requests at once; BUN_CONFIG_MAX_HTTP_REQUESTS raises that",
        ],
      ],
    ])("refuses %s", (_, file, problems) => {
      const lines = problems.map((problem) => `  PROJECTS projects.json: ${problem}`);
      expect(() => read(file)).toThrow(new Error(HEADER + lines.join("\n")));
    });

    test("must not have the administrator's key, which opens everything", () => {
      expect(() => read({ shop: { keys: [KEY] } })).toThrow(
        new Error(`${HEADER}  API_KEY must not be the key of a project`),
      );
    });

    test("that can't be read is named, beside what else is wrong", () => {
      expect(() => parseConfig({ PROJECTS: "/nowhere/projects.json", PORT: "x" })).toThrow(
        new Error(
          `${HEADER}  PORT must be an integer from 0 to 65535, received "x"\n` +
            "  PROJECTS /nowhere/projects.json: can't be read (ENOENT)",
        ),
      );
    });
  });
});

/** Two projects; the shop's keys are being rotated. */
function twoProjects(given: Parameters<typeof config>[0] = {}) {
  const file = {
    shop: { keys: ["shop-old", hashKey("shop-new")], origins: ["http://127.0.0.1:1"] },
    wiki: { keys: ["wiki-key"] },
  };
  const env = { API_KEY: KEY, LOG: "silent", PORT: "0", PROJECTS: "file" };
  return { ...parseConfig(env, () => JSON.stringify(file)), ...given };
}

describe("who may do what", () => {
  const keys = {
    nobody: undefined,
    stranger: "a-key-that-is-wrong",
    shop: "shop-old",
    rotated: "shop-new",
    wiki: "wiki-key",
    admin: KEY,
  };
  const table: [route: string, allowed: Record<keyof typeof keys, number>][] = [
    ["GET /", { nobody: 200, stranger: 200, shop: 200, rotated: 200, wiki: 200, admin: 200 }],
    ["GET /health", { nobody: 200, stranger: 200, shop: 200, rotated: 200, wiki: 200, admin: 200 }],
    [
      "GET /concepts",
      { nobody: 200, stranger: 200, shop: 200, rotated: 200, wiki: 200, admin: 200 },
    ],
    [
      "GET /openapi.json",
      { nobody: 200, stranger: 200, shop: 200, rotated: 200, wiki: 200, admin: 200 },
    ],
    [
      "GET /metrics",
      { nobody: 401, stranger: 401, shop: 200, rotated: 200, wiki: 200, admin: 200 },
    ],
    [
      "GET /projects",
      { nobody: 401, stranger: 401, shop: 403, rotated: 403, wiki: 403, admin: 200 },
    ],
    [
      "GET /projects/shop",
      { nobody: 401, stranger: 401, shop: 200, rotated: 200, wiki: 403, admin: 200 },
    ],
    [
      "GET /projects/wiki",
      { nobody: 401, stranger: 401, shop: 403, rotated: 403, wiki: 200, admin: 200 },
    ],
    [
      "GET /projects/none",
      { nobody: 401, stranger: 401, shop: 403, rotated: 403, wiki: 403, admin: 404 },
    ],
    [
      "GET /projects/*",
      { nobody: 401, stranger: 401, shop: 403, rotated: 403, wiki: 403, admin: 404 },
    ],
    [
      "GET /projects/constructor",
      { nobody: 401, stranger: 401, shop: 403, rotated: 403, wiki: 403, admin: 404 },
    ],
    [
      "POST /projects/shop/batches",
      { nobody: 401, stranger: 401, shop: 200, rotated: 200, wiki: 403, admin: 200 },
    ],
    [
      "POST /projects/wiki/batches",
      { nobody: 401, stranger: 401, shop: 403, rotated: 403, wiki: 200, admin: 200 },
    ],
    [
      "POST /projects/none/batches",
      { nobody: 401, stranger: 401, shop: 403, rotated: 403, wiki: 403, admin: 404 },
    ],
  ];

  test.each(table)("%s", async (route, allowed) => {
    const server = await inProcess(createApp(twoProjects()));
    const [method = "", path = ""] = route.split(" ");
    // A URL that no project may ask for, so that nothing is sent.
    const body = JSON.stringify({ requests: [{ url: "http://127.0.0.1:2/" }] });

    for (const [who, status] of Object.entries(allowed)) {
      const key = keys[who as keyof typeof keys];
      for (const headers of [{ "x-api-key": key }, { authorization: key && `Bearer ${key}` }]) {
        const sent = Object.fromEntries(Object.entries(headers).filter(([, value]) => value));
        const init = { method, headers: { ...sent, "content-type": "application/json" } };
        const response = await server.fetch(path, method === "POST" ? { ...init, body } : init);

        expect([who, response.status]).toEqual([who, status]);
        const text = await response.text();
        for (const secret of Object.values(keys)) {
          if (secret) expect(text + JSON.stringify([...response.headers])).not.toContain(secret);
        }
        if (status === 401) {
          expect(response.headers.get("www-authenticate")).toBe(
            'Bearer realm="async-concepts", ApiKey realm="async-concepts", header="X-API-Key"',
          );
        }
      }
    }
  });

  test("another's project and none are answered alike, whatever else is wrong", async () => {
    const server = await inProcess(createApp(twoProjects()));
    const ask = async (slug: string, init: RequestInit) => {
      const headers = { "x-api-key": "wiki-key", "content-type": "application/json" };
      const response = await server.fetch(`/projects/${slug}/batches`, { headers, ...init });
      return { status: response.status, text: (await response.text()).replaceAll(slug, "SLUG") };
    };

    for (const body of ["{}", "not JSON", '{"requests":[]}', "[".repeat(10_000)]) {
      const init = { method: "POST", body };
      const shop = await ask("shop", init);
      expect(shop).toEqual(await ask("none", init));
    }
  });

  test.each([
    ["no key", {}],
    ["an empty key", { "X-API-Key": "" }],
    ["a part of the key", { "X-API-Key": KEY.slice(0, -1) }],
    ["more than the key", { "X-API-Key": `${KEY}!` }],
    ["the key in capitals", { "X-API-Key": KEY.toUpperCase() }],
    ["the key's hash", { "X-API-Key": hashKey(KEY) }],
    ["the key as another scheme", { Authorization: `Basic ${KEY}` }],
    ["the bare key as Authorization", { Authorization: KEY }],
    ["two keys", { "X-API-Key": `${KEY}, ${KEY}` }],
    ["a wrong key beside the right one", { "X-API-Key": "wrong", Authorization: `Bearer ${KEY}` }],
  ])("%s is answered 401", async (_, headers) => {
    await using server = await overSocket(createApp(twoProjects()));

    const response = await server.fetch("/metrics", { headers });

    await expectProblem(response, 401, "Unauthorized", "/metrics");
  });

  test.each(["X-API-Key", "x-api-key", "X-Api-KEY"])("the name %s will do", async (name) => {
    const server = await inProcess(createApp(twoProjects()));

    expect((await server.fetch("/metrics", { headers: { [name]: KEY } })).status).toBe(200);
  });

  test("an empty key opens nothing, and no app is made with one", () => {
    expect(() => createApp(config({ API_KEY: "" }))).toThrow("API_KEY must not be empty");
  });
});

describe("wrong keys", () => {
  const wrong = (guard: Guard, address: string, key = "wrong") => {
    try {
      guard.identify(new Headers({ "x-api-key": key }), address);
      return 200;
    } catch (error) {
      return (error as { status: number }).status;
    }
  };

  test("are slowed down, by the address; a right key is not", () =>
    virtualTime(async () => {
      const guard = new Guard(twoProjects());
      const times = (count: number, address: string) =>
        Array.from({ length: count }, () => wrong(guard, address));

      expect(times(20, "192.0.2.1")).toEqual(Array(20).fill(401));
      expect(times(3, "192.0.2.1")).toEqual([429, 429, 429]);
      expect(wrong(guard, "192.0.2.1", KEY)).toBe(200);
      expect(wrong(guard, "192.0.2.2")).toBe(401);
      await new Promise((resolve) => setTimeout(resolve, 3000));
      expect(times(2, "192.0.2.1")).toEqual([401, 429]);
    }));

  test("from one IPv6 network, or from IPv4 in another form, are from one address", () => {
    const guard = new Guard(twoProjects());
    for (let n = 0; n < 20; n++) wrong(guard, `2001:db8::${n.toString(16)}`);
    for (let n = 0; n < 20; n++) wrong(guard, "::ffff:192.0.2.1");

    expect(wrong(guard, "2001:db8:0:0:1:2:3:4")).toBe(429);
    expect(wrong(guard, "2001:db8:0:1::")).toBe(401);
    expect(wrong(guard, "192.0.2.1")).toBe(429);
  });

  test("are remembered of the last ten thousand addresses, those that came last", () => {
    const guard = new Guard(twoProjects());
    const others = (from: number, count: number) => {
      for (let n = from; n < from + count; n++) wrong(guard, `10.0.${n >> 8}.${n & 255}`);
    };
    for (let n = 0; n < 20; n++) wrong(guard, "192.0.2.1");
    others(0, 9_999);
    expect(wrong(guard, "192.0.2.1")).toBe(429);
    others(9_999, 9_999);
    expect(wrong(guard, "192.0.2.1")).toBe(429);

    others(0, 10_000);

    expect(wrong(guard, "192.0.2.1")).toBe(401);
  });

  test("say when to come again", async () => {
    await using server = await overSocket(createApp(twoProjects()));
    const headers = { "x-api-key": "wrong" };
    const statuses: number[] = [];
    let last: Response;
    for (let n = 0; n < 21; n++) {
      last = await server.fetch("/metrics", { headers });
      statuses.push(last.status);
    }

    expect(statuses).toEqual([...Array(20).fill(401), 429]);
    await expectProblem(last!, 429, "Too Many Requests", "/metrics");
    expect(last!.headers.get("retry-after")).toBe("3");
    expect((await server.fetch("/metrics", authorized)).status).toBe(200);
  });
});

describe("GET /metrics", () => {
  test("counts by route and status, whatever is in the path; what is no route counts as one", async () => {
    await using server = await overSocket(createApp(config()));
    const paths = ["/health", "/health/?a=1", "/concepts", "/concepts/errors.ts"];
    const others = ["/concepts/nope.ts", "/concepts/!", "/nope", "/nope/2", "/metrics"];
    for (const path of [...paths, ...others]) await server.fetch(path);
    await server.fetch("/health", { method: "HEAD" });
    await server.fetch("/health", { method: "POST" });
    await server.fetch("/nope", { method: "PROPFIND" });
    await server.fetch("/nope", { method: "HEAD" });

    const { requests } = await metricsOf(server);

    const counts = Object.entries(requests).map(([name, { status }]) => [name, status]);
    expect(Object.fromEntries(counts)).toEqual({
      "GET /health": { 200: 3 },
      "GET /concepts": { 200: 1 },
      "GET /concepts/:file": { 200: 1, 404: 2 },
      "GET /metrics": { 401: 1 },
      unmatched: { 404: 4, 405: 1 },
    });
  });

  test("has all for the administrator, and for a project its own part", async () => {
    const server = await inProcess(createApp(twoProjects()));
    const report = {
      running: 0,
      waiting: 0,
      done: 0,
      failed: 0,
      retried: 0,
      refused: 0,
      breakers: {},
    };

    const all = await (await server.fetch("/metrics", authorized)).json();
    const headers = { "x-api-key": "shop-new" };
    const own = await (await server.fetch("/metrics", { headers })).json();

    expect(all).toEqual({
      timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
      uptime: expect.any(Number),
      inFlight: 0,
      memory: { rss: expect.any(Number), heapUsed: expect.any(Number) },
      eventLoopDelayMs: {
        mean: expect.any(Number),
        p99: expect.any(Number),
        max: expect.any(Number),
      },
      requests: {},
      projects: { shop: report, wiki: report },
    });
    expect(own).toEqual({ timestamp: expect.any(String), projects: { shop: report } });
  });

  test("has the percentiles of the last thousand latencies of what was served", async () => {
    const patient = { realTimeLimit: 30_000 };
    await virtualTime(async () => {
      const app = createApp(config({ MAX_IN_FLIGHT: 1000 })).get(
        "/sleep/:ms",
        async ({ params }) => {
          await new Promise((resolve) => setTimeout(resolve, Number(params.ms)));
          return "awake";
        },
      );
      const server = await inProcess(app);
      const sleepFor = (times: number[]) =>
        Promise.all(times.map((ms) => server.fetch(`/sleep/${ms}`)));
      const latency = async () => (await metricsOf(server)).requests["GET /sleep/:ms"];
      const served = (count: number, latencyMs: object, refused = 0) => ({
        count: count + refused,
        status: { 200: count, ...(refused && { 503: refused }) },
        refused,
        latencyMs,
      });

      await sleepFor([7]);
      expect(await latency()).toEqual(served(1, { p50: 7, p90: 7, p99: 7 }));
      await sleepFor(Array.from({ length: 1000 }, (_, n) => n + 1));
      const spread = { p50: 500, p90: 900, p99: 990 };
      expect(await latency()).toEqual(served(1001, spread));
      // Those that are refused take no time, and would flatter.
      const busy = sleepFor(Array(1000).fill(5000));
      await sleepFor(Array(100).fill(1));
      await busy;
      const slow = { p50: 5000, p90: 5000, p99: 5000 };
      expect(await latency()).toEqual(served(2001, slow, 100));
    }, patient);
  });

  test("counts a latency that is a bound to the bucket of that bound", () =>
    virtualTime(async () => {
      const app = createApp(config()).get("/5ms", async () => {
        await new Promise((resolve) => setTimeout(resolve, 5));
        return "5ms";
      });
      const server = await inProcess(app);
      await server.fetch("/5ms");

      const headers = { ...authorized.headers, accept: "text/plain" };
      const families = parsePrometheus(await (await server.fetch("/metrics", { headers })).text());

      const { samples } = families.get("http_request_duration_seconds")!;
      const below = samples.filter(({ labels }) => Number(labels["le"]) <= 0.005);
      expect(below.map(({ value }) => value)).toEqual([0, 0, 1]);
    }));

  test("says how late the event loop is, once the server listens", async () => {
    await using server = await overSocket(createApp(config()));
    const { eventLoopDelayMs } = (await (await server.fetch("/metrics", authorized)).json()) as {
      eventLoopDelayMs: Record<string, number>;
    };

    for (const ms of Object.values(eventLoopDelayMs)) expect(ms).toBeGreaterThanOrEqual(0);
  });

  test("is Prometheus' text for those who prefer it", async () => {
    const slow = gate();
    const app = createApp(twoProjects())
      .get("/slow", () => slow.pass())
      .get('/odd"', () => "odd");
    const server = await inProcess(app);
    const pending = server.fetch("/slow");
    await slow.reached(1);
    await server.fetch("/health");
    await server.fetch("/odd%22");
    await server.fetch("/nope");
    const accept =
      "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.9,*/*;q=0.1";

    const response = await server.fetch("/metrics", {
      headers: { ...authorized.headers, accept },
    });

    expect(response.headers.get("content-type")).toBe("text/plain; version=0.0.4; charset=utf-8");
    const families = parsePrometheus(await response.text());
    expect(families.get("http_requests_in_flight")).toMatchObject({
      type: "gauge",
      samples: [{ name: "http_requests_in_flight", labels: {}, value: 1 }],
    });
    expect(families.get("http_requests_total")!.samples).toContainEqual({
      name: "http_requests_total",
      labels: { method: "GET", route: "/health", status: "200" },
      value: 1,
    });
    expect(families.get("project_requests_running")!.samples.map(({ labels }) => labels)).toEqual([
      { project: "shop" },
      { project: "wiki" },
    ]);
    slow.open();
    await pending;

    const headers = { "x-api-key": "shop-old", accept: "text/plain" };
    const own = await (await server.fetch("/metrics", { headers })).text();
    const names = [...parsePrometheus(own)].flatMap(([, { samples }]) => samples);
    expect(names.every(({ labels }) => labels["project"] === "shop")).toBe(true);
    expect(own).not.toContain("http_requests");
  });
});

describe("GET /openapi.json", () => {
  test("is what OpenAPI 3.1 has it to be", async () => {
    const server = await inProcess(createApp(twoProjects()));

    const document = await (await server.fetch("/openapi.json")).json();

    expect(openApi.safeParse(document).error).toBeUndefined();
    const ids = operationsOf(document).map(({ operation }) => operation.operationId);
    expect(new Set(ids).size).toBe(ids.length);
    for (const { path, operation } of operationsOf(document)) {
      const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
      const declared = operation.parameters.filter((parameter) => parameter.in === "path");
      expect(declared.map(({ name }) => name)).toEqual(inPath as string[]);
      expect(operation.summary).toBeString();
    }
    // All references lead somewhere.
    for (const [, name] of JSON.stringify(document).matchAll(/"#\/components\/schemas\/(\w+)"/g)) {
      expect(document.components.schemas).toHaveProperty(name!);
    }
  });

  test("has routes that are added after it was asked for", async () => {
    const app = createApp(config());
    const server = await inProcess(app);
    const paths = async () =>
      Object.keys((await (await server.fetch("/openapi.json")).json()).paths);
    expect(await paths()).not.toContain("/late");

    app.get("/late", () => "late");

    expect(await paths()).toContain("/late");
  });

  const post = (body: unknown, headers = {}) => ({
    method: "POST",
    body: JSON.stringify(body),
    headers: { "x-api-key": KEY, "content-type": "application/json", ...headers },
  });
  const browser = { headers: { accept: "text/html" } };
  const requests = [{ url: "http://127.0.0.1:2/" }];
  const batches = "/projects/{project}/batches";
  let server: Server;
  let document: any;
  beforeAll(async () => {
    server = await inProcess(createApp(twoProjects()));
    document = await (await server.fetch("/openapi.json")).json();
  });

  test.each<[path: string, method: string, status: number, url: string, init?: RequestInit]>([
    ["/", "get", 200, "/"],
    ["/", "get", 200, "/", browser],
    ["/", "get", 304, "/", { headers: { ...browser.headers, "if-none-match": "*" } }],
    ["/health", "get", 200, "/health"],
    ["/metrics", "get", 200, "/metrics", authorized],
    ["/metrics", "get", 200, "/metrics", { headers: { "x-api-key": "shop-old" } }],
    [
      "/metrics",
      "get",
      200,
      "/metrics",
      { headers: { ...authorized.headers, accept: "text/plain" } },
    ],
    ["/metrics", "get", 401, "/metrics"],
    ["/projects", "get", 200, "/projects", authorized],
    ["/projects", "get", 401, "/projects"],
    ["/projects", "get", 403, "/projects", { headers: { "x-api-key": "shop-old" } }],
    ["/projects/{project}", "get", 200, "/projects/shop", authorized],
    ["/projects/{project}", "get", 401, "/projects/shop"],
    ["/projects/{project}", "get", 403, "/projects/wiki", { headers: { "x-api-key": "shop-old" } }],
    ["/projects/{project}", "get", 404, "/projects/none", authorized],
    ["/projects/{project}", "get", 400, "/projects/%ff", authorized],
    [batches, "post", 200, "/projects/shop/batches", post({ requests })],
    [
      batches,
      "post",
      200,
      "/projects/shop/batches",
      post({ requests }, { accept: "application/x-ndjson" }),
    ],
    [
      batches,
      "post",
      200,
      "/projects/shop/batches",
      post({ requests }, { accept: "text/event-stream" }),
    ],
    [batches, "post", 400, "/projects/shop/batches", { ...post({}), body: "{" }],
    [batches, "post", 401, "/projects/shop/batches", post({ requests }, { "x-api-key": "" })],
    [batches, "post", 403, "/projects/wiki/batches", post({}, { "x-api-key": "shop-old" })],
    [batches, "post", 404, "/projects/none/batches", post({ requests })],
    [batches, "post", 406, "/projects/shop/batches", post({ requests }, { accept: "image/png" })],
    [batches, "post", 422, "/projects/shop/batches", post({ requests: [] })],
    ["/concepts", "get", 200, "/concepts"],
    ["/concepts/{file}", "get", 200, "/concepts/errors.ts"],
    ["/concepts/{file}", "get", 304, "/concepts/errors.ts", { headers: { "if-none-match": "*" } }],
    ["/concepts/{file}", "get", 404, "/concepts/nope.ts"],
    ["/concepts/{file}", "get", 200, "/concepts/errors"],
    ["/concepts/{file}", "get", 200, "/concepts/errors", browser],
    ["/concepts/{file}", "get", 200, "/concepts/errors.js"],
    ["/concepts/{file}", "get", 200, "/concepts/errors.ts", browser],
    ["/concepts/{file}", "get", 404, "/concepts/nope", browser],
    ["/benches/{file}", "get", 200, "/benches/errors.bench.ts"],
    [
      "/benches/{file}",
      "get",
      304,
      "/benches/errors.bench.ts",
      { headers: { "if-none-match": "*" } },
    ],
    ["/benches/{file}", "get", 404, "/benches/nope.ts"],
    ["/page/{file}", "get", 404, "/page/nope.js"],
    ["/tests/{file}", "get", 200, "/tests/errors.test.ts"],
    ["/tests/{file}", "get", 404, "/tests/nope.ts"],
    ["/r/registry.json", "get", 200, "/r/registry.json"],
    ["/r/{file}", "get", 200, "/r/errors.json"],
    ["/r/{file}", "get", 404, "/r/nope.json"],
    ["/openapi.json", "get", 200, "/openapi.json"],
  ])("says of %s %s what it answers with %d", async (path, method, status, url, init = {}) => {
    const response = await server.fetch(url, init);

    expect(response.status).toBe(status);
    const described = document.paths[path][method].responses[status];
    const type = response.headers.get("content-type")?.replace(/;.*/, "");
    if (!described.content) return expect(await response.text()).toBe("");
    expect(Object.keys(described.content)).toContain(type!);
    const { schema } = described.content[type!];
    const text = await response.text();
    const value = /[/+]json$/.test(type!) ? JSON.parse(text) : text;
    const resolved = schema.$ref ? document.components.schemas.Problem : schema;
    expect(z.fromJSONSchema(resolved).safeParse(value).error).toBeUndefined();
  });

  test("names every status that a route answers, also when it is full or drains", async () => {
    const app = createApp(config({ MAX_IN_FLIGHT: 1, MAX_BODY_BYTES: 10 }));
    const server = await inProcess(app);
    const { paths } = await (await server.fetch("/openapi.json")).json();
    app.store.exchanges.isDraining = true;

    const health = await server.fetch("/health");
    expect(health.status).toBe(503);
    const { schema } = paths["/health"].get.responses[503].content["application/json"];
    expect(z.fromJSONSchema(schema).safeParse(await health.json()).error).toBeUndefined();
    for (const item of Object.values<Record<string, { responses: object; security?: object }>>(
      paths,
    )) {
      for (const { responses, security } of Object.values(item)) {
        const statuses = ["400", "500", "503", "504", ...(security ? ["401", "429"] : [])];
        expect(Object.keys(responses)).toEqual(expect.arrayContaining(statuses));
      }
    }
  });
});

describe("preferred", () => {
  const offers = ["application/json", "text/html", "text/plain"] as const;

  test.each([
    [null, "application/json"],
    ["", "application/json"],
    ["*/*", "application/json"],
    ["text/html", "text/html"],
    ["TEXT/HTML", "text/html"],
    ["text/*", "text/html"],
    ["text/*;q=0.5, text/plain", "text/plain"],
    ["text/html;q=0.5, application/json;q=0.4", "text/html"],
    ["text/html;q=0, */*", "application/json"],
    ["application/json;q=0, */*;q=0.1", "text/html"],
    ["text/html; level=1; q = 0.3, text/plain;q=0.2", "text/html"],
    ["image/png", undefined],
    ["*/*;q=0", undefined],
    ["text/html;q=x", undefined],
    [",;,=,;q", undefined],
  ])("of %j is %s", (accept, expected) => {
    expect(preferred(accept, offers)).toBe(expected as "text/html");
  });
});

describe("the log", () => {
  const linesOf = async (kind: "json" | "pretty", path: string, init?: RequestInit) => {
    const lines: string[] = [];
    const log = createLog(kind, (line) => lines.push(line));
    const given = config();
    given.projects[0]!.keys.push(hashKey("demo-key"));
    const app = createApp(given)
      .get("/fails", () => {
        throw new TypeError("in the handler", { cause: new Error("deeper") });
      })
      .get("/deaf", () => new Promise<never>(() => {}))
      .get("/breaks", async function* () {
        yield "begun";
        throw new Error("in the stream");
      });
    app.store.exchanges.observe(log);
    const server = await inProcess(app);
    await (await server.fetch(path, init)).text().catch(() => {});
    return lines;
  };

  test("has a line of JSON for a request, with its path but not its query", async () => {
    const [line, ...rest] = await linesOf("json", "/concepts/errors.ts?key=secret");

    expect(rest).toEqual([]);
    const source = Bun.file(new URL("../concepts/errors.ts", import.meta.url));
    expect(JSON.parse(line!)).toMatchObject({
      level: "info",
      method: "GET",
      path: "/concepts/errors.ts",
      route: "/concepts/:file",
      status: 200,
      bytes: source.size,
    });
    expect(line).not.toContain("secret");
  });

  test("has the error that the client is not told, and its cause, under the same id", async () => {
    const headers = { "x-request-id": "id-7" };
    const [line] = await linesOf("json", "/fails", { headers });

    const { level, id, status, error } = JSON.parse(line!);
    expect({ level, id, status }).toEqual({ level: "error", id: "id-7", status: 500 });
    expect(error).toMatch(/TypeError: in the handler[^]*Caused by: Error: deeper/);
  });

  test("tells the client the id, with a refusal, too", async () => {
    const server = await inProcess(createApp(config({ LOG: "json" })));
    const write = spyOn(process.stdout, "write").mockReturnValue(true);
    try {
      for (const path of ["/health", "/nope", "/metrics"]) {
        const response = await server.fetch(path, { headers: { "x-request-id": "id-7" } });
        expect(response.headers.get("x-request-id")).toBe("id-7");
      }
      expect(write).toHaveBeenCalledTimes(3);
    } finally {
      write.mockRestore();
    }
  });

  test.each([
    ["/projects/demo", KEY, { project: "demo", isAdmin: true }],
    ["/metrics", "demo-key", { project: "demo" }],
    ["/metrics", KEY, { isAdmin: true }],
    ["/projects/other", "demo-key", {}],
    ["/metrics", "wrong", {}],
  ])("names the project of %s with the key %s", async (path, key, expected) => {
    const [line] = await linesOf("json", path, { headers: { "x-api-key": key } });

    const { project, isAdmin } = JSON.parse(line!);
    expect({ project, isAdmin }).toEqual({ project: undefined, isAdmin: undefined, ...expected });
  });

  test("has the errors of streams", async () => {
    const [line] = await linesOf("json", "/breaks");

    const { level, status, bytes, error } = JSON.parse(line!);
    expect({ level, status, bytes }).toEqual({ level: "error", status: 200, bytes: 5 });
    expect(error).toContain("in the stream");
  });

  test("says what ended a request early", async () => {
    const [line] = await linesOf("json", "/deaf", { signal: AbortSignal.abort() });

    const { status, ended } = JSON.parse(line!);
    expect({ status, ended }).toEqual({
      status: 499,
      ended: "The client did not wait for the answer.",
    });
  });

  test("can be read by people", async () => {
    const [line] = await linesOf("pretty", "/nope", { headers: { "x-request-id": "id-7" } });

    expect(line).toMatch(/^404 GET \/nope {2}\d+\.\d ms {2}\d+ B {2}- {2}id-7$/);
  });

  test.each(["", "a b", "x".repeat(129), "né", "a\tb", '"', "<script>"])(
    "takes no id such as %j from a client",
    async (given) => {
      const [line] = await linesOf("json", "/health", { headers: { "x-request-id": given } });

      expect(JSON.parse(line!).id).toMatch(/^[0-9a-f-]{36}$/);
    },
  );
});

interface Family {
  type: string;
  samples: { name: string; labels: Record<string, string>; value: number }[];
}

/** Parses Prometheus' text format, version 0.0.4, and checks what promtool would. */
function parsePrometheus(text: string): Map<string, Family> {
  const families = new Map<string, Family>();
  let current: { name: string; family: Family } | undefined;
  expect(text).toEndWith("\n");
  for (const line of text.trimEnd().split("\n")) {
    const [, keyword, name = "", rest = ""] =
      /^# (HELP|TYPE) ([a-zA-Z_:][\w:]*) (.+)$/.exec(line) ?? [];
    if (keyword === "HELP") {
      expect(families.has(name)).toBe(false);
      current = { name, family: { type: "", samples: [] } };
      families.set(name, current.family);
    } else if (keyword === "TYPE") {
      expect(current?.name).toBe(name);
      expect(rest).toMatch(/^(counter|gauge|histogram)$/);
      current!.family.type = rest;
    } else {
      const sample = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
      expect(sample, line).not.toBeNull();
      const [, name = "", labels = "", value] = sample!;
      const suffix = current!.family.type === "histogram" ? "(_bucket|_sum|_count)" : "";
      expect(name).toMatch(new RegExp(`^${current!.name}${suffix}$`));
      const pairs = [...labels.matchAll(/([a-zA-Z_]\w*)="((?:[^"\\\n]|\\[\\"n])*)"(?:,|$)/g)];
      expect(pairs.map(([pair]) => pair).join("")).toBe(labels);
      const entries = pairs.map(([, name, value]) => [name!, value!]);
      expect(value).toMatch(/^(\d+(\.\d+)?(e[+-]?\d+)?)$/);
      current!.family.samples.push({
        name,
        labels: Object.fromEntries(entries),
        value: Number(value),
      });
    }
  }
  for (const [name, { type, samples }] of families) {
    const keys = samples.map(({ name, labels }) => name + JSON.stringify(labels));
    expect(new Set(keys).size).toBe(keys.length);
    if (type === "counter") expect(name).toEndWith("_total");
    if (type === "histogram") checkHistogram(name, samples);
  }
  return families;
}

function checkHistogram(name: string, samples: Family["samples"]): void {
  const groups = Map.groupBy(samples, ({ labels: { le: _, ...rest } }) => JSON.stringify(rest));
  for (const group of groups.values()) {
    const buckets = group.filter((sample) => sample.name === `${name}_bucket`);
    const bounds = buckets.map(({ labels }) => Number(labels["le"]!.replace("+Inf", "Infinity")));
    expect(bounds).toEqual(bounds.toSorted((a, b) => a - b));
    expect(bounds.at(-1)).toBe(Infinity);
    const values = buckets.map(({ value }) => value);
    expect(values).toEqual(values.toSorted((a, b) => a - b));
    expect(group.find((sample) => sample.name === `${name}_count`)!.value).toBe(values.at(-1)!);
    expect(group.filter((sample) => sample.name === `${name}_sum`)).toHaveLength(1);
  }
}

const schemaObject = z.union([z.boolean(), z.record(z.string(), z.unknown())]);
const mediaTypes = z.record(
  z.string().regex(/^[\w.+-]+\/[\w.+-]+$/),
  z.strictObject({
    schema: schemaObject.optional(),
    example: z.unknown().optional(),
    examples: z.record(z.string(), z.unknown()).optional(),
  }),
);
const operationObject = z.strictObject({
  operationId: z.string(),
  summary: z.string().optional(),
  description: z.string().optional(),
  tags: z.array(z.string()).optional(),
  security: z.array(z.record(z.string(), z.array(z.string()))).optional(),
  parameters: z.array(
    z.strictObject({
      name: z.string(),
      in: z.enum(["path", "query", "header", "cookie"]),
      required: z.boolean(),
      description: z.string().optional(),
      schema: schemaObject,
    }),
  ),
  requestBody: z
    .strictObject({
      description: z.string().optional(),
      required: z.boolean(),
      content: mediaTypes,
    })
    .optional(),
  responses: z.record(
    z.string().regex(/^([1-5]\d\d|[1-5]XX|default)$/),
    z.strictObject({
      description: z.string(),
      headers: z.record(z.string(), z.unknown()).optional(),
      content: mediaTypes.optional(),
    }),
  ),
});

/** What OpenAPI 3.1 asks of a document, as far as ours goes. */
const openApi = z.strictObject({
  openapi: z.literal("3.1.1"),
  info: z.strictObject({
    title: z.string(),
    version: z.string(),
    summary: z.string(),
    license: z.strictObject({ name: z.string(), identifier: z.string() }),
  }),
  servers: z.array(z.strictObject({ url: z.string() })),
  tags: z.array(z.strictObject({ name: z.string(), description: z.string() })),
  paths: z.record(
    z.string().regex(/^\//),
    z.partialRecord(
      z.enum(["get", "put", "post", "delete", "options", "head", "patch", "trace"]),
      operationObject,
    ),
  ),
  components: z.strictObject({
    schemas: z.record(z.string().regex(/^[\w.-]+$/), schemaObject),
    securitySchemes: z.record(z.string(), z.record(z.string(), z.string())),
  }),
});

function operationsOf(document: z.infer<typeof openApi>) {
  return Object.entries(document.paths).flatMap(([path, item]) =>
    Object.values(item).map((operation) => ({ path, operation: operation! })),
  );
}
