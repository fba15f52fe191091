/**
 * One request to an upstream: whether its URL is allowed, which addresses its name has, what is
 * sent, and what is read of the answer.
 *
 * The name is resolved here, every address is checked, and the connection goes to a checked
 * address: a name that resolves differently a moment later (DNS rebinding) changes nothing. TLS
 * verifies the name all the same.
 */
import { lookup } from "node:dns/promises";
import { isIP } from "node:net";

import { yieldNow } from "../concepts/async-basics.ts";
import { singleFlight } from "../concepts/concurrency.ts";
import { Semaphore } from "../concepts/semaphores.ts";

/**
 * Why there is no answer:
 * - `invalid-url`: the URL is not one that can be requested;
 * - `forbidden-origin`: it does not begin with one of the project's origins;
 * - `forbidden-address`: one of its name's addresses is private, and the project may not go there;
 * - `dns`: its name can't be resolved;
 * - `connect`: no connection could be made, and nothing was sent;
 * - `tls`: the connection is not secure, because the certificate is not valid, for example;
 * - `network`: the connection broke before the whole answer had come;
 * - `protocol`: the answer is not valid HTTP, or its head is too long;
 * - `timeout`: the attempt took longer than it may;
 * - `circuit-open`: the origin has failed too often, and is left alone for a while.
 */
export const FAILURE_TYPES = [
  "invalid-url",
  "forbidden-origin",
  "forbidden-address",
  "dns",
  "connect",
  "tls",
  "network",
  "protocol",
  "timeout",
  "circuit-open",
] as const;

export type FailureType = (typeof FAILURE_TYPES)[number];

/** A request that has got no answer. */
export class UpstreamError extends Error {
  override readonly name = "UpstreamError";
  readonly type: FailureType;

  constructor(type: FailureType, message: string, cause?: unknown) {
    super(message, { cause });
    this.type = type;
  }
}

/** A request as it is sent. */
export interface Outgoing {
  /** A URL that {@link checkUrl} has returned. */
  url: URL;
  /** What {@link resolve} has returned for its host. */
  addresses: readonly string[];
  method: string;
  headers: Headers;
  body: string | undefined;
}

/** What was read of an answer. */
export interface Incoming {
  status: number;
  headers: Record<string, string | string[]>;
  body: string;
  /** The body is not valid UTF-8, and so is told in Base64. */
  bodyEncoding?: "base64";
  /** There was more than could be read. */
  bodyTruncated?: true;
}

/** The addresses of a host name. */
export type Lookup = (name: string, options?: { signal?: AbortSignal }) => Promise<string[]>;

/** Sends a request once. Rejects with an {@link UpstreamError}, or the signal's reason. */
export type Send = (request: Outgoing, signal: AbortSignal) => Promise<Incoming>;

// ─── The URL ─────────────────────────────────────────────────────────────────────────────────────

/**
 * Parses a URL whose text begins with one of the origins, to the letter. What would merely be
 * understood as one of them is refused, because another reader may understand it otherwise: user
 * names, other spellings of an address, upper case, a trailing dot, a default port.
 *
 * @throws {UpstreamError} `invalid-url` or `forbidden-origin`
 */
export function checkUrl(text: string, origins: readonly string[]): URL {
  const url = URL.parse(text);
  if (!url || /[\s\\\p{Cc}]/u.test(text)) {
    throw new UpstreamError("invalid-url", "The URL is not valid");
  }
  const isListed = origins.some(
    (origin) =>
      url.origin === origin &&
      text.startsWith(origin) &&
      ["/", "?", "#", ""].includes(text.charAt(origin.length)),
  );
  if (isListed && /^https?:$/.test(url.protocol)) return url;
  const message = "The URL does not begin with one of the project's origins, letter by letter";
  throw new UpstreamError("forbidden-origin", message);
}

// ─── The addresses ───────────────────────────────────────────────────────────────────────────────

/** Asks the system. Those who ask for one name at the same time share the answer. */
export const lookupName: Lookup = singleFlight(async (name: string) => {
  const found = await lookup(name, { all: true });
  return found.map(({ address }) => address);
});

