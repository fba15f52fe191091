/**
 * An upstream that behaves as badly as upstreams do, for tests. What it does is chosen by the path;
 * it speaks HTTP by hand, because no HTTP library would say such things.
 */
import { createServer, type Server, type Socket } from "node:net";
import { createServer as createTlsServer, type TlsOptions } from "node:tls";

/** A request as it has come in. */
export interface Received {
  method: string;
  /** With the query. */
  path: string;
  /** As they stood there, names and values by turns, names in lower case. */
  headers: [name: string, value: string][];
  body: string;
  /** The number of its connection, from 1. */
  connection: number;
}

type Behaviour = (socket: Socket, request: Received, upstream: Upstream) => void;

const OK = "HTTP/1.1 200 OK\r\n";

/** What happens at each path. */
const behaviours: Record<string, Behaviour> = {
  "/ok": (socket) => answer(socket, 200, "ok"),
  /** Answers what it has received, as JSON. */
  "/echo": (socket, request) => answer(socket, 200, JSON.stringify(request)),
  /** Answers `?status=`, with the headers of `?header=`. */
  "/status": (socket, { path, method }) => {
    const query = queryOf(path);
    const body = method === "HEAD" ? "" : "status";
    answer(socket, Number(query.get("status")), body, query.getAll("header"));
  },
  /** Fails `?times=` times with `?status=`, then answers 200. Counts by `?key=`. */
  "/flaky": (socket, request, { received }) => {
    const query = queryOf(request.path);
    const count = received.filter(({ path }) => path === request.path).length;
    const isGood = count > Number(query.get("times"));
    answer(socket, isGood ? 200 : Number(query.get("status")), "flaky", query.getAll("header"));
  },
  /** Leads to `?to=`. */
  "/redirect": (socket, { path }) =>
    answer(socket, 302, "elsewhere", [`location: ${queryOf(path).get("to")}`]),
  "/hang": () => {},
  "/hang-in-body": (socket) => socket.write(`${OK}content-length: 10\r\n\r\nhello`),
  /** Waits until {@link Upstream.release}. */
  "/gate": (socket, _, { gate }) => void gate.promise.then(() => answer(socket, 200, "open")),
  "/close": (socket) => socket.end(),
  "/reset": (socket) => socket.resetAndDestroy(),
  "/reset-in-body": (socket) => {
    socket.write(`${OK}content-length: 10\r\n\r\nhello`);
    setTimeout(() => socket.resetAndDestroy(), 5);
  },
  "/garbage": (socket) => socket.end("220 smtp.example.com ESMTP\r\n\r\n"),
  "/bad-status": (socket) => socket.end("HTTP/1.1 99 Low\r\ncontent-length: 0\r\n\r\n"),
  "/short": (socket) => socket.end(`${OK}content-length: 10\r\n\r\nhello`),
  "/long": (socket) => socket.end(`${OK}content-length: 3\r\n\r\nhello`),
  "/two-lengths": (socket) =>
    socket.end(`${OK}content-length: 5\r\ncontent-length: 6\r\n\r\nhello!`),
  "/cut-chunks": (socket) => socket.end(`${OK}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n`),
  "/bad-chunks": (socket) => socket.end(`${OK}transfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n`),
  /** `?length=` bytes, to the end of the connection. */
  "/no-length": (socket, { path }) =>
    socket.end(`${OK}connection: close\r\n\r\n${".".repeat(Number(queryOf(path).get("length")))}`),
  "/upgrade": (socket) =>
    socket.end("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
  "/big-head": (socket) => answer(socket, 200, "ok", [`x-big: ${"a".repeat(100_000)}`]),
  "/cookies": (socket) => answer(socket, 200, "ok", ["set-cookie: a=1", "set-cookie: b=2, c"]),
  "/binary": (socket) => answer(socket, 200, Buffer.from([0xff, 0xfe, 0, 1])),
  "/bom": (socket) => answer(socket, 200, Buffer.from([0xef, 0xbb, 0xbf, 0x61])),
  /** `?length=` times ä, which takes two bytes, after one a. */
  "/umlauts": (socket, { path }) =>
    answer(socket, 200, `a${"ä".repeat(Number(queryOf(path).get("length")))}`),
  "/gzip": (socket) => answer(socket, 200, Bun.gzipSync("hello"), ["content-encoding: gzip"]),
  /** A byte every few milliseconds, without an end. */
  "/trickle": (socket) => {
    socket.write(`${OK}content-length: 1000000\r\n\r\n`);
    forever(socket, () => socket.write("."));
  },
  /** Informational answers without an end. */
  "/continue": (socket) => forever(socket, () => socket.write("HTTP/1.1 100 Continue\r\n\r\n")),
  "/gigabyte": (socket, _, upstream) => {
    socket.write(`${OK}content-length: 1000000000\r\n\r\n`);
    const block = Buffer.alloc(65_536, "a");
    const write = () => {
      while (socket.writable && upstream.bytesSent < 1e9) {
        upstream.bytesSent += block.length;
        if (!socket.write(block)) return;
      }
    };
    socket.on("drain", write);
    write();
  },
};

/** A server that is closed, with all of its connections, when it is disposed. */
export class Upstream implements AsyncDisposable {
  readonly received: Received[] = [];
  /** How many connections are open. */
  open = 0;
  /** How much of a gigabyte it has got rid of. */
  bytesSent = 0;
  gate: PromiseWithResolvers<void> = Promise.withResolvers<void>();
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #scheme: string;
  #connections = 0;

  private constructor(tls: TlsOptions | undefined) {
    this.#scheme = tls ? "https" : "http";
    const onConnection = (socket: Socket) => this.#serve(socket);
    this.#server = tls ? createTlsServer(tls, onConnection) : createServer(onConnection);
  }

  /** Listens on an address of loopback. */
  static async start({ host = "127.0.0.1", tls }: { host?: string; tls?: TlsOptions } = {}) {
    const upstream = new Upstream(tls);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    upstream.#server.once("error", reject).listen(0, host, resolve);
    await promise;
    return upstream;
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port;
  }

  /** Its origin under a name. */
  originOf(name: string): string {
    return `${this.#scheme}://${name}:${this.port}`;
  }

  get origin(): string {
    return this.originOf("127.0.0.1");
  }

  /** Answers those that wait at `/gate`, and those to come. */
  release(): void {
    this.gate.resolve();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #serve(socket: Socket): void {
    const connection = ++this.#connections;
    this.open++;
    this.#sockets.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => {
      this.open--;
      this.#sockets.delete(socket);
    });
    let bytes = Buffer.alloc(0);
    socket.on("data", (chunk: Buffer) => {
      bytes = Buffer.concat([bytes, chunk]);
      const request = parse(bytes.toString("latin1"), connection);
      if (!request) return;
      bytes = Buffer.alloc(0);
      this.received.push(request);
      const [path = ""] = request.path.split("?");
      const behave = behaviours[path];
      if (behave) behave(socket, request, this);
      else answer(socket, 404, "not found");
    });
  }
}

