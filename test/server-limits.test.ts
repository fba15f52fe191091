/**
 * What every route is held to, whoever added it and by which of Elysia's means: slots, time limits,
 * streams until their last byte, and one reading of every path. Over bare sockets, where clients send
 * what no library would; and with ten routes, written as their authors would write them.
 */
import { describe, expect, test } from "bun:test";

import { cors } from "@elysiajs/cors";
import { Elysia, NotFoundError, sse, status } from "elysia";
import { z } from "zod";

import { virtualTime } from "../concepts/virtual-time.ts";
import { createApp } from "../server.ts";
import {
  aborted,
  ask,
  config,
  connect,
  eventually,
  expectProblem,
  gate,
  inProcess,
  metricsOf,
  overSocket,
  seeded,
} from "./serving.ts";

describe("ten routes, added by Elysia's usual means", () => {
  class Teapot extends Error {}
  class Custom extends Error {
    toResponse() {
      return new Response("as it wants", { status: 418 });
    }
  }
  /** An app as somebody would write it, who has read Elysia's documentation and no more. */
  const build = (given = config()) => {
    const slow = gate();
    const signals: AbortSignal[] = [];
    const heard: unknown[] = [];
    const app = createApp(given)
      .use(cors({ origin: "https://page.example", credentials: false }))
      .onError(({ error }) => {
        heard.push(error);
        if (error instanceof Teapot) return new Response("short and stout", { status: 418 });
        return undefined;
      })
      .use(
        new Elysia({ prefix: "/plugin" })
          .get("/slow", () => slow.pass())
          .get("/fails", () => {
            throw new Error("secret");
          }),
      )
      .group("/group", (group) =>
        group
          .get("/slow", () => slow.pass())
          .get("/teapot", () => {
            throw new Teapot();
          }),
      )
      .guard({ query: z.object({ n: z.coerce.number() }) }, (guarded) =>
        guarded.get("/guarded", ({ query }) => ({ n: query.n })),
      )
      .all("/all", ({ request }) => request.method)
      .get("/stream", async function* ({ signal }) {
        signals.push(signal);
        for (let n = 0; ; n++) {
          yield `${n}\n`;
          await slow.pass();
        }
      })
      .get("/events", function* () {
        yield sse({ event: "a", data: { n: 1 } });
        yield sse({ event: "b", data: "two" });
      })
      .get("/status", ({ query }) => status(query["code"] === "404" ? 404 : 403, "Not for you"))
      .get("/thrown", () => {
        throw status(409, "It is there already");
      })
      .get("/custom", () => {
        throw new Custom();
      })
      .get("/nothing/:id?", ({ params }) => {
        if (params.id === "0") throw new NotFoundError();
        return params.id ?? "all";
      })
      .get("/files/*", ({ params }) => params["*"])
      .get("/a+b", () => "plus")
      .get("/$metadata", () => "dollar")
      .get("/ip", ({ server, request }) => server?.requestIP(request)?.address ?? "in process")
      .post("/echo", ({ body }) => body, { body: z.object({ text: z.string() }) })
      .ws("/socket", { message: (ws, message) => void ws.send(message) })
      .macro({
        teapot: {
          beforeHandle: () => status(418, "I am a teapot"),
        },
      })
      .get("/macro", () => "never", { teapot: true })
      .get(
        "/local",
        () => {
          throw new Error("its own");
        },
        {
          error: ({ error }) =>
            new Response(`handled: ${(error as Error).message}`, { status: 410 }),
        },
      )
      .get("/headers", ({ set }) => {
        Object.assign(set.headers, { "Content-Type": "text/csv", ETag: '"1"', "x-own": "1" });
        throw status(409, "No");
      })
      .get("/created", () => status(201, "made"))
      .get("/typed", ({ set }) => {
        set.headers["Content-Type" as "content-type"] = "application/vnd.api+json";
        return { a: 1 };
      })
      // Elysia finds out that there is no such model when the route is first asked for.
      .post("/broken", () => "never", { body: "nothing" as never });
    return { app, slow, signals, heard };
  };

  describe.each([
    ["in process", inProcess],
    ["over a socket", (app: Parameters<typeof inProcess>[0]) => overSocket(app)],
  ])("%s", (_, start) => {
    test.each(["/plugin/slow", "/group/slow"])(
      "%s has a slot, and no more than that",
      async (path) => {
        const { app, slow } = build(config({ MAX_IN_FLIGHT: 1 }));
        await using server = await start(app);
        const first = server.fetch(path);
        await slow.reached(1);

        const second = await server.fetch(path);

        await expectProblem(second, 503, "Service Unavailable", path);
        expect(second.headers.get("retry-after")).toBe("1");
        expect((await metricsOf(server)).inFlight).toBe(1);
        slow.open();
        expect(await (await first).text()).toBe("passed");
        const { inFlight, requests } = await metricsOf(server);
        expect(inFlight).toBe(0);
        expect(requests[`GET ${path}`]).toMatchObject({
          count: 2,
          status: { 200: 1, 503: 1 },
          refused: 1,
        });
      },
    );

    test("all are answered as they should be, and counted by their patterns", async () => {
      const { app, heard } = build();
      await using server = await start(app);
      const text = async (path: string, init?: RequestInit) =>
        (await server.fetch(path, init)).text();
      const problem = async (path: string, status: number, title: string, init?: RequestInit) =>
        expectProblem(await server.fetch(path, init), status, title, path.replace(/\?.*/, ""));
      const post = (body: string) => ({
        method: "POST",
        body,
        headers: { "content-type": "application/json" },
      });

      expect(await text("/all")).toBe("GET");
      expect(await text("/all", { method: "PATCH" })).toBe("PATCH");
      expect(await text("/guarded?n=5")).toBe('{"n":5}');
      await problem("/guarded?n=x", 422, "Unprocessable Entity");
      expect(await text("/events")).toBe('event: a\ndata: {"n":1}\n\nevent: b\ndata: two\n\n');
      expect((await problem("/status", 403, "Forbidden")).detail).toBe("Not for you.");
      await problem("/status?code=404", 404, "Not Found");
      expect((await problem("/thrown", 409, "Conflict")).detail).toBe("It is there already.");
      const custom = await server.fetch("/custom");
      expect([custom.status, await custom.text()]).toEqual([418, "as it wants"]);
      const teapot = await server.fetch("/group/teapot");
      expect([teapot.status, await teapot.text()]).toEqual([418, "short and stout"]);
      await problem("/macro", 418, "I'm a Teapot");
      expect(await text("/nothing")).toBe("all");
      expect(await text("/nothing/5")).toBe("5");
      await problem("/nothing/0", 404, "Not Found");
      expect(await text("/files/a/b.txt")).toBe("a/b.txt");
      expect(await text("/a+b")).toBe("plus");
      expect(await text("/$metadata")).toBe("dollar");
      expect(await text("/ip")).toBe(server.port ? "127.0.0.1" : "in process");
      expect(await text("/echo", post('{"text":"hi"}'))).toBe('{"text":"hi"}');
      await problem("/echo", 422, "Unprocessable Entity", post('{"text":1}'));
      await problem("/echo", 400, "Bad Request", post('{"text'));
      const local = await server.fetch("/local");
      expect([local.status, await local.text()]).toEqual([410, "handled: its own"]);
      const headers = await server.fetch("/headers");
      expect(headers.headers.get("x-own")).toBe("1");
      expect(headers.headers.get("etag")).toBeNull();
      await expectProblem(headers, 409, "Conflict", "/headers");
      const created = await server.fetch("/created");
      expect([created.status, await created.text()]).toEqual([201, "made"]);
      const typed = await server.fetch("/typed");
      expect(typed.headers.get("content-type")).toBe("application/vnd.api+json");
      await problem("/broken", 500, "Internal Server Error", post("{}"));
      const failure = await problem("/plugin/fails", 500, "Internal Server Error");
      expect(JSON.stringify(failure)).not.toContain("secret");
      await problem("/echo", 405, "Method Not Allowed");
      await problem("/nowhere", 404, "Not Found");
      expect(heard).toContainEqual(expect.any(Teapot));
      expect(heard).toContainEqual(expect.objectContaining({ message: "secret" }));

      const { requests, inFlight } = await metricsOf(server);
      const counts = Object.fromEntries(
        Object.entries(requests).map(([name, { status }]) => [name, status]),
      );
      expect(counts).toEqual({
        "GET /all": { 200: 1 },
        "PATCH /all": { 200: 1 },
        "GET /guarded": { 200: 1, 422: 1 },
        "GET /events": { 200: 1 },
        "GET /status": { 403: 1, 404: 1 },
        "GET /thrown": { 409: 1 },
        "GET /custom": { 418: 1 },
        "GET /group/teapot": { 418: 1 },
        "GET /macro": { 418: 1 },
        "GET /nothing/:id?": { 200: 2, 404: 1 },
        "GET /files/*": { 200: 1 },
        "GET /a+b": { 200: 1 },
        "GET /$metadata": { 200: 1 },
        "GET /ip": { 200: 1 },
        "POST /echo": { 200: 1, 400: 1, 422: 1 },
        "GET /plugin/fails": { 500: 1 },
        "GET /local": { 410: 1 },
        "GET /headers": { 409: 1 },
        "GET /created": { 201: 1 },
        "GET /typed": { 200: 1 },
        // With the one that could not be compiled.
        unmatched: { 404: 1, 405: 1, 500: 1 },
      });
      expect(inFlight).toBe(0);
    });

    test("problems keep the headers that a plugin has set", async () => {
      const { app } = build(config({ MAX_IN_FLIGHT: 1 }));
      await using server = await start(app);
      const headers = { origin: "https://page.example" };

      for (const path of ["/plugin/fails", "/nowhere", "/thrown", "/status", "/guarded"]) {
        const response = await server.fetch(path, { headers });
        expect(response.status).toBeGreaterThanOrEqual(400);
        expect(response.headers.get("access-control-allow-origin")).toBe("https://page.example");
        expect(response.headers.get("x-content-type-options")).toBe("nosniff");
      }
    });

    test("all are documented", async () => {
      const { app } = build();
      await using server = await start(app);

      const { paths } = await (await server.fetch("/openapi.json")).json();

      for (const path of [
        "/plugin/slow",
        "/group/slow",
        "/guarded",
        "/all",
        "/stream",
        "/files/{path}",
      ]) {
        expect(Object.keys(paths[path].get.responses)).toEqual(
          expect.arrayContaining(["200", "400", "500", "503", "504"]),
        );
      }
      expect(Object.keys(paths)).toEqual(expect.arrayContaining(["/nothing", "/nothing/{id}"]));
      expect(Object.keys(paths["/echo"].post.responses)).toContain("413");
    });
  });

  test("a WebSocket is upgraded, and an ordinary request to it is a problem", async () => {
    const { app } = build();
    await using server = await overSocket(app);

    const socket = new WebSocket(`ws://127.0.0.1:${server.port}/socket`);
    const echoed = new Promise((resolve) => {
      socket.onmessage = ({ data }) => resolve(data);
    });
    socket.onopen = () => socket.send("hello");

    expect(await echoed).toBe("hello");
    socket.close();
    expect((await metricsOf(server)).requests["GET /socket"]).toMatchObject({ status: { 101: 1 } });
    const { headers } = await server.fetch("/socket", { method: "POST" });
    expect(headers.get("allow")).toBe("GET, HEAD, OPTIONS");
    expect((await server.fetch("/socket", { method: "GET" })).status).toBeGreaterThanOrEqual(400);
  });

  test("hold inside another app, too; inside its group all but the slots", async () => {
    const slow = gate();
    const inner = () => createApp(config({ MAX_IN_FLIGHT: 1 })).get("/slow", () => slow.pass());
    const used = await inProcess(new Elysia().use(inner()) as unknown as ReturnType<typeof inner>);
    const grouped = new Elysia().group("/v1", (group) => group.use(inner()));
    const first = used.fetch("/slow");
    await slow.reached(1);

    await expectProblem(await used.fetch("/slow"), 503, "Service Unavailable", "/slow");
    await expectProblem(await used.fetch("/nope"), 503, "Service Unavailable", "/nope");
    const again = ["/v1/nope", "/v1/slow", "/v1/slow"].map((path) =>
      grouped.handle(new Request(`http://localhost${path}`)),
    );
    await slow.reached(3);
    slow.open();
    const statuses = (await Promise.all([first, ...again])).map(({ status }) => status);
    expect(statuses).toEqual([200, 404, 200, 200]);
  });

  test("onStart and onStop are called", async () => {
    const calls: string[] = [];
    const app = createApp(config())
      .onStart(() => void calls.push("start"))
      .onStop(() => void calls.push("stop"));

    await using server = await overSocket(app);
    expect(calls).toEqual(["start"]);
    await server[Symbol.asyncDispose]();

    expect(calls).toEqual(["start", "stop"]);
  });
});