/**
 * The addresses of a URL's host, all of them public unless private ones are allowed.
 *
 * @throws {UpstreamError} `dns` or `forbidden-address`
 * @throws the signal's reason, once it is aborted
 */
export async function resolve(
  url: URL,
  allowPrivate: boolean,
  find: Lookup,
  signal: AbortSignal,
): Promise<string[]> {
  const host = hostOf(url);
  const addresses = isIP(host) ? [host] : await addressesOf(host, find, signal);
  if (allowPrivate || addresses.every(isPublicAddress)) return addresses;
  const message = "The URL leads to an address that is not public";
  throw new UpstreamError("forbidden-address", message);
}

/** The name or the address, without the brackets of IPv6. */
function hostOf({ hostname }: URL): string {
  return hostname.replace(/^\[|\]$/g, "");
}

async function addressesOf(host: string, find: Lookup, signal: AbortSignal): Promise<string[]> {
  let addresses: string[] = [];
  let cause: unknown;
  try {
    addresses = await find(host, { signal });
  } catch (error) {
    cause = error;
  }
  signal.throwIfAborted();
  if (addresses.length > 0 && addresses.every((address) => isIP(address))) return addresses;
  throw new UpstreamError("dns", "The name of the host can't be resolved", cause);
}

/** What IANA's registry of special addresses does not call globally reachable. */
const PRIVATE_V4 = [
  "0.0.0.0/8", // this network
  "10.0.0.0/8",
  "100.64.0.0/10", // behind a carrier's NAT
  "127.0.0.0/8", // loopback
  "169.254.0.0/16", // link-local: the metadata of clouds, for example
  "172.16.0.0/12",
  "192.0.0.0/24", // protocol assignments
  "192.0.2.0/24", // documentation
  "192.88.99.0/24", // 6to4 relays
  "192.168.0.0/16",
  "198.18.0.0/15", // benchmarks
  "198.51.100.0/24", // documentation
  "203.0.113.0/24", // documentation
  "224.0.0.0/4", // multicast
  "240.0.0.0/4", // reserved, and broadcast
].map(toNetwork);

/** Of 2000::/3. All that is outside of it is private. */
const PRIVATE_V6 = [
  "2001::/23", // protocol assignments, Teredo among them
  "2001:db8::/32", // documentation
  "3fff::/20", // documentation
].map(toNetwork);

const GLOBAL_V6 = toNetwork("2000::/3");
const MAPPED_V4 = toNetwork("::ffff:0:0/96");
const NAT64 = toNetwork("64:ff9b::/96");
const SIX_TO_FOUR = toNetwork("2002::/16");

/**
 * Whether an address can be reached from everywhere, and so is nobody's own network. Of addresses
 * in which an IPv4 address is embedded (mapped, NAT64, 6to4, ISATAP) that one decides.
 */
export function isPublicAddress(address: string): boolean {
  const groups = groupsOf(address);
  if (!groups) return false;
  const [, g1 = 0, g2 = 0, , g4 = 0, g5 = 0, g6 = 0, g7 = 0] = groups;
  if (isIn(groups, MAPPED_V4) || isIn(groups, NAT64)) return isPublicV4(g6, g7);
  if (!isIn(groups, GLOBAL_V6) || PRIVATE_V6.some((network) => isIn(groups, network))) return false;
  if (isIn(groups, SIX_TO_FOUR) && !isPublicV4(g1, g2)) return false;
  const isIsatap = (g4 & ~0x200) === 0 && g5 === 0x5efe;
  return !isIsatap || isPublicV4(g6, g7);
}

function isPublicV4(high: number, low: number): boolean {
  const groups = [0, 0, 0, 0, 0, 0xffff, high, low];
  return !PRIVATE_V4.some((network) => isIn(groups, network));
}

interface Network {
  groups: number[];
  bits: number;
}

function toNetwork(text: string): Network {
  const [address = "", bits] = text.split("/");
  const groups = groupsOf(address);
  if (!groups) throw new Error(`Cannot read the network ${text}`);
  return { groups, bits: Number(bits) + (address.includes(":") ? 0 : 96) };
}

function isIn(groups: readonly number[], network: Network): boolean {
  return network.groups.every((group, n) => {
    const bits = Math.min(Math.max(network.bits - 16 * n, 0), 16);
    return (group ^ (groups[n] ?? 0)) >>> (16 - bits) === 0;
  });
}