/** The request, if it is there as a whole. */
function parse(text: string, connection: number): Received | undefined {
  const [head = "", ...rest] = text.split("\r\n\r\n");
  if (rest.length === 0) return undefined;
  const body = rest.join("\r\n\r\n");
  const [requestLine = "", ...lines] = head.split("\r\n");
  const headers = lines.map((line): [string, string] => {
    const colon = line.indexOf(":");
    return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
  });
  const length = headers.find(([name]) => name === "content-length")?.[1] ?? "0";
  if (body.length < Number(length)) return undefined;
  const [method = "", path = ""] = requestLine.split(" ");
  return { method, path, headers, body, connection };
}

function answer(socket: Socket, status: number, body: string | Uint8Array, headers: string[] = []) {
  const bytes = Buffer.from(body as string);
  const hasLength = headers.some((header) => header.startsWith("content-length:"));
  const length = hasLength ? [] : [`content-length: ${bytes.length}`];
  const lines = [`HTTP/1.1 ${status} X`, ...length, ...headers];
  socket.write(Buffer.concat([Buffer.from(`${lines.join("\r\n")}\r\n\r\n`), bytes]));
}

function queryOf(path: string): URLSearchParams {
  return new URL(path, "http://upstream").searchParams;
}

function forever(socket: Socket, act: () => void): void {
  const timer = setInterval(act, 5);
  socket.on("close", () => clearInterval(timer));
}