describe("time limits", () => {
  test.each([
    ["one that ignores its signal", () => new Promise<never>(() => {})],
    [
      "one that ends when its signal says so",
      async ({ signal }: { signal: AbortSignal }) => void (await aborted(signal)),
    ],
    [
      "one that throws the reason",
      async ({ signal }: { signal: AbortSignal }) => {
        throw await aborted(signal);
      },
    ],
    [
      "one that hears request.signal alone",
      ({ request }: { request: Request }) => aborted(request.signal),
    ],
  ])("%s is answered 504 when its time is up", async (_, handler) => {
    await virtualTime(async (clock) => {
      let signal: AbortSignal | undefined;
      const app = createApp(config()).get("/slow", (context) => {
        signal = context.signal;
        return handler(context);
      });
      const server = await inProcess(app);

      const response = await server.fetch("/slow");

      const problem = await expectProblem(response, 504, "Gateway Timeout", "/slow");
      expect(problem.detail).toBe("The answer took longer than 10000 ms.");
      expect(clock.elapsed).toBe(10_000);
      expect(signal!.reason).toMatchObject({ name: "TimeoutError" });
      const { inFlight, requests } = await metricsOf(server);
      expect(inFlight).toBe(0);
      const latencyMs = { p50: 10_000, p90: 10_000, p99: 10_000 };
      expect(requests["GET /slow"]).toEqual({
        count: 1,
        status: { 504: 1 },
        refused: 0,
        latencyMs,
      });
    });
  });

  test("each request has its own, and one timer serves them all", async () => {
    await virtualTime(async (clock) => {
      const app = createApp(config()).get("/deaf", () => new Promise<never>(() => {}));
      const server = await inProcess(app);
      const ends: number[] = [];
      const ask = async () => {
        await server.fetch("/deaf");
        ends.push(clock.elapsed);
      };

      const first = ask();
      const { pending } = clock;
      await new Promise((resolve) => setTimeout(resolve, 4000));
      const second = ask();
      expect(clock.pending).toBe(pending);
      await Promise.all([first, second]);

      expect(ends).toEqual([10_000, 14_000]);
    });
  });

  test("a route may have another one, or none", async () => {
    await virtualTime(async (clock) => {
      const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms, "awake"));
      const app = createApp(config())
        .get("/hour", () => sleep(3_600_000), { deadline: Infinity })
        .get("/second", () => sleep(3_600_000), { deadline: 1000 })
        .get("/quick", () => "quick", { deadline: 1000 });
      const server = await inProcess(app);
      await server.fetch("/quick");
      const { pending } = clock;
      await server.fetch("/quick");
      expect(clock.pending).toBe(pending);

      expect((await server.fetch("/second")).status).toBe(504);
      expect(clock.elapsed).toBe(1000);
      expect(await (await server.fetch("/hour")).text()).toBe("awake");
      expect(clock.elapsed).toBe(3_601_000);
    });
  });

  test("a stream has as long as any other answer, and is cut", async () => {
    await virtualTime(async (clock) => {
      let signal: AbortSignal | undefined;
      let isClosed = false;
      const app = createApp(config()).get("/ticks", async function* (context) {
        signal = context.signal;
        try {
          for (;;) {
            yield "tick\n";
            await new Promise((resolve) => setTimeout(resolve, 4000));
          }
        } finally {
          isClosed = true;
        }
      });
      const server = await inProcess(app);

      const response = await server.fetch("/ticks");
      const error = await response.text().catch((error) => error);

      expect(error).toMatchObject({ name: "TimeoutError" });
      expect(clock.elapsed).toBe(10_000);
      expect(signal!.aborted).toBe(true);
      expect((await metricsOf(server)).inFlight).toBe(0);
      await new Promise((resolve) => setTimeout(resolve, 4000));
      expect(isClosed).toBe(true);
    });
  });

  test("a stream that comes too late is closed", async () => {
    await virtualTime(async () => {
      const closed: string[] = [];
      const late = () => new Promise((resolve) => setTimeout(resolve, 20_000));
      const app = createApp(config())
        .get("/stream", async () => {
          await late();
          return new ReadableStream({ cancel: () => void closed.push("stream") });
        })
        .get("/response", async () => {
          await late();
          return new Response(new ReadableStream({ cancel: () => void closed.push("response") }));
        });
      const server = await inProcess(app);

      expect((await server.fetch("/stream")).status).toBe(504);
      expect((await server.fetch("/response")).status).toBe(504);
      await late();

      expect(closed).toEqual(["stream", "response"]);
    });
  });

  test("a client that has left before it is heard is not waited for", async () => {
    const app = createApp(config()).get("/deaf", () => new Promise<never>(() => {}));
    const server = await inProcess(app);

    const response = await server.fetch("/deaf", { signal: AbortSignal.abort() });

    expect(response.status).toBe(499);
    expect((await metricsOf(server)).inFlight).toBe(0);
  });

  test("the client's leaving aborts the signal, and gives the slot back", async () => {
    const slow = gate();
    const gone = Promise.withResolvers<unknown>();
    const app = createApp(config())
      .get("/slow", ({ signal }) => {
        void aborted(signal).then(gone.resolve);
        return slow.pass();
      })
      .get("/deaf", () => slow.pass());
    await using server = await overSocket(app);
    for (const path of ["/slow", "/deaf"]) {
      const controller = new AbortController();
      const response = server.fetch(path, { signal: controller.signal });
      response.catch(() => {});
      await slow.reached(path === "/slow" ? 1 : 2);
      expect((await metricsOf(server)).inFlight).toBe(1);

      controller.abort();

      await eventually(async () => (await metricsOf(server)).inFlight === 0);
      const { requests } = await metricsOf(server);
      expect(requests[`GET ${path}`]).toMatchObject({ status: { 499: 1 }, refused: 0 });
    }
    expect(await gone.promise).toMatchObject({ name: "AbortError" });
  });
});

