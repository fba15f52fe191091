/**
 * Who may do what. A key comes as `X-API-Key` or `Authorization: Bearer`. The administrator's opens
 * everything, a project's opens that project. Routes say whom they let in:
 *
 * ```ts
 * app.use(auth(config)).get("/projects/:project", handler, { project: true });
 * ```
 *
 * Behind `project: true` the project exists, because an administrator is told 404 and everyone else
 * gets one answer, 403, for another's project and for none.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { isIPv4 } from "node:net";

import { Elysia } from "elysia";

import { RateLimiter } from "../concepts/semaphores.ts";
import { type Config, hashKey } from "./config.ts";
import type { Exchange } from "./limits.ts";
import { SECURITY } from "./openapi.ts";
import { Problem } from "./problems.ts";

const CHALLENGE =
  'Bearer realm="async-concepts", ApiKey realm="async-concepts", header="X-API-Key"';

/** How often an address may send a wrong key before it is slowed down, and in how many ms. */
const WRONG_KEYS = { limit: 20, interval: 60_000 };

/** How many addresses are remembered; the one whose last wrong key is longest ago goes first. */
const MAX_ADDRESSES = 10_000;

/** The administrator. Slugs have no colon, so it can't be a project. */
export const ADMIN = ":administrator";

/** Whose key a request has: a project's slug, or {@link ADMIN}. */
export type Caller = string;

/** The macros `admin`, `project` and `key`, for apps and plugins that `use` them. */
export function auth(config: Config) {
  const guard = new Guard(config);
  const slugs = new Set(config.projects.map(({ slug }) => slug));
  const identify = (exchange: Exchange, server: Server | null): Caller => {
    const { request } = exchange;
    const address = server?.requestIP(request)?.address ?? "";
    const caller = guard.identify(request.headers, address);
    exchange.caller = caller;
    return caller;
  };
  const detail = { security: SECURITY };

  // In `transform`, which comes before validation: a caller without the right learns nothing about it.
  return new Elysia({ name: "auth" }).decorate("exchange", undefined as unknown as Exchange).macro({
    /** Lets in every key that is valid. */
    key: {
      detail,
      transform({ exchange, server }: Lent) {
        const caller = identify(exchange, server);
        if (caller !== ADMIN) exchange.project = caller;
      },
    },
    /** Lets the administrator in. */
    admin: {
      detail,
      transform({ exchange, server }: Lent) {
        if (identify(exchange, server) === ADMIN) return;
        throw new Problem(403, "Only the administrator may do this.");
      },
    },
    /** Lets the administrator in, and the project that the parameter `project` names. */
    project: {
      detail,
      transform({ exchange, server, params }: Lent) {
        const { project = "" } = params;
        const caller = identify(exchange, server);
        if (caller !== ADMIN && caller !== project) {
          throw new Problem(403, "This key does not open that project.");
        }
        if (!slugs.has(project)) throw new Problem(404, "There is no such project.");
        exchange.project = project;
      },
    },
  });
}

type Server = { requestIP(request: Request): { address: string } | null };

interface Lent {
  exchange: Exchange;
  server: Server | null;
  params: Record<string, string | undefined>;
}

/** Knows the keys by their hashes, and slows down those who guess. */
export class Guard {
  readonly #keys: { hash: Buffer; caller: Caller }[];
  readonly #wrong = new Map<string, RateLimiter>();

  constructor({ API_KEY, projects }: Pick<Config, "API_KEY" | "projects">) {
    if (!API_KEY) throw new Error("API_KEY must not be empty");
    const entry = (key: string, caller: Caller) => ({
      hash: Buffer.from(key.slice("sha256:".length), "hex"),
      caller,
    });
    this.#keys = [
      entry(hashKey(API_KEY), ADMIN),
      ...projects.flatMap(({ slug, keys }) => keys.map((key) => entry(key, slug))),
    ];
  }

  /**
   * Whose key this is.
   *
   * @throws {Problem} 401 without a valid key; 429 when too many wrong ones came from the address
   */
  identify(headers: Headers, address: string): Caller {
    const key = keyIn(headers);
    if (!key) throw new Problem(401, "There is no key.", { "www-authenticate": CHALLENGE });
    const hash = createHash("sha256").update(key).digest();
    let caller: Caller | undefined;
    // All of them, so that the time tells nothing about which one it is, or is like.
    for (const known of this.#keys) if (timingSafeEqual(hash, known.hash)) caller = known.caller;
    if (caller) return caller;
    this.#slowDown(networkOf(address));
    throw new Problem(401, "The key is wrong.", { "www-authenticate": CHALLENGE });
  }

  /** A right key is never slowed down: others may be behind the same address. */
  #slowDown(network: string): void {
    const limiter = this.#wrong.get(network) ?? new RateLimiter(WRONG_KEYS);
    // Last in the Map's order, because it came last.
    this.#wrong.delete(network);
    this.#wrong.set(network, limiter);
    if (this.#wrong.size > MAX_ADDRESSES) this.#wrong.delete(this.#wrong.keys().next().value!);
    if (limiter.tryAcquire()) return;
    const seconds = String(Math.ceil(WRONG_KEYS.interval / WRONG_KEYS.limit / 1000));
    const detail = "Too many wrong keys came from this address.";
    throw new Problem(429, detail, { "retry-after": seconds });
  }
}

/** The key that a request has; empty if it has none. */
export function keyIn(headers: Headers): string {
  const key = headers.get("x-api-key");
  if (key !== null) return key;
  const [, token = ""] = /^Bearer +(\S+) *$/i.exec(headers.get("authorization") ?? "") ?? [];
  return token;
}

/** The address, or for IPv6 its /64, which is what one customer has. */
function networkOf(address: string): string {
  const v4 = address.replace(/^::ffff:/i, "");
  if (isIPv4(v4) || !address.includes(":")) return v4;
  const [head = "", tail] = address.split("::");
  const groups = head.split(":").filter(Boolean);
  if (tail !== undefined) {
    const rest = tail.split(":").filter(Boolean);
    while (groups.length + rest.length < 8) groups.push("0");
  }
  return groups.slice(0, 4).join(":");
}
