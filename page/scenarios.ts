/**
 * The classic bugs, each broken and mended, as text: the page shows it and the worker explores it.
 * What they import are the collection's own concepts.
 */
export interface Scenario {
  name: string;
  title: string;
  /** What goes wrong, and what mends it. */
  text: string;
  /** On whose pages it is shown, beside that of interleavings. */
  concepts: readonly string[];
  broken: string;
  mended: string;
}

/** What most of them share: tasks of these names, and what must hold after all of them. */
const ends = (tasks: string, holds: string): string => `  await Promise.all([
${tasks}
  ]);
  ${holds}
}
`;

const DEPOSITS = ends(
  `    world.spawn("ann", deposit(10)),
    world.spawn("bob", deposit(20)),
    world.spawn("eve", deposit(30)),`,
  `if (balance !== 160) throw new Error("the balance is " + balance);`,
);

const SIGN_UPS = ends(
  `    world.spawn("phone", signUp),
    world.spawn("laptop", signUp),`,
  `if (users.length !== 1) throw new Error(users.length + " users are called ann");`,
);

const READERS = ends(
  `    world.spawn("ann", get),
    world.spawn("bob", get),
    world.spawn("eve", get),`,
  `if (loads !== 1) throw new Error("the menu was loaded " + loads + " times");`,
);

const SEARCHES = ends(
  `    type("t"),
    type("te"),
    type("tea"),`,
  `if (shown !== "results for tea") throw new Error("it shows " + shown);`,
);

const TRANSFERS = ends(
  `    world.spawn("ann to bob", transfer("ann", "bob")),
    world.spawn("bob to ann", transfer("bob", "ann")),`,
  `if (transfers !== 2) throw new Error("only " + transfers + " of 2 transfers were made");`,
);

const PERMIT = `  const controller = new AbortController();
  const { signal } = controller;
  world.abort(controller);
  const holder = world.spawn("holder", async (world) => {
    const permit = await semaphore.acquire();
    await world.step("work");
    permit.release();
  });
  const waiter = world.spawn("waiter", async () => {
    const permit = await semaphore.acquire({ signal });
    permit.release();
  });
  await Promise.allSettled([holder, waiter]);
  if (semaphore.available !== 1) throw new Error("the permit is lost");
}
`;

const READY = ends(
  `    world.spawn("reader 1", read),
    world.spawn("reader 2", read),
    world.spawn("writer", write),`,
  `if (done !== 2) throw new Error("a reader has left too early");`,
);

const dine = (first: string): string => `
import { Mutex } from "./semaphores.js";

export async function scenario(world) {
  const forks = [new Mutex(), new Mutex(), new Mutex()];
  const dine = (left, right) => async (world) => {
${first}
    const one = await forks[first].lock();
    await world.step("has fork " + first);
    const other = await forks[second].lock();
    other.release();
    one.release();
  };
${ends(
  `    world.spawn("plato", dine(0, 1)),
    world.spawn("kant", dine(1, 2)),
    world.spawn("hume", dine(2, 0)),`,
  `if (forks.some((fork) => fork.locked)) throw new Error("a fork is still held");`,
)}`;

