/**
 * How to test what goes out to the network: first the rules by themselves, as tables; then the
 * sending, against an upstream on loopback that misbehaves; then a project's limits, in virtual time
 * and with a made-up network. No name is really resolved, and nothing leaves the machine.
 */
import { afterEach, describe, expect, test } from "bun:test";

import { poll, sleep } from "../concepts/async-basics.ts";
import { virtualTime } from "../concepts/virtual-time.ts";
import type { ProjectConfig } from "../server/config.ts";
import { Problem } from "../server/problems.ts";
import { Project, type ProjectOptions } from "../server/projects.ts";
import {
  checkUrl,
  createSend,
  forwardedHeaders,
  type Incoming,
  isPublicAddress,
  MAX_BODY_BYTES,
  type Outgoing,
  resolve,
  retryAfterMs,
  UpstreamError,
} from "../server/upstream.ts";
import { CERTIFICATES, Upstream } from "./upstream.ts";

describe("checkUrl", () => {
  const origins = [
    "https://api.example.com",
    "http://localhost:3000",
    "http://127.0.0.1",
    "http://[::1]:8080",
    "https://xn--bcher-kva.example",
  ];

  test.each([
    "https://api.example.com",
    "https://api.example.com/",
    "https://api.example.com/a/b?c=d#e",
    "https://api.example.com?c=d",
    "https://api.example.com#e",
    "https://api.example.com/@evil.example",
    "https://api.example.com/?to=https://evil.example",
    "https://api.example.com//evil.example/",
    "https://api.example.com/ä",
    "http://localhost:3000/x",
    "http://127.0.0.1/x",
    "http://[::1]:8080/x",
    "https://xn--bcher-kva.example/",
  ])("allows %s", (text) => {
    const url = checkUrl(text, origins);

    expect(url.href).toBe(new URL(text).href);
    expect(origins).toContain(url.origin);
  });

  test("stays below the origin, whatever the path says", () => {
    expect(checkUrl("https://api.example.com/../../x", origins).href).toBe(
      "https://api.example.com/x",
    );
  });

  describe("refuses what merely looks like a listed origin", () => {
    test.each([
      ["another host", "https://evil.example/"],
      ["another scheme", "http://api.example.com/"],
      ["a file", "file:///etc/passwd"],
      ["data", "data:text/plain,hello"],
      ["a blob", "blob:https://api.example.com/1234"],
      ["ftp", "ftp://api.example.com/"],
      ["another port", "https://api.example.com:8443/"],
      ["a port where none is listed", "http://127.0.0.1:3000/"],
      ["no port where one is listed", "http://localhost/"],
      ["a longer port", "http://localhost:30000/"],
      ["the default port spelt out", "https://api.example.com:443/"],
      ["an empty port", "https://api.example.com:/"],
      ["a user name", "https://user@api.example.com/"],
      ["a user name and password", "https://user:password@api.example.com/"],
      ["an empty user name", "https://@api.example.com/"],
      ["the origin as a user name", "https://api.example.com@evil.example/"],
      ["the origin as user name and password", "http://localhost:3000@evil.example/"],
      ["the origin as the beginning of a name", "https://api.example.com.evil.example/"],
      ["the origin as the end of a name", "https://evil-api.example.com/"],
      ["a name below it", "https://x.api.example.com/"],
      ["a trailing dot", "https://api.example.com./"],
      ["a trailing dot and a port", "http://localhost.:3000/"],
      ["an upper-case host", "https://API.example.com/"],
      ["an upper-case scheme", "HTTPS://api.example.com/"],
      ["a decimal address", "http://2130706433/"],
      ["an octal address", "http://0177.0.0.1/"],
      ["a hexadecimal address", "http://0x7f000001/"],
      ["a hexadecimal part", "http://0x7f.0.0.1/"],
      ["a short address", "http://127.1/"],
      ["an address with a trailing dot", "http://127.0.0.1./"],
      ["full-width digits", "http://１２７.0.0.1/"],
      ["an address mapped into IPv6", "http://[::ffff:127.0.0.1]/"],
      ["an IPv6 address written out", "http://[0:0:0:0:0:0:0:1]:8080/"],
      ["an IPv6 address with zeros", "http://[::0001]:8080/"],
      ["an IPv6 address with an IPv4 tail", "http://[::0.0.0.1]:8080/"],
      ["a full-width dot", "https://api。example.com/"],
      ["a full-width letter", "https://ａpi.example.com/"],
      ["a Cyrillic letter", "https://аpi.example.com/"],
      ["a soft hyphen", "https://api\u00ad.example.com/"],
      ["a name that is listed in its ASCII form", "https://bücher.example/"],
      ["an encoded letter", "https://%61pi.example.com/"],
      ["one slash", "https:/api.example.com/"],
      ["no slash", "https:api.example.com/"],
      ["three slashes", "https:///api.example.com/"],
    ])("%s", (_, text) => {
      expect(typeOf(() => checkUrl(text, origins))).toBe("forbidden-origin");
    });
  });

  describe("refuses what URL readers do not agree on", () => {
    test.each([
      ["no URL at all", "api.example.com"],
      ["nothing", ""],
      ["a scheme alone", "https://"],
      ["a user name, encoded", "https://api.example.com%40evil.example/"],
      ["no scheme", "//api.example.com/"],
      ["a port that is too high", "https://api.example.com:65536/"],
      ["a zone", "http://[fe80::1%25eth0]:8080/"],
      ["a space before", " https://api.example.com/"],
      ["a space inside", "https://api.example.com/a b"],
      ["a tab in the scheme", "ht\ttps://api.example.com/"],
      ["a line break in the path", "https://api.example.com/a\r\nHost: evil.example"],
      ["a NUL at the end", "https://api.example.com/\0"],
      ["a DEL", "https://api.example.com/\x7f"],
      ["a backslash for a slash", "https:\\\\api.example.com\\"],
      ["a backslash behind the host", "https://api.example.com\\@evil.example/"],
      ["a backslash in the path", "https://api.example.com/\\evil.example"],
      ["a no-break space", "https://api.example.com/\u00a0"],
    ])("%s", (_, text) => {
      expect(typeOf(() => checkUrl(text, origins))).toBe("invalid-url");
    });
  });

  test.each(["ftp://api.example.com", "http://127.1", "http://API.example.com"])(
    "allows nothing below %s, even if it is listed: it is not an origin of HTTP",
    (origin) => {
      expect(typeOf(() => checkUrl(`${origin}/`, [origin]))).toBe("forbidden-origin");
    },
  );

  test("allows nothing without origins, and does not repeat a password", () => {
    expect(typeOf(() => checkUrl("https://api.example.com/", []))).toBe("forbidden-origin");
    expect(() => checkUrl("https://user:hunter2@api.example.com/", origins)).toThrow(
      "The URL does not begin with one of the project's origins, letter by letter",
    );
  });
});