describe("streams", () => {
  /** Streams of each kind, which say what becomes of them. */
  const build = (given = config()) => {
    const step = { pass: gate() };
    const events: string[] = [];
    const parts = async function* (signal: AbortSignal, name: string) {
      try {
        yield `${name} one\n`;
        await Promise.race([step.pass.pass(), aborted(signal)]);
        if (name === "failing") throw new Error("in the middle");
        yield `${name} two\n`;
      } finally {
        events.push(`${name} closed${signal.aborted ? ", aborted" : ""}`);
      }
    };
    const toStream = (source: AsyncGenerator<string>) =>
      new ReadableStream({
        async pull(controller) {
          const { done, value } = await source.next();
          if (done) controller.close();
          else controller.enqueue(new TextEncoder().encode(value));
        },
        cancel: () => void source.return(undefined),
      });
    const app = createApp(given)
      .get("/generator", ({ signal }) => parts(signal, "generator"))
      .get("/async", async ({ signal }) => parts(signal, "async"))
      .get("/stream", ({ signal }) => toStream(parts(signal, "stream")))
      .get("/response", ({ signal }) => new Response(toStream(parts(signal, "response"))))
      .get("/failing", ({ signal }) => parts(signal, "failing"))
      .get("/early", async function* () {
        if (Date.now() > 0) throw new Error("secret");
        yield "never";
      })
      .get("/whole", () => new Response("whole", { headers: { "x-own": "1" }, status: 201 }))
      .get("/empty", async function* () {});
    return { app, events, step };
  };
  const kinds = ["generator", "async", "stream", "response"];

  describe.each(kinds)("of the kind %s", (kind) => {
    test("has its slot until the last byte", async () => {
      const { app, step, events } = build(config({ MAX_IN_FLIGHT: 1 }));
      await using server = await overSocket(app);

      const response = await server.fetch(`/${kind}`);
      const reader = response.body!.getReader();
      const first = await reader.read();

      expect(new TextDecoder().decode(first.value)).toBe(`${kind} one\n`);
      expect((await metricsOf(server)).inFlight).toBe(1);
      expect((await server.fetch("/concepts")).status).toBe(503);
      step.pass.open();
      const second = await reader.read();
      expect(new TextDecoder().decode(second.value)).toBe(`${kind} two\n`);
      expect((await reader.read()).done).toBe(true);
      await eventually(async () => (await metricsOf(server)).inFlight === 0);
      expect(events).toEqual([`${kind} closed`]);
      expect((await metricsOf(server)).requests[`GET /${kind}`]).toMatchObject({ count: 1 });
    });

    test("is closed, and its signal aborted, when the client leaves in the middle", async () => {
      const { app, events } = build();
      await using server = await overSocket(app);
      const controller = new AbortController();
      const response = await server.fetch(`/${kind}`, { signal: controller.signal });
      await response.body!.getReader().read();

      controller.abort();

      await eventually(() => events.length > 0);
      expect(events).toEqual([`${kind} closed, aborted`]);
      await eventually(async () => (await metricsOf(server)).inFlight === 0);
    });

    test("is not begun for HEAD", async () => {
      const { app, events, step } = build();
      await using server = await overSocket(app);
      step.pass.open();

      const head = await server.fetch(`/${kind}`, { method: "HEAD" });

      expect(head.status).toBe(200);
      expect(head.headers.get("content-length")).toBeNull();
      expect(await head.text()).toBe("");
      expect((await metricsOf(server)).inFlight).toBe(0);
      // A source that has been started is closed; a generator that never ran has nothing to close.
      for (const event of events) expect(event).toBe(`${kind} closed`);
    });
  });

  test("one that fails is cut, so that nobody takes the part for the whole", async () => {
    const { app, step } = build();
    await using server = await overSocket(app);
    const client = await connect(server.port, "GET /failing HTTP/1.1\r\nHost: a\r\n\r\n");
    await eventually(() => client.answer.includes("failing one"));

    step.pass.open();

    const answer = await client.received;
    expect(answer).toContain("failing one");
    expect(answer).not.toContain("\r\n0\r\n\r\n");
    expect((await metricsOf(server)).inFlight).toBe(0);
  });

  test("one that fails before its first part is an error like any other", async () => {
    const { app } = build();
    await using server = await overSocket(app);

    const response = await server.fetch("/early");

    await expectProblem(response, 500, "Internal Server Error", "/early");
  });

  test("a response and an empty stream arrive as they are", async () => {
    const { app } = build();
    await using server = await overSocket(app);

    const whole = await server.fetch("/whole");
    expect([whole.status, whole.headers.get("x-own")]).toEqual([201, "1"]);
    expect(whole.headers.get("content-type")).toBe("text/plain;charset=utf-8");
    expect(await whole.text()).toBe("whole");
    expect(await (await server.fetch("/empty")).text()).toBe("");
    expect((await metricsOf(server)).inFlight).toBe(0);
  });

  test("chunks that are empty, or none at all, end nothing", async () => {
    const app = createApp(config()).get("/holes", async function* () {
      for (const chunk of ["a", "", undefined, null, new Uint8Array(0), "b"]) {
        yield chunk;
        await null;
      }
    });
    await using server = await overSocket(app);

    expect(await (await server.fetch("/holes")).text()).toBe("ab");
  });

  test("a body that its reader cancels is left, in process, too", async () => {
    const { app, events } = build();
    const server = await inProcess(app);
    const response = await server.fetch("/generator");
    const reader = response.body!.getReader();
    await reader.read();
    const pending = reader.read();

    await reader.cancel();

    await pending;
    await eventually(() => events.length > 0);
    expect(events).toEqual(["generator closed, aborted"]);
    expect((await metricsOf(server)).inFlight).toBe(0);
  });

  test("a slow reader slows the source down", async () => {
    let produced = 0;
    const chunk = new Uint8Array(65_536);
    const app = createApp(config()).get("/endless", async function* () {
      for (;;) {
        produced++;
        yield chunk;
        await new Promise(setImmediate);
      }
    });
    await using server = await overSocket(app);
    const client = await connect(server.port, "");
    client.pause();
    client.send("GET /endless HTTP/1.1\r\nHost: a\r\n\r\n");

    // As much as the sockets' buffers take, and then no more.
    let before = -1;
    await eventually(async () => {
      for (let turn = 0; turn < 200; turn++) await new Promise(setImmediate);
      return before === (before = produced) && produced > 0;
    });

    expect(produced).toBeLessThan(1000);
    client.hangUp();
    await eventually(async () => (await metricsOf(server)).inFlight === 0);
  });
});

