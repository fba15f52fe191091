/** What the page and its worker tell each other. */

/** Page → worker: runs a program, which exports `demo(log)`, and records what it logs. */
export interface Run {
  kind: "run";
  /** Concepts by name, as JavaScript. What imports `"./NAME.js"` gets them from here. */
  modules: Record<string, string>;
  code: string;
  /** `"live"` for what has a clock of its own. */
  clock: "virtual" | "live";
}

/** Worker → page: the concepts are loaded, and the visitor's code begins. */
export interface Begun {
  kind: "begun";
}

/** Worker → page: a lane is in this state from now on. */
export interface Line {
  kind: "line";
  lane: string;
  state: string;
  /** Since the start; exact on the virtual clock. */
  ms: number;
}

export interface Done {
  kind: "done";
  ms: number;
}

export interface Failed {
  kind: "failed";
  name: string;
  message: string;
  /** Where in the visitor's code, from 1. */
  line?: number;
  column?: number;
  ms: number;
}

/** Page → worker: runs a program, which exports `scenario(world)`, in every order. */
export interface Explore {
  kind: "explore";
  modules: Record<string, string>;
  code: string;
}

export interface Order {
  schedule: string;
  switches: number;
  /** What happened; `ms` are numbers of choices. */
  marks: { lane: string; state: string; ms: number }[];
  /** Why it fails, if it does. */
  failed?: string;
}

/** Worker → page: more orders have been run. */
export interface Orders {
  kind: "orders";
  orders: Order[];
}

/** Worker → page: there are no more, or too many. */
export interface Explored {
  kind: "explored";
  exhaustive: boolean;
}

export type Question = Run | Explore;
export type Answer = Begun | Line | Done | Failed | Orders | Explored;
