/** The worker's part in trying every order: runs `interleavings`, and tells of the orders in batches. */
import type { Explored, Order, Orders } from "./protocol.ts";

/** What the concept's own function takes and gives, as far as it is used here. */
type Interleavings = (
  scenario: unknown,
  options: {
    maxRuns: number;
    maxMs: number;
    onOrder(order: {
      schedule: string;
      switches: number;
      events: readonly { choice: number; lane: string; state: string }[];
      error?: { kind: string; message: string };
    }): boolean;
  },
) => Promise<{ exhaustive: boolean }>;

/** As many as can be told apart as dots, and no longer than anybody looks at them. */
const LIMITS = { maxRuns: 5000, maxMs: 30_000 };

/** How often it tells, in ms. */
const INTERVAL = 50;

export async function explore(
  interleavings: Interleavings,
  scenario: unknown,
  post: (answer: Orders | Explored) => void,
): Promise<void> {
  // The clock is replaced meanwhile.
  const now = performance.now.bind(performance);
  let orders: Order[] = [];
  let told = now();
  const tell = () => {
    post({ kind: "orders", orders });
    orders = [];
    told = now();
  };
  const { exhaustive } = await interleavings(scenario, {
    ...LIMITS,
    onOrder({ schedule, switches, events, error }) {
      const marks = events.map(({ choice, lane, state }) => ({ lane, state, ms: choice }));
      const end = marks.at(-1)?.ms ?? 0;
      const ended = new Set(marks.map(({ lane, state }) => /^(done|failed)$/.test(state) && lane));
      if (error?.kind === "deadlock" || error?.kind === "leak") {
        const lanes = new Set(marks.map(({ lane }) => lane)).difference(ended);
        for (const lane of lanes) marks.push({ lane, state: "waiting", ms: end });
      }
      marks.push({ lane: "scenario", state: error ? "failed" : "done", ms: end });
      // What follows is the drawing: the page has a better one.
      const failed = error ? { failed: error.message.split("\n\nThe order, ")[0]! } : {};
      orders.push({ schedule, switches, marks, ...failed });
      if (now() - told >= INTERVAL) tell();
      return true;
    },
  });
  tell();
  post({ kind: "explored", exhaustive });
}