export const SCENARIOS: readonly Scenario[] = [
  {
    name: "lost-update",
    title: "Lost update",
    text: "Two deposits read the balance before either has written it, and one of them is lost. A mutex keeps the reading and the writing together.",
    concepts: ["semaphores"],
    broken: `
export async function scenario(world) {
  let balance = 100;
  const deposit = (amount) => async (world) => {
    await world.step("read");
    const before = balance;
    await world.step("write " + (before + amount));
    balance = before + amount;
  };
${DEPOSITS}`,
    mended: `
import { Mutex } from "./semaphores.js";

export async function scenario(world) {
  let balance = 100;
  const mutex = new Mutex();
  const deposit = (amount) => (world) =>
    mutex.run(async () => {
      await world.step("read");
      const before = balance;
      await world.step("write " + (before + amount));
      balance = before + amount;
    });
${DEPOSITS}`,
  },
  {
    name: "check-then-act",
    title: "Check, then act",
    text: "The name is free when both ask, and no longer when the second takes it. A lock for each name makes the check and the act one.",
    concepts: ["semaphores"],
    broken: `
export async function scenario(world) {
  const users = [];
  const signUp = async (world) => {
    await world.step("is ann free?");
    const isFree = !users.includes("ann");
    await world.step(isFree ? "take ann" : "give up");
    if (isFree) users.push("ann");
  };
${SIGN_UPS}`,
    mended: `
import { KeyedMutex } from "./semaphores.js";

export async function scenario(world) {
  const users = [];
  const names = new KeyedMutex();
  const signUp = (world) =>
    names.run("ann", async () => {
      await world.step("is ann free?");
      const isFree = !users.includes("ann");
      await world.step(isFree ? "take ann" : "give up");
      if (isFree) users.push("ann");
    });
${SIGN_UPS}`,
  },
  {
    name: "cache-stampede",
    title: "Cache stampede",
    text: "All who find the cache empty load at once what one of them could load for all. `singleFlight` has the others wait for the first.",
    concepts: ["concurrency"],
    broken: `
export async function scenario(world) {
  const cache = new Map();
  let loads = 0;
  const load = async (world) => {
    loads++;
    await world.step("load the menu");
    cache.set("menu", "soup");
  };
  const get = async (world) => {
    if (!cache.has("menu")) await load(world);
    return cache.get("menu");
  };
${READERS}`,
    mended: `
import { singleFlight } from "./concurrency.js";

export async function scenario(world) {
  const cache = new Map();
  let loads = 0;
  const load = singleFlight(
    async (world) => {
      loads++;
      await world.step("load the menu");
      cache.set("menu", "soup");
    },
    { key: () => "menu" },
  );
  const get = async (world) => {
    if (!cache.has("menu")) await load(world);
    return cache.get("menu");
  };
${READERS}`,
  },
  {
    name: "stale-response",
    title: "Stale response",
    text: "The reply to an earlier search comes after that to the latest, and is shown in its place. Only the latest search may show what it has found.",
    concepts: [],
    broken: `
export async function scenario(world) {
  let shown = "nothing";
  const search = (text) =>
    world.spawn("search " + text, async (world) => {
      await world.step("reply");
      return "results for " + text;
    });
  const type = async (text) => {
    shown = await search(text);
  };
${SEARCHES}`,
    mended: `
export async function scenario(world) {
  let shown = "nothing";
  let latest = 0;
  const search = (text) =>
    world.spawn("search " + text, async (world) => {
      await world.step("reply");
      return "results for " + text;
    });
  const type = async (text) => {
    const request = ++latest;
    const results = await search(text);
    if (request === latest) shown = results;
  };
${SEARCHES}`,
  },
  {
    name: "lost-permit",
    title: "Lost permit",
    text: "The permit is handed to a waiter that is aborted in the same turn: the waiter fails, and nobody has the permit. It must go on to the next, as the collection's `Semaphore` sees to.",
    concepts: ["semaphores"],
    broken: `
class Semaphore {
  waiters = [];
  constructor(permits) {
    this.available = permits;
  }
  async acquire({ signal } = {}) {
    signal?.throwIfAborted();
    if (this.available > 0) this.available--;
    else {
      await new Promise((resolve, reject) => {
        this.waiters.push(resolve);
        signal?.addEventListener("abort", () => {
          this.waiters = this.waiters.filter((waiter) => waiter !== resolve);
          reject(signal.reason);
        });
      });
      signal?.throwIfAborted();
    }
    return { release: () => this.release() };
  }
  release() {
    const next = this.waiters.shift();
    if (next) next();
    else this.available++;
  }
}

export async function scenario(world) {
  const semaphore = new Semaphore(1);
${PERMIT}`,
    mended: `
import { Semaphore } from "./semaphores.js";

export async function scenario(world) {
  const semaphore = new Semaphore(1);
${PERMIT}`,
  },
  {
    name: "lost-wake-up",
    title: "Lost wake-up",
    text: "The writer wakes all who wait, and a reader that has just looked begins to wait only then: for ever. An `AsyncEvent` that is set lets everybody through.",
    concepts: ["synchronization"],
    broken: `
export async function scenario(world) {
  let isReady = false;
  let done = 0;
  const waiters = [];
  const read = async (world) => {
    if (!isReady) {
      await world.step("about to wait");
      await new Promise((resolve) => waiters.push(resolve));
    }
    if (isReady) done++;
  };
  const write = async () => {
    isReady = true;
    for (const wake of waiters) wake();
  };
${READY}`,
    mended: `
import { AsyncEvent } from "./synchronization.js";

export async function scenario(world) {
  const ready = new AsyncEvent();
  let done = 0;
  const read = async (world) => {
    if (!ready.isSet) {
      await world.step("about to wait");
      await ready.wait();
    }
    if (ready.isSet) done++;
  };
  const write = async () => ready.set();
${READY}`,
  },
  {
    name: "two-locks",
    title: "Two locks in two orders",
    text: "Each holds what the other needs, and both wait for ever. `lockAll` takes all locks in one order, whoever asks.",
    concepts: ["semaphores"],
    broken: `
import { KeyedMutex } from "./semaphores.js";

export async function scenario(world) {
  const accounts = new KeyedMutex();
  let transfers = 0;
  const transfer = (from, to) => async (world) => {
    const one = await accounts.lock(from);
    await world.step("has locked " + from);
    const other = await accounts.lock(to);
    await world.step("transfer");
    transfers++;
    other.release();
    one.release();
  };
${TRANSFERS}`,
    mended: `
import { KeyedMutex } from "./semaphores.js";

export async function scenario(world) {
  const accounts = new KeyedMutex();
  let transfers = 0;
  const transfer = (from, to) => async (world) => {
    const both = await accounts.lockAll([from, to]);
    await world.step("has locked both");
    await world.step("transfer");
    transfers++;
    both.release();
  };
${TRANSFERS}`,
  },
  {
    name: "philosophers",
    title: "Dining philosophers",
    text: "Everybody has taken the fork on the left, and waits for the one on the right. If all begin with the lower number, somebody always has both.",
    concepts: ["semaphores"],
    broken: dine("    const [first, second] = [left, right];"),
    mended: dine("    const [first, second] = [left, right].sort();"),
  },
].map((it) => ({ ...it, broken: it.broken.trim() + "\n", mended: it.mended.trim() + "\n" }));
