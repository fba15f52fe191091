/**
 * What Elysia's own tables know of a path beyond the route that it matches. There is no router
 * beside Elysia's: these are asked when a request was refused before it was routed, or had no route.
 */
import type { AnyElysia } from "elysia";

/** The pattern of the route that Elysia would match. */
export function routeAt({ router, routes }: AnyElysia, method: string, path: string) {
  const name = method === "HEAD" ? "GET" : method;
  const fixed = router.static[path] ?? router.static[loose(path)];
  const index = fixed?.[name] ?? fixed?.["ALL"];
  if (index !== undefined) return routes[index]?.path;
  const found = router.http.find(name, path) ?? router.http.find("ALL", path);
  const decoded = decode(path);
  if (!found || decoded === undefined) return undefined;
  // The table does not tell the pattern: it is the one that becomes the path with what was found.
  const filled = (pattern: string) =>
    pattern.replace(/\/:(\w+)\??|\*/g, (part, name = "*") => {
      const value = found.params[name];
      return value === undefined ? "" : part === "*" ? value : `/${value}`;
    });
  const isIt = (pattern: string) => [decoded, loose(decoded)].includes(filled(pattern));
  return routes.find(
    (route) => (route.method === name || route.method === "ALL") && isIt(route.path),
  )?.path;
}

/** The methods that a path has, for `Allow`. */
export function methodsAt({ router }: AnyElysia, path: string): string[] {
  const fixed = Object.keys(router.static[path] ?? router.static[loose(path)] ?? {});
  const matching = Object.keys(router.http.root).filter((method) => router.http.find(method, path));
  const methods = new Set([...fixed, ...matching]);
  if (methods.delete("WS")) methods.add("GET");
  // Plugins for CORS have one for every path there could be.
  methods.delete("OPTIONS");
  if (methods.size === 0) return [];
  if (methods.has("GET")) methods.add("HEAD");
  return [...methods, "OPTIONS"];
}

/** The path without its percent signs, or undefined if they stand for nothing. */
export function decode(path: string): string | undefined {
  if (!path.includes("%")) return path;
  try {
    return decodeURIComponent(path);
  } catch {
    return undefined;
  }
}

/** Elysia takes a path with or without a slash at its end. */
function loose(path: string): string {
  return path.endsWith("/") ? path.slice(0, -1) : `${path}/`;
}
