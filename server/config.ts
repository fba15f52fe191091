/**
 * What the server is told: its environment, and the file of projects that `PROJECTS` names. Both are
 * checked at start, and everything that is wrong is named at once, with its place.
 */
import { createHash, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { isIP } from "node:net";

import { z } from "zod";

const integer = (min: number, max: number) =>
  z
    .string()
    .refine((text) => /^\d+$/.test(text) && Number(text) >= min && Number(text) <= max, {
      error: ({ input }) => `must be an integer from ${min} to ${max}, received "${input}"`,
    })
    .transform(Number);

const KEY_RULE = "must be printable ASCII characters, none of them a space";

const environment = z.object({
  /** Where to listen; 0 takes a free port. */
  PORT: integer(0, 65_535).default(3000),
  /** The address to listen at. `0.0.0.0` and `::` are all there are. */
  HOST: z
    .string()
    .refine((host) => isIP(host) > 0 || /^(?!-)[a-zA-Z0-9.-]{1,253}$/.test(host), {
      error: ({ input }) => `must be an address or a host name, received "${input}"`,
    })
    .default("127.0.0.1"),
  /** The administrator's key, which opens everything. Default: a random one. */
  API_KEY: z
    .string()
    .regex(/^[!-~]+$/, KEY_RULE)
    .default(() => randomBytes(24).toString("base64url")),
  /** The path of a JSON file: an object of projects by slug. Default: one project, `demo`. */
  PROJECTS: z.string().min(1, "must not be empty").optional(),
  /** How many requests are handled at once; those beyond are answered 503. */
  MAX_IN_FLIGHT: integer(1, 1_000_000).default(1000),
  /** After how long a request is given up and answered 504. */
  REQUEST_TIMEOUT_MS: integer(1, 120_000).default(10_000),
  /** How long the body of a request may be; a longer one is answered 413. */
  MAX_BODY_BYTES: integer(0, 1_000_000_000).default(1_048_576),
  /** How long running work may go on after SIGTERM or SIGINT before it is aborted. */
  DRAIN_MS: integer(0, 3_600_000).default(10_000),
  /** How to log: lines of JSON, lines to read, or nothing. Default: `pretty` on a terminal. */
  LOG: z
    .enum(["json", "pretty", "silent"], {
      error: ({ input }) => `must be json, pretty or silent, received "${input}"`,
    })
    .default(() => (process.stdout.isTTY ? "pretty" : "json")),
});

const slug = z
  .string()
  .regex(/^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$/, "must be lower-case letters, digits and dashes");

/** The key's SHA-256, so that keys are nowhere in memory or in a printed configuration. */
const key = z
  .string()
  .regex(/^(?:sha256:[0-9a-fA-F]{64}|(?!sha256:)[!-~]+)$/, {
    error: `must be sha256: and 64 hex digits, or the key itself, which ${KEY_RULE}`,
  })
  .transform((text) => (text.startsWith("sha256:") ? text.toLowerCase() : hashKey(text)));

const origin = z.string().refine(
  (text) => {
    const url = URL.canParse(text) && new URL(text);
    return url && url.origin === text && /^https?:$/.test(url.protocol);
  },
  { error: ({ input }) => `must be an origin such as https://example.com, received "${input}"` },
);

const projectConfig = z.strictObject({
  /** Any of them opens the project; several, so that they can be rotated. */
  keys: z.array(key).min(1, "must have at least one key"),
  /** The origins that its requests may go to, and no others. */
  origins: z.array(origin).default([]),
  /** How many of its requests run at once. */
  concurrency: z.int().min(1).max(10_000).default(10),
  /** How many of its requests start per second. */
  ratePerSecond: z.number().positive().max(100_000).default(100),
  /** How many of its requests may wait; a batch beyond that is answered 429. */
  maxQueued: z.int().min(0).max(1_000_000).default(2000),
  /** How long one attempt may take. A batch may ask for less. */
  timeoutMs: z.int().min(1).max(600_000).default(10_000),
  /** How often a request is tried again. A batch may ask for less. */
  retries: z.int().min(0).max(10).default(2),
  /** Whether its origins may be at private addresses: loopback, link-local, 10.0.0.0/8 and so on. */
  allowPrivate: z.boolean().default(false),
});

const projectsFile = z.record(slug, projectConfig);

/** A project: its keys are `sha256:` and the hash in hex, whatever the file has. */
export type ProjectConfig = { slug: string } & z.infer<typeof projectConfig>;

/** What the server is told, by the names that it has in the environment. */
export type Config = Omit<z.infer<typeof environment>, "PROJECTS"> & {
  projects: ProjectConfig[];
  /** The key of the project `demo`, if there is no file of projects. */
  demoKey: string | undefined;
};

/** How keys are kept: `sha256:` and 64 hex digits. */
export function hashKey(key: string): string {
  return `sha256:${createHash("sha256").update(key).digest("hex")}`;
}

/**
 * Reads the configuration from environment variables, and from the file that `PROJECTS` names.
 *
 * Without a file there is one project, `demo`. It has no origins yet: the server adds its own when
 * it knows where it listens.
 *
 * @throws {Error} with a line for each value that is wrong, and never with a key
 */
export function parseConfig(
  env: Record<string, string | undefined>,
  readFile: (path: string) => string = (path) => readFileSync(path, "utf8"),
): Config {
  const { data, error } = environment.safeParse(env);
  const lines = error?.issues.map(({ path, message }) => `${path.join(".")} ${message}`) ?? [];
  const file = env["PROJECTS"];
  let projects: ProjectConfig[] = [];
  let demoKey: string | undefined;
  if (file) {
    const read = readProjects(file, readFile);
    projects = read.projects;
    lines.push(...read.problems.map((problem) => `PROJECTS ${file}: ${problem}`));
  } else {
    demoKey = randomBytes(24).toString("base64url");
    const demo = projectConfig.parse({ keys: [demoKey], allowPrivate: true });
    projects = [{ slug: "demo", ...demo }];
  }
  // Bun's fetch sends so many requests at once and lets others wait: a project could stop the rest.
  const most = Number(env["BUN_CONFIG_MAX_HTTP_REQUESTS"]) || 256;
  const sum = projects.reduce((sum, { concurrency }) => sum + concurrency, 0);
  if (sum > most) {
    const advice = `Bun sends at most ${most} requests at once; BUN_CONFIG_MAX_HTTP_REQUESTS raises that`;
    lines.push(
      `PROJECTS ${file}: the concurrency of all projects together is ${sum}, but ${advice}`,
    );
  }
  const adminHash = data && hashKey(data.API_KEY);
  if (projects.some(({ keys }) => keys.includes(adminHash!))) {
    lines.push("API_KEY must not be the key of a project");
  }
  if (!data || lines.length > 0) {
    throw new Error(["the configuration is not valid", ...lines].join("\n  "));
  }
  const { PROJECTS: _, ...rest } = data;
  return { ...rest, projects, demoKey };
}

function readProjects(file: string, readFile: (path: string) => string) {
  const failed = (...problems: string[]) => ({ projects: [] as ProjectConfig[], problems });
  let text: string;
  let json: unknown;
  try {
    text = readFile(file);
  } catch (error) {
    return failed(`can't be read (${(error as NodeJS.ErrnoException).code ?? "no reason given"})`);
  }
  try {
    json = JSON.parse(text);
  } catch {
    // The parser's message may quote the file, and with it a key.
    return failed("is not JSON");
  }
  const { data, error } = projectsFile.safeParse(json);
  if (error) {
    return failed(...error.issues.map((issue) => `${placeOf(issue.path)}${messageOf(issue)}`));
  }
  const projects = Object.entries(data).map(([slug, project]) => ({ slug, ...project }));
  if (projects.length === 0) return failed("must have at least one project");
  const owners = new Map<string, string>();
  const problems = projects.flatMap(({ slug, keys }) =>
    keys.flatMap((key, n) => {
      const owner = owners.get(key);
      owners.set(key, slug);
      const where = owner === slug ? "twice in this project" : `a key of "${owner}", too`;
      return owner === undefined ? [] : [`${slug}.keys[${n}] is ${where}`];
    }),
  );
  return { projects, problems };
}

function placeOf(path: PropertyKey[]): string {
  const parts = path.map((part) => (typeof part === "number" ? `[${part}]` : `.${String(part)}`));
  return parts.length === 0 ? "" : `${parts.join("").slice(1)} `;
}

function messageOf(issue: z.core.$ZodIssue): string {
  const [inner] = issue.code === "invalid_key" ? issue.issues : [];
  const { message } = inner ?? issue;
  return message.replace(/^[A-Z]/, (letter) => letter.toLowerCase());
}
