import { createApp, parseConfig, serve } from "../server.ts";
import { checkThresholds } from "./thresholds.ts";

const status = () => ({
  status: "ok",
  version: "0.0.0",
  uptime: performance.now() / 1000,
  timestamp: new Date().toISOString(),
});
const health = () => Response.json(status());
const config = parseConfig({ PORT: "0" });
const app = createApp(config).get("/limited", status);
const controller = new AbortController();
const listening = Promise.withResolvers<string>();
const served = serve(app, config, controller.signal, listening.resolve);
const ours = await listening.promise;
using bare = Bun.serve({ port: 0, fetch: health });

const handle = async (path: string) => (await app.handle(new Request(`http://a${path}`))).text();
const get = async (url: URL | string) => (await fetch(url)).text();
const get100 = (url: URL | string) => Promise.all(Array.from({ length: 100 }, () => get(url)));

await checkThresholds([
  {
    name: "GET /health in process",
    subject: ["app.handle", () => handle("/health")],
    baseline: ["a function", () => health().text()],
    atMost: 5.5,
  },
  {
    name: "GET /health over a socket, one after the other",
    subject: ["createApp", () => get(`${ours}/health`)],
    baseline: ["Bun.serve", () => get(bare.url)],
    atMost: 2.6,
  },
  {
    name: "GET /health over a socket, 100 at once",
    subject: ["createApp", () => get100(`${ours}/health`)],
    baseline: ["Bun.serve", () => get100(bare.url)],
    atMost: 1.7,
  },
  {
    name: "what the limits cost",
    subject: ["GET /limited", () => handle("/limited")],
    baseline: ["GET /health", () => handle("/health")],
    atMost: 2.9,
  },
]);

controller.abort();
await served;