describe("paths", () => {
  const build = () => {
    const ran: string[] = [];
    const app = createApp(config({ MAX_IN_FLIGHT: 1 }))
      .get("/slow", () => void ran.push("/slow"))
      .get("/items/:id", ({ params }) => params.id);
    return { app, ran };
  };

  // Without a valid Host, request.url is a path alone, and what Elysia reads is a part of it.
  test.each([
    ["an empty Host", "Host: \r\n"],
    ["a Host with a slash", "Host: a/b\r\n"],
    ["a Host with a query", "Host: a/slow?\r\n"],
    ["a Host with a user", "Host: user:pw@a\r\n"],
    ["a Host with a space", "Host: a b\r\n"],
    ["a Host with a backslash", "Host: a\\b\r\n"],
    ["a Host that is not ASCII", "Host: ex\xe9.com\r\n"],
    ["a Host that goes up", "Host: ../x\r\n"],
    ["no Host", ""],
  ])("a request with %s is refused before it is routed", async (_, headers) => {
    const { app, ran } = build();
    await using server = await overSocket(app);

    for (const path of ["/health?/slow", "/slow", "/aaaaaa/slow", "/aaaaaa/metrics", "/health"]) {
      expect(await ask(server.port, `GET ${path}`, headers)).toStartWith("HTTP/1.1 400 ");
    }

    expect(ran).toEqual([]);
  });

  test.each(["h", "a,b", "[::1]", "a:99999", "1.1", "%61", "x".repeat(250)])(
    "Host %s makes no difference to the path",
    async (host) => {
      const { app, ran } = build();
      await using server = await overSocket(app);
      const headers = `Host: ${host}\r\n`;

      expect(await ask(server.port, "GET /items/7?/slow", headers)).toEndWith("\r\n\r\n7");
      expect(await ask(server.port, "GET http://evil/items/8?/slow", headers)).toEndWith(
        "\r\n\r\n8",
      );
      expect(await ask(server.port, "GET /health?/slow", headers)).toContain('"status":"ok"');
      expect(ran).toEqual([]);
      expect((await metricsOf(server)).requests).toMatchObject({
        "GET /items/:id": { count: 2 },
        "GET /health": { count: 1 },
      });
    },
  );

  test.each([
    ["/items/%", 400],
    ["/items/%ff", 400],
    ["/%E0%A4%A", 400],
    ["/items/%2e%2e%2fserver.ts", 200],
    ["/items/a%00b", 200],
    ["/items/a\\b", 404],
    ["/items/../health", 200],
    ["//health", 404],
    ["/health#/slow", 404],
    ["/he%61lth", 404],
    ["/Health", 404],
    ["/health/", 200],
  ])("%s is answered %d", async (path, expected) => {
    const { app, ran } = build();
    await using server = await overSocket(app);

    expect(await ask(server.port, `GET ${path}`)).toStartWith(`HTTP/1.1 ${expected} `);
    expect(ran).toEqual([]);
  });
});