describe("isPublicAddress", () => {
  test.each([
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.0.3.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2001:4860:4860::8888",
    "2001:200::1",
    "2001:db7:ffff::1",
    "2001:db9::1",
    "2002:0808:0808::1",
    "2003::1",
    "3ffe:ffff::1",
    "::ffff:8.8.8.8",
    "::ffff:808:808",
    "64:ff9b::8.8.8.8",
    "2606:4700::5efe:8.8.8.8",
  ])("%s is public", (address) => expect(isPublicAddress(address)).toBe(true));

  test.each([
    ["unspecified", "0.0.0.0"],
    ["this network", "0.1.2.3"],
    ["private", "10.0.0.0"],
    ["private", "10.255.255.255"],
    ["private", "172.16.0.1"],
    ["private", "172.31.255.255"],
    ["private", "192.168.0.1"],
    ["behind a carrier's NAT", "100.64.0.0"],
    ["behind a carrier's NAT", "100.127.255.255"],
    ["loopback", "127.0.0.1"],
    ["loopback", "127.255.255.255"],
    ["link-local", "169.254.169.254"],
    ["protocol assignments", "192.0.0.8"],
    ["documentation", "192.0.2.1"],
    ["documentation", "198.51.100.255"],
    ["documentation", "203.0.113.7"],
    ["6to4 relays", "192.88.99.1"],
    ["benchmarks", "198.18.0.1"],
    ["benchmarks", "198.19.255.255"],
    ["multicast", "224.0.0.1"],
    ["multicast", "239.255.255.255"],
    ["reserved", "240.0.0.1"],
    ["broadcast", "255.255.255.255"],
    ["unspecified", "::"],
    ["loopback", "::1"],
    ["loopback, written out", "0:0:0:0:0:0:0:1"],
    ["IPv4-compatible", "::7f00:1"],
    ["IPv4-compatible", "::8.8.8.8"],
    ["mapped loopback", "::ffff:127.0.0.1"],
    ["mapped loopback", "::ffff:7f00:1"],
    ["mapped loopback", "0:0:0:0:0:FFFF:7F00:0001"],
    ["mapped link-local", "::ffff:169.254.169.254"],
    ["translated", "::ffff:0:8.8.8.8"],
    ["NAT64 to loopback", "64:ff9b::127.0.0.1"],
    ["NAT64 to a private address", "64:ff9b::a00:1"],
    ["NAT64 of a local prefix", "64:ff9b:1::808:808"],
    ["discard", "100::1"],
    ["dummy", "100:0:0:1::1"],
    ["Teredo", "2001::1"],
    ["Teredo of a private client", "2001:0:4136:e378:8000:63bf:f5ff:fffe"],
    ["benchmarks", "2001:2::1"],
    ["ORCHID", "2001:20::1"],
    ["documentation", "2001:db8::1"],
    ["documentation", "3fff::1"],
    ["6to4 of a private address", "2002:a00:1::1"],
    ["6to4 of loopback", "2002:7f00:1::"],
    ["6to4 of link-local", "2002:a9fe:a9fe::1"],
    ["ISATAP of a private address", "2606:4700::5efe:10.0.0.1"],
    ["ISATAP of a private address", "2606:4700::200:5efe:10.0.0.1"],
    ["segment routing", "5f00::1"],
    ["unassigned", "4000::1"],
    ["unique local", "fc00::1"],
    ["unique local", "fd12:3456::1"],
    ["link-local", "fe80::1"],
    ["link-local with a zone", "fe80::1%eth0"],
    ["anything with a zone", "2606:4700::1%eth0"],
    ["site-local", "fec0::1"],
    ["multicast", "ff02::1"],
    ["no address", "localhost"],
    ["no address", ""],
    ["no address", "8.8.8"],
    ["no address", "08.8.8.8"],
    ["no address", "1:2:3:4:5:6:7:8:9"],
  ])("%s (%s) is not", (_, address) => expect(isPublicAddress(address)).toBe(false));
});