/** The eight groups of an IPv6 address, or of that which an IPv4 address is mapped to. */
function groupsOf(address: string): number[] | undefined {
  const version = isIP(address);
  // Only addresses of one link have a zone (fe80::1%eth0).
  if (version === 0 || address.includes("%")) return undefined;
  const hex = address.replace(/(\d+)\.(\d+)\.(\d+)\.(\d+)$/, (_, a, b, c, d) =>
    [(+a << 8) | +b, (+c << 8) | +d].map((group) => group.toString(16)).join(":"),
  );
  const [head = "", tail] = (version === 4 ? `::ffff:${hex}` : hex).split("::");
  const parse = (part: string) =>
    part
      .split(":")
      .filter(Boolean)
      .map((group) => parseInt(group, 16));
  const first = parse(head);
  const last = parse(tail ?? "");
  return [...first, ...Array<number>(8 - first.length - last.length).fill(0), ...last];
}

// ─── The request ─────────────────────────────────────────────────────────────────────────────────

/** What belongs to one connection, and not to the request (RFC 9110, 7.6.1), or to us. */
const NOT_FORWARDED = new Set([
  "connection",
  "content-length",
  "expect",
  "host",
  "http2-settings",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
  "x-api-key",
]);

/**
 * The headers that are sent on: not those of the connection, nor keys of this server.
 *
 * @param isOwnKey whether a text is a key of this server, which is not sent on as `Authorization`
 */
export function forwardedHeaders(
  given: Record<string, string>,
  isOwnKey: (text: string) => boolean,
): Headers {
  const headers = new Headers({ "accept-encoding": "identity", "user-agent": "async-concepts" });
  const named = Object.entries(given).flatMap(([name, value]) =>
    name.toLowerCase() === "connection" ? value.toLowerCase().split(/[\s,]+/) : [],
  );
  for (const [name, value] of Object.entries(given)) {
    const lower = name.toLowerCase();
    if (NOT_FORWARDED.has(lower) || named.includes(lower)) continue;
    if (lower === "authorization" && isOwnKey(value.replace(/^\S+\s+/, "").trim())) continue;
    headers.set(name, value);
  }
  return headers;
}

/** How much of a body is read. */
export const MAX_BODY_BYTES = 65_536;

/**
 * How many answers are worked on in a turn of the event loop, and how long a body must be to take a
 * turn for itself: many at once would hold up the requests of others.
 */
const ANSWERS_PER_TURN = 8;
const LONG_BODY_BYTES = 16_384;

/** How long the names and values of an answer's headers may be, in all. */
const MAX_HEAD_LENGTH = 16_384;

/** Nothing has been sent then, so that another address may be tried. */
const NO_CONNECTION = new Set(["ECONNREFUSED", "ENETUNREACH", "EHOSTUNREACH", "EADDRNOTAVAIL"]);

/**
 * Sends requests, each of them once: redirects are not followed, and bodies not decompressed. Only
 * where a connection that was kept breaks at once, Bun sends an idempotent request again, as RFC
 * 9110 allows (9.2.2); never a POST or PATCH.
 *
 * @param options certificates that are trusted instead of the system's
 */
export function createSend(options: { ca?: string[] } = {}): Send {
  const turn = new Semaphore(ANSWERS_PER_TURN);
  return async (request, signal) => {
    const response = await connect(request, signal, options.ca);
    const headers = Object.fromEntries(response.headers) as Incoming["headers"];
    const cookies = response.headers.getSetCookie();
    if (cookies.length > 0) headers["set-cookie"] = cookies;
    try {
      const length = Object.entries(headers).reduce((sum, parts) => sum + parts.join().length, 0);
      if (length > MAX_HEAD_LENGTH) {
        await response.body?.cancel();
        throw new UpstreamError("protocol", `The headers have more than ${MAX_HEAD_LENGTH} bytes`);
      }
      const { bytes, isTruncated } = await readBytes(response);
      const weight = bytes.length > LONG_BODY_BYTES ? ANSWERS_PER_TURN : 1;
      using _place = await turn.acquire({ weight, signal });
      await yieldNow({ signal });
      return { status: response.status, headers, ...decode(bytes, isTruncated) };
    } catch (error) {
      signal.throwIfAborted();
      throw toUpstreamError(error);
    }
  };
}