describe("bodies", () => {
  const build = (MAX_BODY_BYTES = 10) =>
    createApp(config({ MAX_BODY_BYTES }))
      .post("/text", ({ body }) => body as string, { parse: "text" })
      .post("/raw", async ({ request }) => `${(await request.bytes()).length}`);

  test.each(["/text", "/raw"])(
    "%s gets one that is within the limit, chunked or not",
    async (path) => {
      await using server = await overSocket(build());
      const chunked = "Host: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
      const client = await connect(
        server.port,
        `POST ${path} HTTP/1.1\r\n${chunked}5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n`,
      );

      expect(await client.received).toEndWith(
        path === "/text" ? "\r\n\r\nhelloworld" : "\r\n\r\n10",
      );
      const whole = await server.fetch(path, { method: "POST", body: "helloworld" });
      expect(whole.status).toBe(200);
    },
  );

  test.each(["/text", "/raw"])("%s refuses one that is too long, chunked or not", async (path) => {
    await using server = await overSocket(build());
    const ask = async (headers: string, body: string) => {
      const text = `POST ${path} HTTP/1.1\r\nHost: a\r\n${headers}\r\n\r\n${body}`;
      return (await connect(server.port, text)).received;
    };

    for (const answer of [
      await ask("Transfer-Encoding: chunked", "b\r\nhello world\r\n0\r\n\r\n"),
      // It is not waited for the end of what is too long already.
      await ask("Transfer-Encoding: chunked", "b\r\nhello world\r\n"),
      await ask("Content-Length: 11", "hello world"),
      await ask("Content-Length: 99999999999", ""),
    ]) {
      expect(answer).toStartWith("HTTP/1.1 413 ");
      expect(answer).toContain("application/problem+json");
    }
    expect((await metricsOf(server)).inFlight).toBe(0);
  });

  test("one that is nested deeply is refused before it is validated", async () => {
    const app = createApp(config())
      .post("/schema", ({ body }) => body, { body: z.object({ a: z.string() }) })
      .post("/echo", ({ body }) => body as object);
    const server = await inProcess(app);
    const nested = (depth: number) => `${"[".repeat(depth)}${"]".repeat(depth)}`;
    const post = (path: string, body: string) => {
      const headers = { "content-type": "application/json" };
      return server.fetch(path, { method: "POST", body, headers });
    };

    for (const path of ["/schema", "/echo"]) {
      for (const body of [nested(102), nested(50_000), `{"a":${nested(101)}}`]) {
        await expectProblem(await post(path, body), 400, "Bad Request", path);
      }
    }
    expect(await (await post("/echo", nested(100))).text()).toBe(nested(100));
    expect((await post("/schema", nested(100))).status).toBe(422);
  });

  test.each([
    ["CONNECT *?n=1", "Host: a"],
    ["POST /all", "Host: a:99999"],
  ])("%s with %s and a chunked body is 400, not 500", async (line, host) => {
    await using server = await overSocket(createApp(config()).all("/all", () => "all"));
    const text = `${line} HTTP/1.1\r\n${host}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`;

    const client = await connect(server.port, text);

    expect(await client.received).toStartWith("HTTP/1.1 400 ");
  });

  test("one that never comes is given up when the time is up", async () => {
    const given = config({ REQUEST_TIMEOUT_MS: 20 });
    const app = createApp(given).post("/text", ({ body }) => body as string, { parse: "text" });
    await using server = await overSocket(app);
    const text = "POST /text HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1";
    const client = await connect(server.port, text);

    await eventually(() => client.answer.startsWith("HTTP/1.1 504 "));

    expect((await metricsOf(server)).inFlight).toBe(0);
    client.hangUp();
  });
});