describe("resolve", () => {
  const find = (addresses: string[]) => async () => addresses;
  const never = new AbortController().signal;
  const url = new URL("https://api.example.com/");

  test("returns all addresses of a name, in order", async () => {
    const addresses = ["2606:4700::1", "1.1.1.1"];
    expect(await resolve(url, false, find(addresses), never)).toEqual(addresses);
  });

  test.each([
    ["the only one", ["127.0.0.1"]],
    ["the last of many", ["1.1.1.1", "8.8.8.8", "169.254.169.254"]],
    ["the first of two", ["10.0.0.1", "1.1.1.1"]],
    ["of another family", ["1.1.1.1", "::ffff:10.0.0.1"]],
  ])("refuses a name of which a private address is %s", async (_, addresses) => {
    const refused = resolve(url, false, find(addresses), never);

    expect(await typeOf(() => refused)).toBe("forbidden-address");
    expect(await resolve(url, true, find(addresses), never)).toEqual(addresses);
  });

  test.each([
    ["http://127.0.0.1/", "127.0.0.1"],
    ["http://[::1]/", "::1"],
    ["http://[::ffff:10.0.0.1]/", "::ffff:a00:1"],
    ["http://169.254.169.254/latest/meta-data/", "169.254.169.254"],
  ])("refuses %s without asking for a name", async (text, address) => {
    const asking = () => Promise.reject(new Error("asked"));

    expect(await typeOf(() => resolve(new URL(text), false, asking, never))).toBe(
      "forbidden-address",
    );
    expect(await resolve(new URL(text), true, asking, never)).toEqual([address]);
  });

  test.each([
    ["fails", () => Promise.reject(new Error("SERVFAIL"))],
    ["finds nothing", find([])],
    ["finds what is not an address", find(["1.1.1.1", "evil.example"])],
  ])("says that a name can't be resolved if the resolver %s", async (_, find) => {
    expect(await typeOf(() => resolve(url, true, find, never))).toBe("dns");
  });

  test("rejects with the signal's reason when it is aborted meanwhile", async () => {
    const controller = new AbortController();
    const find = async () => {
      controller.abort("enough");
      throw new Error("aborted");
    };

    expect(await resolve(url, true, find, controller.signal).catch((reason) => reason)).toBe(
      "enough",
    );
  });
});

describe("forwardedHeaders", () => {
  const forward = (headers: Record<string, string>) =>
    Object.fromEntries(forwardedHeaders(headers, (text) => text === "own-key"));
  const always = { "accept-encoding": "identity", "user-agent": "async-concepts" };

  test("sends on what the caller has set, even in place of our own", () => {
    const headers = { Accept: "text/html", "User-Agent": "mine", cookie: "a=1; b=2" };
    expect(forward(headers)).toEqual({
      ...always,
      accept: "text/html",
      "user-agent": "mine",
      cookie: "a=1; b=2",
    });
  });

  test.each([
    "Host",
    "connection",
    "Keep-Alive",
    "PROXY-AUTHORIZATION",
    "proxy-authenticate",
    "proxy-connection",
    "TE",
    "Trailer",
    "transfer-encoding",
    "Upgrade",
    "HTTP2-Settings",
    "Content-Length",
    "Expect",
    "X-API-Key",
  ])("does not send on %s", (name) => expect(forward({ [name]: "x" })).toEqual(always));

  test("does not send on what Connection names", () => {
    const headers = { connection: "close, X-Hop", "x-hop": "1", "x-end": "2" };
    expect(forward(headers)).toEqual({ ...always, "x-end": "2" });
  });

  test.each(["Bearer own-key", "bearer  own-key ", "Token\town-key", "own-key"])(
    "does not send on a key of this server as Authorization: %s",
    (value) => {
      expect(forward({ Authorization: value })).toEqual(always);
      const theirs = value.replace("own", "their");
      expect(forward({ Authorization: theirs })).toEqual({
        ...always,
        authorization: theirs.trim(),
      });
    },
  );
});

describe("retryAfterMs", () => {
  const now = Date.UTC(2030, 0, 1, 12, 0, 0);

  test.each([
    ["0", 0],
    ["7", 7000],
    ["120", 120_000],
    ["Tue, 01 Jan 2030 12:00:03 GMT", 3000],
    ["Tue, 01 Jan 2030 11:00:00 GMT", 0],
    ["", undefined],
    ["soon", undefined],
    ["1.5", undefined],
    ["-1", undefined],
    ["1e3", undefined],
    ["2030-01-01", undefined],
    ["Tue, 99 Jan 2030 12:00:03 GMT", undefined],
  ])("reads %s", async (value, expected) => {
    const ms = await virtualTime(() => retryAfterMs({ "retry-after": value }), { now });
    expect(ms).toBe(expected as number);
  });

  test("is undefined without the header", () => expect(retryAfterMs({})).toBeUndefined());
});