/** Certificates of `a.test` and `b.test`, made for these tests, which sign themselves. */
export const CERTIFICATES: Record<"a.test" | "b.test", { cert: string; key: string }> = {
  "a.test": {
    cert: pem("CERTIFICATE", [
      "MIIBODCB36ADAgECAgEBMAoGCCqGSM49BAMCMBExDzANBgNVBAMMBmEudGVzdDAgFw0yMDAxMDEwMDAw",
      "MDBaGA8yMTIwMDEwMTAwMDAwMFowETEPMA0GA1UEAwwGYS50ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0D",
      "AQcDQgAEndF50oSn6/pjYcP5CCwh5SX8CQzF+Mj3SKKdsNOrNc6ikdNBvwDXjoEPWs4mGZ6wlHE+mz3B",
      "lVovLnHypFgB8aMmMCQwEQYDVR0RBAowCIIGYS50ZXN0MA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0E",
      "AwIDSAAwRQIgZbXGB5ZatKaBngTu1hDL6HLw5SWLF3qbGbwIoxLgQVgCIQDCMmIjRTUlfMxd/Hy+PF/Q",
      "LVrdS6apda38QlUw9zxGlA==",
    ]),
    key: pem("PRIVATE KEY", [
      "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgdNihai2GtRFqx3BZQXqQ8iLfh1JHKQ/5",
      "WuPuyuO4kYqhRANCAASd0XnShKfr+mNhw/kILCHlJfwJDMX4yPdIop2w06s1zqKR00G/ANeOgQ9aziYZ",
      "nrCUcT6bPcGVWi8ucfKkWAHx",
    ]),
  },
  "b.test": {
    cert: pem("CERTIFICATE", [
      "MIIBODCB36ADAgECAgECMAoGCCqGSM49BAMCMBExDzANBgNVBAMMBmIudGVzdDAgFw0yMDAxMDEwMDAw",
      "MDBaGA8yMTIwMDEwMTAwMDAwMFowETEPMA0GA1UEAwwGYi50ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0D",
      "AQcDQgAE+O48c9LVvVC0utTGJJidI0HidatOL5Il78+cp2GuExzwkcAL2FE22gz6PBrWtJLNhPaBFZTx",
      "a73h8KbllyMHMaMmMCQwEQYDVR0RBAowCIIGYi50ZXN0MA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0E",
      "AwIDSAAwRQIgWLHqp+LCHHE0Bc1s9w8V79AeqU/s7r4Iz0g+MXZUmb0CIQDTocpxpWiFr9A6763Ay4Jc",
      "Nu15LmnCOtHzRO8Lzu17FQ==",
    ]),
    key: pem("PRIVATE KEY", [
      "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgPipUHOa6mnPlJp53hw5dknMXuTF1rktg",
      "cgBUulHFgE2hRANCAAT47jxz0tW9ULS61MYkmJ0jQeJ1q04vkiXvz5ynYa4THPCRwAvYUTbaDPo8Gta0",
      "ks2E9oEVlPFrveHwpuWXIwcx",
    ]),
  },
};

function pem(label: string, lines: string[]): string {
  return [`-----BEGIN ${label}-----`, ...lines, `-----END ${label}-----`, ""].join("\n");
}