// `FUZZ=10000 bun test test/server-limits.test.ts -t random` sends as many; `SEED` makes others.
describe("random requests", () => {
  const count = Number(process.env["FUZZ"] ?? 400);
  const seed = Number(process.env["SEED"] ?? 1);

  test(`are answered, none with a 5xx or a stack trace (${count} with the seed ${seed})`, async () => {
    const given = config({ REQUEST_TIMEOUT_MS: 120_000 });
    const app = createApp(given)
      .all("/all/*", ({ params }) => params["*"])
      .post("/form", ({ body }) => body as object)
      .get("/query", ({ query, cookie, headers }) => ({ query, headers, cookie: { ...cookie } }))
      .ws("/socket", {});
    await using server = await overSocket(app, given);
    const random = seeded(seed);

    const send = async () => {
      const { text, isWhole } = randomRequest(random, given.API_KEY, server.origin);
      const client = await connect(server.port, text);
      // Of what is not whole the server has to wait for the rest.
      if (isWhole) await eventually(() => client.answer.length > 0 || client.isClosed);
      client.hangUp();
      const shown = JSON.stringify(text.slice(0, 400));
      const [, status] = /^HTTP\/1\.[01] (\d+) /.exec(client.answer) ?? [];
      // Of Bun's own 505 it is the client's first line that is to blame.
      if (client.answer) expect(status, shown).toMatch(/^([1-4]\d\d|505)$/);
      expect(client.answer, shown).not.toMatch(/node_modules|\.ts:\d+|\n\s+at /);
    };
    const loop = async (times: number) => {
      for (let n = 0; n < times; n++) await send();
    };
    await Promise.all(Array.from({ length: 20 }, () => loop(count / 20)));

    expect((await server.fetch("/health")).status).toBe(200);
    await eventually(async () => (await metricsOf(server)).inFlight === 0);
  }, 120_000); // A busy machine may take long, and that is no hang.
});