describe("createSend", () => {
  const send = createSend();

  test("sends one request, as it was given, and reads the answer", async () => {
    await using upstream = await Upstream.start();
    const { status, headers, body } = await send(
      outgoing(`${upstream.origin}/echo?a=%20b`, upstream, {
        method: "PATCH",
        headers: new Headers({ "x-one": "1", "content-type": "text/plain" }),
        body: "hällo",
      }),
      idle(),
    );

    expect(status).toBe(200);
    expect(headers).toEqual({ "content-length": String(Buffer.byteLength(body)) });
    const received = JSON.parse(body);
    expect(received).toMatchObject({ method: "PATCH", path: "/echo?a=%20b", connection: 1 });
    expect(received.body).toBe("h\u00c3\u00a4llo");
    expect(Object.fromEntries(received.headers)).toMatchObject({
      host: `127.0.0.1:${upstream.port}`,
      "x-one": "1",
      "content-type": "text/plain",
      "content-length": "6",
    });
    expect(upstream.received).toHaveLength(1);
  });

  describe("goes to the address that was checked", () => {
    test("and to no other, whatever the name means by now", async () => {
      await using upstream = await Upstream.start();
      // The name would lead elsewhere, if it were asked: .invalid has no addresses.
      const request = outgoing(`${upstream.originOf("rebound.invalid")}/echo`, upstream);
      const { body } = await send(request, idle());

      expect(Object.fromEntries(JSON.parse(body).headers)).toMatchObject({
        host: `rebound.invalid:${upstream.port}`,
      });
    });

    test("even if that is an IPv6 address", async () => {
      await using upstream = await Upstream.start({ host: "::1" });
      const request = outgoing(`${upstream.originOf("[::1]")}/ok`, upstream, {
        addresses: ["::1"],
      });
      expect(await send(request, idle())).toMatchObject({ status: 200, body: "ok" });
    });

    test("and past a proxy that the environment names", async () => {
      await using upstream = await Upstream.start();
      await using proxy = await Upstream.start();
      using _environment = withEnvironment({ HTTP_PROXY: proxy.origin, http_proxy: proxy.origin });
      expect((await fetch(`${upstream.origin}/ok`)).status).toBe(404); // is what the proxy says

      const request = outgoing(`${upstream.origin}/ok`, upstream);
      expect(await send(request, idle())).toMatchObject({ status: 200, body: "ok" });
      expect(upstream.received).toHaveLength(1);
      expect(proxy.received).toHaveLength(1);
    });

    test("or to the next one, if no connection can be made", async () => {
      await using upstream = await Upstream.start();
      const request = outgoing(`${upstream.originOf("two.test")}/ok`, upstream, {
        addresses: ["127.0.0.2", "::1", "127.0.0.1"],
        method: "POST",
        body: "once",
      });
      expect(await send(request, idle())).toMatchObject({ status: 200 });
      expect(upstream.received).toHaveLength(1);
    });

    test("but not to the next one after it has been sent", async () => {
      await using upstream = await Upstream.start({ host: "0.0.0.0" });
      const request = outgoing(`${upstream.originOf("two.test")}/reset`, upstream, {
        addresses: ["127.0.0.1", "127.0.0.2"],
        method: "POST",
        body: "once",
      });
      expect(await typeOf(() => send(request, idle()))).toBe("network");
      expect(upstream.received).toHaveLength(1);
    });
  });

  test.each(["POST", "PATCH"])(
    "sends a %s once, even if the connection was kept from another request and breaks",
    async (method) => {
      await using upstream = await Upstream.start();
      await send(outgoing(`${upstream.origin}/ok`, upstream), idle());
      const request = outgoing(`${upstream.origin}/reset`, upstream, { method, body: "once" });

      expect(await typeOf(() => send(request, idle()))).toBe("network");
      expect(upstream.received.map(({ path, connection }) => [path, connection])).toEqual([
        ["/ok", 1],
        ["/reset", 1],
      ]);
    },
  );

  describe("over TLS", () => {
    const ca = Object.values(CERTIFICATES).map(({ cert }) => cert);
    const sendTo = (upstream: Upstream, name: string, trusted = ca) =>
      createSend({ ca: trusted })(outgoing(`${upstream.originOf(name)}/echo`, upstream), idle());

    test("verifies the name, though it connects to an address", async () => {
      await using upstream = await Upstream.start({ tls: CERTIFICATES["a.test"] });
      const { body } = await sendTo(upstream, "a.test");

      expect(Object.fromEntries(JSON.parse(body).headers)).toHaveProperty(
        "host",
        `a.test:${upstream.port}`,
      );
      expect(await typeOf(() => sendTo(upstream, "b.test"))).toBe("tls");
      expect(await typeOf(() => sendTo(upstream, "127.0.0.1"))).toBe("tls");
      expect(upstream.received).toHaveLength(1);
    });

    test("never sends one name's request over a connection that was verified for another", async () => {
      await using upstream = await Upstream.start({ tls: CERTIFICATES["a.test"] });
      const connectionOf = async () =>
        JSON.parse((await sendTo(upstream, "a.test")).body).connection;
      expect([await connectionOf(), await connectionOf()]).toEqual([1, 1]);

      expect(await typeOf(() => sendTo(upstream, "b.test"))).toBe("tls");
      expect(upstream.received).toHaveLength(2);
    });

    test("trusts nobody it doesn't know, even if the environment says so", async () => {
      await using upstream = await Upstream.start({ tls: CERTIFICATES["a.test"] });
      using _environment = withEnvironment({ NODE_TLS_REJECT_UNAUTHORIZED: "0" });
      const known = [CERTIFICATES["b.test"].cert];

      expect(await typeOf(() => sendTo(upstream, "a.test", known))).toBe("tls");
      expect(upstream.received).toHaveLength(0);
    });
  });

  describe("reads whatever an upstream answers", () => {
    test.each<[path: string, expected: object]>([
      ["/status?status=204", { status: 204, body: "" }],
      ["/status?status=500", { status: 500, body: "status" }],
      ["/status?status=999", { status: 999 }],
      ["/no-length?length=5", { status: 200, body: "....." }],
      ["/long", { status: 200, body: "hel" }],
      ["/cookies", { headers: { "content-length": "2", "set-cookie": ["a=1", "b=2, c"] } }],
      ["/binary", { body: "//4AAQ==", bodyEncoding: "base64" }],
      ["/bom", { body: "\ufeffa" }],
      // Sent as it came: what unpacks to a gigabyte is not unpacked here.
      ["/gzip", { headers: { "content-encoding": "gzip" }, bodyEncoding: "base64" }],
      // Not followed, wherever it leads.
      [
        "/redirect?to=http://169.254.169.254/",
        { status: 302, headers: { location: "http://169.254.169.254/" }, body: "elsewhere" },
      ],
    ])("%s", async (path, expected) => {
      await using upstream = await Upstream.start();
      const answer = await send(outgoing(`${upstream.origin}${path}`, upstream), idle());

      expect(answer).toMatchObject(expected);
      expect(answer).not.toHaveProperty("bodyTruncated");
      expect(upstream.received).toHaveLength(1);
    });

    test("but no more of a body than fits", async () => {
      await using upstream = await Upstream.start();
      const answer = await send(outgoing(`${upstream.origin}/gigabyte`, upstream), idle());

      expect(answer.bodyTruncated).toBe(true);
      expect(answer.body).toBe("a".repeat(MAX_BODY_BYTES));
      await poll(() => upstream.open === 0, { interval: 1, timeout: 10_000 });
      expect(upstream.bytesSent).toBeLessThan(1e8);
    });

    test.each([
      [MAX_BODY_BYTES, undefined],
      [MAX_BODY_BYTES + 1, true],
    ])("to the byte (%s of them)", async (length, isTruncated) => {
      await using upstream = await Upstream.start();
      const url = `${upstream.origin}/no-length?length=${length}`;
      const answer = await send(outgoing(url, upstream), idle());

      expect(answer.bodyTruncated).toBe(isTruncated as true);
      expect(answer.body).toBe(".".repeat(MAX_BODY_BYTES));
    });

    test.each([
      [MAX_BODY_BYTES / 2 - 1, undefined],
      // One byte too many: the last ä is cut in two, and left out.
      [MAX_BODY_BYTES / 2, true],
      [MAX_BODY_BYTES, true],
    ])("and cuts it between two characters (%s times ä)", async (length, isTruncated) => {
      await using upstream = await Upstream.start();
      const url = `${upstream.origin}/umlauts?length=${length}`;
      const answer = await send(outgoing(url, upstream), idle());

      expect(answer.bodyTruncated).toBe(isTruncated as true);
      expect(answer).not.toHaveProperty("bodyEncoding");
      expect(answer.body).toBe(`a${"ä".repeat(MAX_BODY_BYTES / 2 - 1)}`);
    });
  });

  test("reads no body where there is none, whatever its length is said to be", async () => {
    await using upstream = await Upstream.start();
    const url = `${upstream.origin}/status?status=200&header=content-length:%201000000000`;
    const answer = await send(outgoing(url, upstream, { method: "HEAD" }), idle());

    expect(answer).toMatchObject({ status: 200, body: "" });
    expect(answer).not.toHaveProperty("bodyTruncated");
  });

  test.each([
    ["one answer with a long body", "/umlauts?length=30000", 1],
    ["eight others", "/gate", 8],
  ])(
    "works on %s in a turn of the event loop, so that others come to theirs",
    async (_, path, most) => {
      await using upstream = await Upstream.start();
      let turn = 0;
      const count = () => {
        turn++;
        counting = setImmediate(count);
      };
      let counting = setImmediate(count);
      const own = createSend();
      const perTurn = new Map<number, number>();
      const all = Array.from({ length: 40 }, async () => {
        await own(outgoing(upstream.origin + path, upstream), idle());
        perTurn.set(turn, (perTurn.get(turn) ?? 0) + 1);
      });
      await poll(() => upstream.received.length === 40, { interval: 1, timeout: 10_000 });
      upstream.release();
      await Promise.all(all);
      clearImmediate(counting);

      expect(Math.max(...perTurn.values())).toBeLessThanOrEqual(most);
    },
  );

  describe("fails when the upstream", () => {
    test.each([
      ["/close", "network"],
      ["/reset", "network"],
      ["/reset-in-body", "network"],
      ["/short", "network"],
      ["/cut-chunks", "network"],
      ["/garbage", "protocol"],
      ["/bad-status", "protocol"],
      ["/two-lengths", "protocol"],
      ["/bad-chunks", "protocol"],
      ["/upgrade", "protocol"],
      ["/big-head", "protocol"],
    ])("answers as at %s: %s", async (path, expected) => {
      await using upstream = await Upstream.start();
      const request = outgoing(`${upstream.origin}${path}`, upstream, { method: "POST", body: "" });
      const error = await send(request, idle()).catch((error) => error);

      expect(error).toBeInstanceOf(UpstreamError);
      expect(error.type).toBe(expected);
      expect(error.message).not.toMatch(/verbose|fetch/);
      expect(upstream.received).toHaveLength(1);
    });

    test("is not there", async () => {
      const gone = await Upstream.start();
      const request = outgoing(`${gone.origin}/ok`, gone);
      await gone[Symbol.asyncDispose]();

      expect(await typeOf(() => send(request, idle()))).toBe("connect");
    });
  });

  test.each(["/hang", "/hang-in-body", "/trickle", "/continue", "/gate"])(
    "gives up %s when aborted, and closes the connection",
    async (path) => {
      await using upstream = await Upstream.start();
      const controller = new AbortController();
      const sending = send(outgoing(`${upstream.origin}${path}`, upstream), controller.signal);
      await poll(() => upstream.received.length === 1, { interval: 1, timeout: 10_000 });
      controller.abort("enough");

      expect(await sending.catch((reason) => reason)).toBe("enough");
      await poll(() => upstream.open === 0, { interval: 1, timeout: 10_000 });
    },
  );
});