async function connect(request: Outgoing, signal: AbortSignal, ca?: string[]): Promise<Response> {
  const { url, addresses, method, headers, body } = request;
  headers.set("host", url.host);
  const isNamed = isIP(hostOf(url)) === 0;
  const init: BunFetchRequestInit = {
    method,
    headers,
    signal,
    ...(body !== undefined && { body }),
    redirect: "manual",
    decompress: false,
    // An environment's proxy would resolve nothing, but see and choose everything.
    proxy: false as unknown as string,
    ...(url.protocol === "https:" && {
      tls: {
        rejectUnauthorized: true,
        // What the certificate must be for. Connections are pooled by this name, too.
        ...(isNamed && { serverName: url.hostname }),
        ...(ca && { ca }),
      },
    }),
  };
  let failure: unknown;
  for (const address of addresses) {
    const host = address.includes(":") ? `[${address}]` : address;
    const port = url.port && `:${url.port}`;
    try {
      return await fetch(`${url.protocol}//${host}${port}${url.pathname}${url.search}`, init);
    } catch (error) {
      signal.throwIfAborted();
      failure = error;
      if (!NO_CONNECTION.has((error as { code?: string }).code ?? "")) break;
    }
  }
  throw toUpstreamError(failure);
}

type Body = Pick<Incoming, "body" | "bodyEncoding" | "bodyTruncated">;

function decode(bytes: Uint8Array, isTruncated: boolean): Body {
  const mark = isTruncated ? { bodyTruncated: true as const } : {};
  try {
    const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    // As a stream, so that a character may be cut where the body is.
    return { body: decoder.decode(bytes, { stream: isTruncated }), ...mark };
  } catch {
    return { body: bytes.toBase64(), bodyEncoding: "base64" as const, ...mark };
  }
}

async function readBytes(response: Response): Promise<{ bytes: Uint8Array; isTruncated: boolean }> {
  const announced = response.headers.get("content-length");
  // There comes no more than was announced. Without a stream it is twice as fast.
  if (announced !== null && Number(announced) <= MAX_BODY_BYTES) {
    return { bytes: await response.bytes(), isTruncated: false };
  }
  const chunks: Uint8Array[] = [];
  let length = 0;
  // Leaving the loop closes the connection.
  for await (const chunk of response.body ?? []) {
    chunks.push(chunk);
    length += chunk.length;
    if (length > MAX_BODY_BYTES) break;
  }
  const bytes = Buffer.concat(chunks).subarray(0, MAX_BODY_BYTES);
  return { bytes, isTruncated: length > MAX_BODY_BYTES };
}

function toUpstreamError(error: unknown): UpstreamError {
  if (error instanceof UpstreamError) return error;
  const code = String((error as { code?: unknown }).code ?? "");
  if (NO_CONNECTION.has(code)) {
    return new UpstreamError("connect", `No connection could be made (${code})`, error);
  }
  if (/TLS|CERT|SSL|SELF_SIGNED/.test(code)) {
    return new UpstreamError("tls", `No secure connection could be made (${code})`, error);
  }
  if (/^E[A-Z]+$/.test(code) || code === "ConnectionClosed") {
    const message = `The connection broke before the whole answer had come (${code})`;
    return new UpstreamError("network", message, error);
  }
  return new UpstreamError("protocol", `The answer is not valid HTTP (${code})`, error);
}

/**
 * Milliseconds that an answer asks to wait before the next request; undefined if it doesn't, or not
 * in a form that can be understood.
 */
export function retryAfterMs(headers: Incoming["headers"]): number | undefined {
  const value = headers["retry-after"];
  if (typeof value !== "string") return undefined;
  if (/^\d+$/.test(value)) return Number(value) * 1000;
  // An HTTP-date. `Date.parse` alone would also take "1.5" for one.
  const isDate = /^[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT$/.test(value);
  const time = isDate ? Date.parse(value) : NaN;
  return Number.isNaN(time) ? undefined : Math.max(time - Date.now(), 0);
}