/** A request as no client should send it, most of the time. */
function randomRequest(random: (below: number) => number, key: string, origin: string) {
  const pick = <T>(from: readonly T[]): T => from[random(from.length)]!;
  const sometimes = (chance: number) => random(100) < chance;
  const bytes = (length: number, from = 0) =>
    Array.from({ length }, () => String.fromCharCode(from + random(256 - from))).join("");
  const mangle = (text: string) => {
    const at = random(text.length + 1);
    const rest = text.slice(at + random(3));
    return text.slice(0, at) + pick(["", bytes(1 + random(3)), "%", "\0", "\xff", "{", '"']) + rest;
  };
  const PATHS = [
    "/",
    "/health",
    "/metrics",
    "/concepts",
    "/concepts/errors.ts",
    "/tests/x",
    "/form",
  ];
  const MORE = ["/r/errors.json", "/projects", "/projects/demo", "/all/a/b", "/query", "/socket"];
  const DEEP = [
    "/%2e%2e/%2e%2e/etc/passwd",
    "/..;/x",
    "//a//b",
    "/%",
    "/%ff",
    "/%00",
    "/a%2fb",
    "*",
  ];
  let path = pick([...PATHS, ...MORE, ...DEEP, "/projects/demo/batches"]);
  if (sometimes(30)) path = mangle(path);
  if (sometimes(30))
    path += `?${sometimes(50) ? "n=1&n[]=%ff&__proto__=1" : bytes(random(20), 33)}`;
  if (sometimes(2)) path += "x".repeat(random(20_000));
  const isBatch = path === "/projects/demo/batches";
  let method = isBatch ? "POST" : pick(["GET", "GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE"]);
  if (sometimes(5)) method = pick(["PROPFIND", "get", "", "G ET", "CONNECT", "TRACE", bytes(3)]);
  const headers: string[] = [];
  if (!sometimes(5))
    headers.push(`Host: ${pick(["a", "a", "a", "a:99999", "[::1]", bytes(random(8))])}`);
  if (sometimes(80)) headers.push(`X-API-Key: ${sometimes(95) ? key : bytes(random(40), 33)}`);
  const NAMES = ["Accept", "Authorization", "If-None-Match", "Idempotency-Key", "Range", "Cookie"];
  const OTHERS = ["X-Request-Id", "traceparent", "Content-Type", "Upgrade", "Origin", "Expect"];
  const VALUES = ["*/*;q=x", 'W/"a', "bytes=0-,-", "a=%ff; b", "100-continue", "websocket", ",;="];
  while (sometimes(60)) {
    const value = sometimes(50) ? pick(VALUES) : bytes(random(30), sometimes(90) ? 32 : 0);
    headers.push(`${pick([...NAMES, ...OTHERS])}: ${value}`);
  }
  const requests = [
    { url: `${origin}/health`, method: "GET", headers: { a: "b" }, body: undefined },
  ];
  const batch = JSON.stringify({ requests, concurrency: 1, timeoutMs: 100, retries: 0 });
  const WRONG = [
    { requests: [{ url: "x" }] },
    { requests: {} },
    [],
    null,
    { requests: [{ url: origin, headers: { "\n": "\0" } }] },
    { requests: [{ url: `${origin}@evil/`, method: "TRACE" }] },
    { requests, concurrency: -1, timeoutMs: 1e300, retries: "2" },
    { __proto__: null, requests: [{ url: origin, id: "" }], more: 1 },
  ].map((value) => JSON.stringify(value));
  const NESTED = [
    "[".repeat(50_000),
    `${'{"a":'.repeat(5000)}1${"}".repeat(5000)}`,
    '{"requests":1e999}',
  ];
  let body = "";
  if (isBatch || sometimes(30)) {
    body = pick([
      batch,
      batch,
      ...WRONG,
      ...NESTED,
      bytes(random(200)),
      "\xef\xbb\xbf{}",
      '"\ud800"',
    ]);
    if (sometimes(40)) body = mangle(body);
    headers.push(
      `Content-Type: ${pick(["application/json", "application/json", "text/plain", "multipart/form-data", "application/x-www-form-urlencoded", "x"])}`,
    );
  }
  let isWhole = method !== "" && !/[\n\r]/.test(path + method + headers.join(""));
  if (body && sometimes(30)) {
    headers.push("Transfer-Encoding: chunked");
    const size = Buffer.byteLength(body, "latin1").toString(16);
    body = pick([
      `${size}\r\n${body}\r\n0\r\n\r\n`,
      `${size}\r\n${body}\r\n0\r\n\r\n`,
      `zz\r\n${body}`,
      `-1\r\n${body}\r\n`,
    ]);
  } else if (body || sometimes(10)) {
    const length = Buffer.byteLength(body, "latin1");
    const wrong = sometimes(10);
    if (wrong) isWhole = false;
    headers.push(
      `Content-Length: ${wrong ? pick(["-1", "x", "1e9", `${length + 5}`, "99999999999"]) : length}`,
    );
  }
  const version = sometimes(97) ? "HTTP/1.1" : pick(["HTTP/1.0", "HTTP/9.9", "", bytes(5)]);
  const text = `${method} ${path} ${version}\r\n${headers.map((header) => `${header}\r\n`).join("")}\r\n${body}`;
  if (!sometimes(3)) return { text, isWhole };
  return { text: text.slice(0, random(text.length)), isWhole: false };
}