describe("Project", () => {
  describe("limits", () => {
    test("how many requests run at once, in order of arrival", () =>
      virtualTime(async (clock) => {
        const order: string[] = [];
        const project = createProject({ concurrency: 2 }, async ({ url }) => {
          order.push(`${url.pathname} at ${clock.elapsed}`);
          await sleep(100);
          return good();
        });
        const all = ["/a", "/b", "/c", "/d", "/e"].map((path) => attempt(project, path));
        await sleep(50);
        expect(project.report()).toMatchObject({ running: 2 });
        await Promise.all(all);

        expect(order).toEqual(["/a at 0", "/b at 0", "/c at 100", "/d at 100", "/e at 200"]);
        expect(project.report()).toMatchObject({ running: 0 });
      }));

    test.each([
      [2, 4, [0, 500, 1000, 1500]],
      [0.5, 3, [0, 2000, 4000]],
      // Two may start at once: a tenth of a second's.
      [20, 5, [0, 0, 50, 100, 150]],
    ])("%s requests per second to start", (ratePerSecond, count, expected) =>
      virtualTime(async (clock) => {
        const starts: number[] = [];
        const project = createProject({ ratePerSecond }, async () => {
          starts.push(clock.elapsed);
          return good();
        });
        await Promise.all(Array.from({ length: count }, () => attempt(project)));

        expect(starts).toEqual(expected);
      }),
    );

    test("how long an attempt may take, which does not count the wait for its turn", () =>
      virtualTime(async (clock) => {
        const options = { concurrency: 1, ratePerSecond: 1, timeoutMs: 100 };
        const project = createProject(options, (_, signal) => hang(signal));
        const failures = ["/a", "/b"].map(async (path) => {
          const type = await typeOf(() => attempt(project, path));
          return [path, type, clock.elapsed];
        });

        expect(await Promise.all(failures)).toEqual([
          ["/a", "timeout", 100],
          ["/b", "timeout", 1100],
        ]);
      }));

    test("a resolver that hangs, too", () =>
      virtualTime(async (clock) => {
        const lookup = (_: string, { signal }: { signal?: AbortSignal } = {}) => hang(signal!);
        const project = createProject({ timeoutMs: 100 }, good, { lookup });

        expect(await typeOf(() => attempt(project))).toBe("timeout");
        expect(clock.elapsed).toBe(100);
      }));
  });

  describe("admit()", () => {
    const admitAll = (project: Project, ...counts: number[]) =>
      counts.map((count) => {
        try {
          return project.admit(count);
        } catch (error) {
          return error as Problem;
        }
      });

    test("takes as many as may run and wait, and refuses the next with 429", () => {
      const project = createProject({ concurrency: 2, maxQueued: 3 });
      const taken = admitAll(project, 1, 1, 2, 1, 1, 2);
      const refusals = taken.filter((one) => one instanceof Problem);

      expect(taken.map((one) => one instanceof Problem)).toEqual([
        false,
        false,
        false,
        false,
        true,
        true,
      ]);
      expect(project.report()).toMatchObject({ waiting: 5, running: 0, refused: 3 });
      expect(refusals[0]).toMatchObject({
        status: 429,
        message: "The project has 5 requests in work or in line.",
        headers: {
          "retry-after": "1",
          "ratelimit-policy": '"requests";q=5;qu="concurrent-requests"',
          ratelimit: '"requests";r=0;t=1',
        },
      });
    });

    test("takes all or none", () => {
      const project = createProject({ concurrency: 1, maxQueued: 4 });
      const [, refused, taken] = admitAll(project, 2, 4, 3);

      expect(refused).toBeInstanceOf(Problem);
      expect(taken).not.toBeInstanceOf(Problem);
      expect(project.report().waiting).toBe(5);
    });

    test("takes any number if there is nothing to do, or nobody could ever send it", () => {
      const project = createProject({ concurrency: 1, maxQueued: 0 });
      const [big, refused] = admitAll(project, 1000, 1) as [Disposable, Problem];
      expect(refused).toBeInstanceOf(Problem);
      big[Symbol.dispose]();

      expect(admitAll(project, 1)[0]).not.toBeInstanceOf(Problem);
    });

    test("frees places one by one, and the rest at the end, once", () => {
      const project = createProject({ concurrency: 1, maxQueued: 10 });
      const first = project.admit(3);
      const second = project.admit(2);
      first.leave();
      expect(project.report().waiting).toBe(4);
      first[Symbol.dispose]();
      first[Symbol.dispose]();
      first.leave();

      expect(project.report().waiting).toBe(2);
      second.leave();
      second.leave();
      second.leave();
      expect(project.report().waiting).toBe(0);
    });

    test("tells to come again when there should be room", () =>
      virtualTime(async () => {
        const options = { concurrency: 1, maxQueued: 9, timeoutMs: 5000 };
        const project = createProject(options, () => sleep(2000).then(good));
        // The average of what attempts take goes from 100 ms towards 2 s.
        for (let n = 0; n < 50; n++) await attempt(project);
        project.admit(10);
        const [refused] = admitAll(project, 5) as [Problem];

        expect(refused.headers["retry-after"]).toBe("10");
        expect(refused.headers["ratelimit"]).toBe('"requests";r=0;t=10');
      }));
  });

  describe("aborts", () => {
    test("a request that waits for its turn, one that waits for its rate, and one that runs", () =>
      virtualTime(async (clock) => {
        const controller = new AbortController();
        const options = { concurrency: 2, ratePerSecond: 1 };
        const project = createProject(options, (_, signal) => hang(signal));
        const all = ["/runs", "/rate", "/turn"].map((path) =>
          attempt(project, path, { signal: controller.signal }).catch((reason) => reason),
        );
        await sleep(10);
        controller.abort("enough");

        expect(await Promise.all(all)).toEqual(["enough", "enough", "enough"]);
        expect([clock.elapsed, clock.pending]).toEqual([10, 0]);
        expect(project.report()).toMatchObject({ running: 0 });
        // Every permit is back: two run at once, after the second that the rate takes.
        const after = [attempt(project), attempt(project)].map((one) => typeOf(() => one));
        expect(await Promise.all(after)).toEqual(["timeout", "timeout"]);
      }));
  });

  test("tells its own time limit from that of the caller", () =>
    virtualTime(async () => {
      const project = createProject({ timeoutMs: 100 }, (_, signal) => hang(signal));
      const signal = AbortSignal.timeout(50);

      expect(await attempt(project, "/", { signal }).catch((reason) => reason)).toBe(signal.reason);
      expect(await typeOf(() => attempt(project))).toBe("timeout");
    }));

  test("lets one that waits leave alone, at once, with nothing of it left in the line", () =>
    virtualTime(async (clock) => {
      const options = { concurrency: 2, ratePerSecond: 1 };
      const project = createProject(options, () => sleep(500).then(() => good()));
      const stay = [attempt(project, "/runs"), attempt(project, "/rate")];
      const controllers = [new AbortController(), new AbortController()];
      const leave = controllers.map(({ signal }) =>
        attempt(project, "/turn", { signal }).catch((reason) => reason),
      );
      const last = attempt(project, "/last");
      await sleep(10);
      for (const controller of controllers) controller.abort("enough");
      expect(await Promise.all(leave)).toEqual(["enough", "enough"]);
      expect(clock.elapsed).toBe(10);

      await Promise.all([...stay, last]);
      expect(clock.elapsed).toBe(2500);
    }));

  describe("leaves an upstream alone that is down", () => {
    const down = () => Promise.reject(new UpstreamError("connect", "refused"));

    test("after ten failures in a row, for five seconds, and then tries once", () =>
      virtualTime(async () => {
        let answer: () => Promise<Incoming> = down;
        let sent = 0;
        const project = createProject({}, () => (sent++, answer()));
        const origin = "http://up.test";
        const types = [];
        for (let n = 0; n < 12; n++) types.push(await typeOf(() => attempt(project)));
        expect(types).toEqual([...Array(10).fill("connect"), "circuit-open", "circuit-open"]);
        expect(sent).toBe(10);
        expect(project.report().breakers).toEqual({ [origin]: "open" });

        await sleep(5000);
        expect(project.report().breakers).toEqual({ [origin]: "half-open" });
        expect(await typeOf(() => attempt(project))).toBe("connect");
        expect(project.report().breakers).toEqual({ [origin]: "open" });

        await sleep(5000);
        answer = good;
        expect(await attempt(project)).toMatchObject({ status: 200 });
        expect(project.report().breakers).toEqual({ [origin]: "closed" });
      }));

    test.each<[what: string, isDown: boolean, answer: (signal: AbortSignal) => Promise<Incoming>]>([
      ["502", true, () => good(502)],
      ["503", true, () => good(503)],
      ["504", true, () => good(504)],
      ["a time-out", true, (signal) => hang(signal)],
      ["a broken connection", true, () => Promise.reject(new UpstreamError("network", "x"))],
      ["a bad certificate", true, () => Promise.reject(new UpstreamError("tls", "x"))],
      ["408", false, () => good(408)],
      ["429", false, () => good(429)],
      ["404", false, () => good(404)],
      ["500", false, () => good(500)],
      ["bad HTTP", false, () => Promise.reject(new UpstreamError("protocol", "x"))],
    ])("%s counts: %s", (what, isDown, answer) =>
      virtualTime(async () => {
        const options = { timeoutMs: 10, ratePerSecond: 100_000 };
        const project = createProject(options, (_, signal) => answer(signal));
        for (let n = 0; n < 10; n++) await attempt(project).catch(() => {});

        const state = project.report().breakers["http://up.test"];
        expect([what, state]).toEqual([what, isDown ? "open" : "closed"]);
      }),
    );

    test("does not count what was aborted, or refused before it was sent", () =>
      virtualTime(async () => {
        const project = createProject({ allowPrivate: false }, (_, signal) => hang(signal), {
          lookup: async (name) => [name === "up.test" ? "1.1.1.1" : "10.0.0.1"],
        });
        for (let n = 0; n < 10; n++) {
          const controller = new AbortController();
          setTimeout(() => controller.abort("any reason"), 1);
          await attempt(project, "/", { signal: controller.signal }).catch(() => {});
          await attempt(project, "/", { origin: "http://private.test" }).catch(() => {});
        }

        expect(project.report().breakers).toEqual({
          "http://up.test": "closed",
          "http://private.test": "closed",
        });
      }));

    test("and not its other upstreams, or those of others", () =>
      virtualTime(async () => {
        const project = createProject({}, ({ url }) =>
          url.hostname === "up.test" ? down() : good(),
        );
        const other = createProject({}, () => good());
        for (let n = 0; n < 10; n++) await attempt(project).catch(() => {});

        expect(await typeOf(() => attempt(project))).toBe("circuit-open");
        expect(await attempt(project, "/", { origin: "http://b.test" })).toMatchObject({
          status: 200,
        });
        expect(await attempt(other)).toMatchObject({ status: 200 });
      }));

    test("without making requests that would be refused wait for their rate", () =>
      virtualTime(async (clock) => {
        const project = createProject({ ratePerSecond: 1000 }, down);
        for (let n = 0; n < 10; n++) await attempt(project).catch(() => {});
        const before = clock.elapsed;
        const all = Array.from({ length: 1000 }, () => typeOf(() => attempt(project)));

        expect(new Set(await Promise.all(all))).toEqual(new Set(["circuit-open"]));
        expect(clock.elapsed).toBe(before);
      }));
  });

  test("resolves the name for each attempt, and refuses one that has become private", () =>
    virtualTime(async () => {
      const answers = [["1.1.1.1"], ["127.0.0.1"], ["1.1.1.1", "10.0.0.1"]];
      const sentTo: unknown[] = [];
      const project = createProject(
        { allowPrivate: false },
        ({ addresses }) => (sentTo.push(addresses), good()),
        { lookup: async () => answers.shift()! },
      );
      const types = [];
      for (let n = 0; n < 3; n++) types.push(await typeOf(() => attempt(project)));

      expect(types).toEqual([undefined, "forbidden-address", "forbidden-address"]);
      expect(sentTo).toEqual([["1.1.1.1"]]);
    }));

  test("knows its keys, by their hashes", () => {
    const hash = new Bun.CryptoHasher("sha256").update("secret").digest("hex");
    const project = createProject({ keys: [`sha256:${hash}`] });

    expect(project.isOwnKey("secret")).toBe(true);
    expect(project.isOwnKey("Secret")).toBe(false);
    expect(project.isOwnKey(`sha256:${hash}`)).toBe(false);
  });
});

