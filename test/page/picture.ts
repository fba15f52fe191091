/**
 * Makes the picture of the README, page/picture.png, out of a page as it is:
 *
 *     bun test/page/picture.ts
 */
import { join } from "node:path";

import { createApp } from "../../server.ts";
import { config, overSocket } from "../serving.ts";
import { openPage } from "./browser.ts";

await using server = await overSocket(createApp(config()));
using page = await openPage(1200, 640);
const features = [
  { name: "prefers-color-scheme", value: "light" },
  { name: "prefers-reduced-motion", value: "reduce" },
];
await page.view.cdp("Emulation.setEmulatedMedia", { features });
await page.view.cdp("Emulation.setScrollbarsHidden", { hidden: true });
await page.open(`${server.origin}/concepts/concurrency`);
await page.until("document.querySelector('#picture svg')");
await page.evaluate("document.querySelector('#timeline').scrollIntoView()");
const picture = await page.view.screenshot({ encoding: "buffer" });
await Bun.write(join(import.meta.dir, "../../page/picture.png"), picture);
