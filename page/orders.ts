/** Runs scenarios in every order. Each order is a dot, and is drawn as a timeline when it is chosen. */
import { ask } from "./ask.ts";
import { make } from "./dom.ts";
import { Editor } from "./editor.ts";
import type { Explore, Explored, Failed, Order, Orders } from "./protocol.ts";
import { fetchModules } from "./record.ts";
import { draw } from "./timeline.ts";

/** How long the worker may be silent, in real ms: it tells of the orders several times a second. */
const PATIENCE = 2000;

/** The box of the dots, and the most room that one gets. */
const WIDTH = 480;
const HEIGHT = 144;
const LARGEST = 16;

/** How wide an event is drawn at least: ten letters have room. */
const EVENT_WIDTH = 76;

const HOLDS = "light-dark(#176c2d, #74d48e)";
const FAILS = "light-dark(#ab231b, #ff9c94)";

const { worker = "" } = document.body.dataset;

/** A scenario's code, the orders that it was run in, and the one that is looked at. */
class Version {
  readonly #editor: Editor;
  readonly #dots: Dots;
  readonly #verdict: HTMLElement;
  #orders: Order[] = [];
  #running = new AbortController();

  readonly #slider = make("input", { type: "range", min: "1", value: "1", disabled: true });
  readonly #place = make("output");
  readonly #next = make("button", {
    type: "button",
    textContent: "Next that fails",
    disabled: true,
  });
  readonly #picture = make("div", { className: "order" });
  readonly #events = make("ol");
  readonly #reason = make("p", { className: "reason" });
  readonly #schedule = make("code");
  readonly #copy = make("button", { type: "button", textContent: "Copy" });
  readonly #replay = make("p", { hidden: true }, "To replay it: ", this.#schedule, " ", this.#copy);

  constructor(element: Element) {
    const explore = () => void this.explore();
    this.#editor = new Editor(element.querySelector("textarea")!, explore);
    this.#dots = new Dots(element.querySelector(".dots")!, (index) => this.#choose(index));
    this.#verdict = element.querySelector(".verdict")!;
    this.#slider.ariaLabel = "Order";
    this.#copy.ariaLabel = "Copy the schedule";
    this.#slider.oninput = () => this.#choose(this.#slider.valueAsNumber - 1);
    this.#next.onclick = () => this.#chooseFailing(this.#slider.valueAsNumber);
    this.#copy.onclick = async () => {
      try {
        await navigator.clipboard.writeText(this.#schedule.textContent);
        this.#copy.textContent = "Copied";
      } catch {
        getSelection()?.selectAllChildren(this.#schedule);
      }
    };
    element
      .querySelector(".chosen")!
      .append(
        make("p", { className: "place" }, this.#slider, this.#place, this.#next),
        this.#picture,
        this.#reason,
        this.#replay,
        make("details", {}, make("summary", { textContent: "The same as text" }), this.#events),
      );
  }

  /** Runs what stands in the text area in every order. */
  async explore(): Promise<void> {
    this.#running.abort();
    const { signal } = (this.#running = new AbortController());
    const code = this.#editor.text;
    this.#orders = [];
    this.#dots.mark(0);
    this.#dots.show([]);
    this.#slider.disabled = this.#next.disabled = true;
    this.#verdict.ariaBusy = "true";
    this.#verdict.textContent = "Running …";
    try {
      const imported = [...code.matchAll(/["']\.\/([\w-]+)\.js["']/g)].map(([, name]) => name!);
      const modules = await fetchModules([...new Set(["interleavings", ...imported])]);
      const question: Explore = { kind: "explore", modules, code };
      const answer = await ask<Orders, Explored>(worker, question, PATIENCE, signal, (more) => {
        this.#add(more.orders);
        return true;
      });
      this.#tell(this.#judge(answer));
      if (this.#slider.disabled) this.#choose(0);
    } catch (reason) {
      if (!signal.aborted) this.#tell(`${reason}`);
    }
  }

  #tell(verdict: string): void {
    this.#verdict.textContent = verdict;
    this.#verdict.ariaBusy = null;
  }

  #add(orders: Order[]): void {
    const before = this.#orders.length;
    this.#orders.push(...orders);
    this.#dots.show(this.#orders.map(({ failed }) => failed !== undefined));
    this.#slider.max = `${this.#orders.length}`;
    this.#verdict.textContent = `${count(this.#orders.length)} …`;
    this.#tellPlace();
    const index = orders.findIndex(({ failed }) => failed !== undefined);
    if (this.#next.disabled && index >= 0) this.#choose(before + index);
  }

  #judge(answer: Explored | Failed): string {
    const { length } = this.#orders;
    if (answer.kind === "failed") {
      const { name, message, line } = answer;
      const where = line === undefined ? "" : ` at line ${line}`;
      return `${name ? `${name}: ` : ""}${message}${where}`;
    }
    const failing = this.#orders.filter(({ failed }) => failed !== undefined).length;
    const all = answer.exhaustive ? "all" : "the first";
    if (failing === 0) return `Holds in ${all} ${count(length)}.`;
    return `Fails in ${failing.toLocaleString("en")} of ${all} ${count(length)}.`;
  }

  /** Shows an order: the timeline, why it fails, and how to run it again. */
  #choose(index: number): void {
    const order = this.#orders[index];
    if (!order) return;
    const { marks, failed, schedule, switches } = order;
    const isFailing = failed !== undefined;
    const end = marks.at(-1)!.ms;
    const room = this.#picture.clientWidth;
    const width = Math.max(room, 120 + marks.length * EVENT_WIDTH);
    const label = `Order ${index + 1}, ${isFailing ? "failing" : "holding"}`;
    // The first order is the one in which the tasks were made.
    const lanes = [...new Set(this.#orders[0]!.marks.map(({ lane }) => lane))];
    const svg = draw(marks, end, { axis: "order", unit: "choice", width, lanes, label });
    this.#picture.replaceChildren(svg);
    this.#events.replaceChildren(
      ...marks.map(({ lane, state, ms }) =>
        make("li", { value: ms, textContent: `${lane}: ${state}` }),
      ),
    );
    const switched = `${switches} ${switches === 1 ? "switch" : "switches"}`;
    this.#reason.textContent = `With ${switched}: ${isFailing ? failed : "it holds."}`;
    this.#schedule.textContent = `interleavings(scenario, { schedule: "${schedule}" })`;
    this.#copy.textContent = "Copy";
    this.#replay.hidden = false;
    this.#slider.disabled = false;
    this.#next.disabled &&= !isFailing;
    this.#slider.value = `${index + 1}`;
    this.#slider.ariaValueText = label;
    this.#tellPlace();
    this.#dots.mark(index);
  }

  #tellPlace(): void {
    if (this.#slider.disabled) return;
    this.#place.value = `${this.#slider.value} of ${this.#orders.length.toLocaleString("en")}`;
  }

  #chooseFailing(from: number): void {
    const isFailing = ({ failed }: Order) => failed !== undefined;
    const index = this.#orders.findIndex((order, i) => i >= from && isFailing(order));
    this.#choose(index >= 0 ? index : this.#orders.findIndex(isFailing));
  }
}

/** As many dots as there are orders: green circles hold, red squares fail. */
class Dots {
  readonly #svg: SVGSVGElement;
  // A line without length is a dot in the shape of its end.
  readonly #holds = path({ stroke: HOLDS, "stroke-linecap": "round" });
  readonly #fails = path({ stroke: FAILS, "stroke-linecap": "square" });
  readonly #marked = path({ stroke: "currentColor", fill: "none", "stroke-width": "2" });
  #failing: readonly boolean[] = [];
  #chosen = 0;
  #cell = LARGEST;

  constructor(svg: SVGSVGElement, choose: (index: number) => void) {
    this.#svg = svg;
    svg.append(this.#holds, this.#fails, this.#marked);
    svg.addEventListener("click", ({ clientX, clientY }) => {
      const { left, top, width, height } = svg.getBoundingClientRect();
      const column = Math.floor((((clientX - left) / width) * WIDTH) / this.#cell);
      const row = Math.floor((((clientY - top) / height) * HEIGHT) / this.#cell);
      choose(row * this.#columns + column);
    });
  }

  /** Draws the orders, and makes them smaller if there are many. */
  show(failing: readonly boolean[]): void {
    this.#failing = failing;
    const fits = (cell: number) =>
      Math.floor(WIDTH / cell) * Math.floor(HEIGHT / cell) >= failing.length;
    this.#cell = LARGEST;
    while (!fits(this.#cell)) this.#cell *= 0.95;
    const dots = { holds: "", fails: "" };
    for (const [index, isFailing] of failing.entries()) {
      const [x, y] = this.#middle(index);
      dots[isFailing ? "fails" : "holds"] += `M${x.toFixed(1)} ${y.toFixed(1)}h0`;
    }
    this.#holds.setAttribute("d", dots.holds);
    this.#fails.setAttribute("d", dots.fails);
    this.#holds.setAttribute("stroke-width", `${this.#cell * 0.7}`);
    this.#fails.setAttribute("stroke-width", `${this.#cell * 0.6}`);
    this.mark(this.#chosen);
    const bad = failing.filter(Boolean).length;
    this.#svg.ariaLabel = `${count(failing.length)}, ${bad.toLocaleString("en")} of which fail`;
  }

  /** Draws a frame around one. */
  mark(index: number): void {
    this.#chosen = index;
    const [x, y] = this.#middle(index);
    const side = Math.max(this.#cell, 6);
    const frame = `M${x - side / 2} ${y - side / 2}h${side}v${side}h${-side}z`;
    this.#marked.setAttribute("d", index < this.#failing.length ? frame : "");
  }

  get #columns(): number {
    return Math.floor(WIDTH / this.#cell);
  }

  #middle(index: number): [x: number, y: number] {
    const row = Math.floor(index / this.#columns);
    return [(index - row * this.#columns + 0.5) * this.#cell, (row + 0.5) * this.#cell];
  }
}

function count(orders: number): string {
  return `${orders.toLocaleString("en")} ${orders === 1 ? "order" : "orders"}`;
}

function path(attributes: Record<string, string>): SVGPathElement {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "path");
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

for (const scenario of document.querySelectorAll(".scenario")) {
  const versions = [...scenario.querySelectorAll(".version")].map((it) => new Version(it));
  scenario.querySelector<HTMLButtonElement>(".explore")!.onclick = () => {
    for (const version of versions) void version.explore();
  };
}