// ─── Helpers ─────────────────────────────────────────────────────────────────────────────────────

const environment = new Map<string, string | undefined>();

function withEnvironment(values: Record<string, string>): Disposable {
  for (const [name, value] of Object.entries(values)) {
    environment.set(name, process.env[name]);
    process.env[name] = value;
  }
  return { [Symbol.dispose]: restoreEnvironment };
}

function restoreEnvironment(): void {
  for (const [name, value] of environment) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
  environment.clear();
}

afterEach(restoreEnvironment);

/** The type of the UpstreamError that it throws; undefined if it doesn't throw. */
function typeOf(fn: () => Promise<unknown>): Promise<string | undefined>;
function typeOf(fn: () => unknown): string | undefined;
function typeOf(fn: () => unknown): unknown {
  const toType = (error: unknown) => {
    if (error instanceof UpstreamError) return error.type;
    throw error;
  };
  try {
    const result = fn();
    return result instanceof Promise ? result.then(() => undefined, toType) : undefined;
  } catch (error) {
    return toType(error);
  }
}

function idle(): AbortSignal {
  return new AbortController().signal;
}

function outgoing(url: string, _: Upstream, request: Partial<Outgoing> = {}): Outgoing {
  const addresses = ["127.0.0.1"];
  const defaults = { method: "GET", headers: new Headers(), body: undefined };
  return { url: new URL(url), addresses, ...defaults, ...request };
}

async function good(status: unknown = 200): Promise<Incoming> {
  return { status: typeof status === "number" ? status : 200, headers: {}, body: "" };
}

/** Waits until it is aborted. */
function hang(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

type Sending = (request: Outgoing, signal: AbortSignal) => Promise<Incoming>;

function createProject(
  config: Partial<ProjectConfig> = {},
  send: Sending = () => good(),
  options: Omit<ProjectOptions, "send"> = {},
): Project {
  return new Project(
    {
      slug: "test",
      keys: [],
      origins: ["http://up.test"],
      concurrency: 10,
      ratePerSecond: 100_000,
      maxQueued: 1000,
      timeoutMs: 1000,
      retries: 0,
      allowPrivate: true,
      ...config,
    },
    { send, lookup: async () => ["1.1.1.1"], ...options },
  );
}

function attempt(
  project: Project,
  path = "/",
  { origin = "http://up.test", signal = idle() } = {},
): Promise<Incoming> {
  const request = {
    url: new URL(path, origin),
    method: "GET",
    headers: new Headers(),
    body: undefined,
  };
  return project.attempt(request, project.config.timeoutMs, signal, () => {});
}
