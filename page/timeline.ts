/**
 * Draws what was recorded: a lane per row, and what it was doing when. The drawing brings all of its
 * looks along as attributes (no style sheet, no ids), so that it can stand many times on a page and
 * be saved as a file.
 */

/** From `ms` on, the lane is in this state. */
export interface Mark {
  lane: string;
  state: string;
  ms: number;
}

export interface DrawOptions {
  /** In CSS pixels. Default: 720. */
  width?: number;
  /** `"order"` gives each mark as much room as any other, also those of one moment. */
  axis?: "time" | "order";
  /** What `ms` counts, if not milliseconds: a word that stands before the number. */
  unit?: string;
  /** Which rows come first, so that pictures of several recordings can be compared. */
  lanes?: readonly string[];
  /** What it shows, for those who don't see it. */
  label?: string;
  /** A picture of this height without any text or focus. */
  small?: number;
}

type Kind = "waiting" | "running" | "done" | "failed" | "cancelled" | "note";

interface Span {
  lane: string;
  state: string;
  kind: Kind;
  /** On the axis. */
  from: number;
  to: number;
  /** Nothing comes after it: it is a point, and not a span. */
  isEnd: boolean;
  title: string;
}

const BACK = "light-dark(#fdfdfb, #16181c)";
const TEXT = "light-dark(#1b1f24, #e8eaed)";
const GRID = "light-dark(#d5d9df, #363c45)";

/** Darker than 4.5 : 1 against BACK, and BACK against them. */
const COLOURS: Record<Kind, string> = {
  waiting: "light-dark(#7a5200, #e3b75c)",
  running: "light-dark(#1d5cb8, #84b6ff)",
  done: "light-dark(#176c2d, #74d48e)",
  failed: "light-dark(#ab231b, #ff9c94)",
  cancelled: "light-dark(#66469b, #c9aff5)",
  note: "light-dark(#4c5663, #b3bdca)",
};

/** No state is told by its colour alone: each end has a sign of its own, in a circle around 0, 0. */
const SIGNS: Partial<Record<Kind, string>> = {
  done: "M-4 0l3 3l5-6",
  failed: "M-3-3l6 6M3-3l-6 6",
  cancelled: "M-4 0h8",
};

const CHARACTER = 7;
const BAR = 18;

/** What {@link seek} has to know of a drawing. */
const plots = new WeakMap<SVGElement, { toX(at: number): number; last: number; right: number }>();

/** The picture of some marks, the last of which lasts until `end`. */
export function draw(
  marks: readonly Mark[],
  end: number,
  options: DrawOptions = {},
): SVGSVGElement {
  const { width = 720, axis = "time", unit, label = "Timeline", small } = options;
  const lanes = toLanes(marks, end, axis, options.lanes ?? [], (ms) => format(ms, unit));
  const names = [...lanes.keys()];
  const longest = Math.max(0, ...names.map((name) => name.length)) * CHARACTER;
  const isNarrow = width < 520 || longest > width / 3;
  const left = small ? 2 : isNarrow ? 10 : longest + 24;
  const right = width - (small ? 8 : isNarrow ? 24 : 84);
  const row = small ? Math.min((small - 4) / names.length, 24) : isNarrow ? 42 : 26;
  const top = small ? Math.max(2, (small - row * names.length) / 2) : 8;
  const bar = small ? Math.min(12, row - 2) : BAR;
  const bottom = top + row * names.length;
  const height = small ?? bottom + 26;
  const last = axis === "order" ? marks.length : end;
  const toX = (at: number): number => left + (last > 0 ? at / last : 0) * (right - left);

  const svg = element("svg", {
    viewBox: `0 0 ${width} ${height}`,
    width,
    height,
    role: small ? "img" : "group",
    "aria-label": label,
    "font-family": "system-ui, sans-serif",
    "font-size": 13,
    fill: TEXT,
  });
  if (!small) {
    svg.append(element("rect", { width, height, fill: BACK }));
    svg.append(drawAxis(toTicks(marks, end, axis, unit), toX, top, bottom));
  }

  const rows = names.map((name, index) => {
    const y = top + row * index + (row - bar) / (small || !isNarrow ? 2 : 1) - (isNarrow ? 3 : 0);
    if (!small) {
      const at = isNarrow ? { x: left, y: y - 5 } : { x: left - 10, y: y + 13 };
      const anchor = isNarrow ? "start" : "end";
      const text = isNarrow ? cut(name, width - left) : name;
      svg.append(element("text", { ...at, "text-anchor": anchor }, text));
    }
    // Spans without length get a little, and push away what follows at the same moment.
    let free = 0;
    return lanes.get(name)!.map((span): [number, SVGGElement] => {
      const x = Math.min(Math.max(toX(span.from), free), width - 6);
      const until = Math.max(toX(span.to), x + (small ? 2 : 4));
      free = until + 1;
      const group = element(
        "g",
        small ? {} : { role: "img", "aria-label": span.title, tabindex: -1 },
      );
      group.append(element("title", {}, span.title));
      if (span.isEnd) group.append(...drawEnd(span, x, y, bar, small ? 0 : width - x - 12));
      else group.append(...drawBar(span, x, until - x, y, bar, !small));
      svg.append(group);
      return [span.from, group];
    });
  });

  if (small) return svg;
  svg.append(
    element("rect", { class: "future", y: top, height: bottom - top, fill: BACK, opacity: 0.82 }),
    element("path", { class: "now", stroke: TEXT, d: `M0 ${top - 6}V${bottom + 4}` }),
  );
  plots.set(svg, { toX, last, right: width });
  seek(svg, last);
  rows[0]?.[0]?.[1].setAttribute("tabindex", "0");
  svg.addEventListener("keydown", (event) => moveFocus(event, rows));
  return svg;
}

/** Shows how far it has come: what comes after this point of the axis is pale. */
export function seek(svg: SVGSVGElement, at: number): void {
  const { toX, last, right } = plots.get(svg)!;
  const x = toX(at);
  const future = svg.querySelector(".future")!;
  future.setAttribute("x", `${x}`);
  future.setAttribute("width", `${at < last ? right - x : 0}`);
  svg.querySelector(".now")!.setAttribute("transform", `translate(${x})`);
}

/** As the text of a file that looks right wherever it is opened. */
export function toFile(svg: SVGSVGElement): string {
  const copy = svg.cloneNode(true) as SVGSVGElement;
  for (const part of copy.querySelectorAll(".future, .now")) part.remove();
  for (const part of copy.querySelectorAll("[tabindex]")) part.removeAttribute("tabindex");
  // Not before it is text: the page's own policy would refuse it.
  const style = "<style>:root { color-scheme: light dark }</style>";
  return new XMLSerializer().serializeToString(copy).replace(/^<svg[^>]*>/, (tag) => tag + style);
}

/** `"150 ms"`, `"12.5 s"`, `"8 h"`: never rounded to less than a hundredth. */
export function format(ms: number, unit?: string): string {
  const number = (value: number) => String(Math.round(value * 100) / 100);
  if (unit) return `${unit} ${number(ms)}`;
  if (ms < 10_000) return `${number(ms)} ms`;
  if (ms < 600_000) return `${number(ms / 1000)} s`;
  if (ms < 7_200_000) return `${number(ms / 60_000)} min`;
  return `${number(ms / 3_600_000)} h`;
}

function toKind(state: string): Kind {
  const [found] = /\b(waiting|running|done|failed|cancelled)\b/.exec(state) ?? ["note"];
  return found as Kind;
}

function toLanes(
  marks: readonly Mark[],
  end: number,
  axis: "time" | "order",
  first: readonly string[],
  tell: (ms: number) => string,
): Map<string, Span[]> {
  const lanes = new Map<string, number[]>(first.map((lane) => [lane, []]));
  marks.forEach(({ lane }, index) => {
    const own = lanes.get(lane);
    if (own) own.push(index);
    else lanes.set(lane, [index]);
  });
  const toSpan = (index: number, next: number | undefined): Span => {
    const { lane, state, ms } = marks[index]!;
    const kind = toKind(state);
    const isEnd = next === undefined && SIGNS[kind] !== undefined;
    const until = isEnd ? ms : next === undefined ? end : marks[next]!.ms;
    const from = axis === "order" ? index : ms;
    const to = isEnd ? from : axis === "order" ? (next ?? marks.length) : until;
    const when = until > ms ? `from ${tell(ms)} to ${tell(until)}` : `at ${tell(ms)}`;
    return { lane, state, kind, from, to, isEnd, title: `${lane}: ${state}, ${when}` };
  };
  return new Map(
    [...lanes].map(([lane, own]) => [lane, own.map((index, i) => toSpan(index, own[i + 1]))]),
  );
}

function toTicks(
  marks: readonly Mark[],
  end: number,
  axis: "time" | "order",
  unit: string | undefined,
): { at: number; text: string }[] {
  const tell = (ms: number) => (unit ? String(ms) : format(ms));
  if (axis === "time") {
    const moments = new Set([0, end, ...marks.map(({ ms }) => ms)]);
    return [...moments].sort((a, b) => a - b).map((at) => ({ at, text: tell(at) }));
  }
  const ticks = [];
  for (const [at, { ms }] of marks.entries()) {
    if (at === 0 || marks[at - 1]!.ms !== ms) ticks.push({ at, text: tell(ms) });
  }
  return [...ticks, { at: marks.length, text: tell(end) }];
}

/** The moments when something happens; their times stand where there is room, the last one always. */
function drawAxis(
  ticks: { at: number; text: string }[],
  toX: (at: number) => number,
  top: number,
  bottom: number,
): SVGElement {
  const group = element("g", { "aria-hidden": true, "font-size": 11 });
  const last = ticks.at(-1)!;
  const room = (text: string) => text.length * 6 + 8;
  const limit = toX(last.at) - room(last.text) / 2;
  let free = -Infinity;
  for (const { at, text } of ticks) {
    const x = toX(at);
    group.append(element("path", { stroke: GRID, d: `M${x} ${top}V${bottom + 5}` }));
    const half = room(text) / 2;
    if (at !== last.at && (x - half < free || x + half > limit)) continue;
    free = x + half;
    const anchor = x < half ? "start" : "middle";
    group.append(
      element("text", { x: x < half ? 2 : x, y: bottom + 18, "text-anchor": anchor }, text),
    );
  }
  return group;
}

function drawBar(
  { state, kind }: Span,
  x: number,
  width: number,
  y: number,
  height: number,
  hasText: boolean,
): SVGElement[] {
  const colour = COLOURS[kind];
  const isSolid = kind === "running" || kind === "note";
  const looks = isSolid
    ? { fill: colour }
    : {
        fill: hasText ? BACK : "none",
        stroke: colour,
        "stroke-dasharray": kind === "waiting" ? "3 2" : "none",
      };
  const inset = isSolid ? 0 : 0.75;
  const rect = element("rect", {
    ...looks,
    x: x + inset,
    y: y + inset,
    width: Math.max(0.5, width - 2 * inset),
    height: height - 2 * inset,
    rx: Math.min(kind === "note" ? height / 2 : 2, width / 2),
  });
  const text = hasText && cut(state, width - 10);
  if (!text) return [rect];
  const fill = isSolid ? BACK : colour;
  return [rect, element("text", { x: x + 6, y: y + 13, fill, "font-size": 12 }, text)];
}

function drawEnd(
  { state, kind }: Span,
  x: number,
  y: number,
  height: number,
  room: number,
): SVGElement[] {
  const r = Math.min(8, height / 2);
  const fill = COLOURS[kind];
  const middle = y + height / 2;
  const sign = element("path", {
    d: SIGNS[kind]!,
    transform: `translate(${x} ${middle}) scale(${r / 8})`,
    stroke: BACK,
    "stroke-width": 2,
    fill: "none",
  });
  const text = cut(state, room);
  return [
    element("circle", { cx: x, cy: middle, r, fill }),
    sign,
    ...(text ? [element("text", { x: x + r + 3, y: y + 13, fill, "font-size": 12 }, text)] : []),
  ];
}

/** As much of a text as there is room for; nothing rather than a few letters. */
function cut(text: string, room: number): string {
  const count = Math.floor(room / (CHARACTER - 0.5));
  if (text.length <= count) return text;
  return count < 5 ? "" : `${text.slice(0, count - 1)}…`;
}

/** Left and right along a lane, up and down to what the next lane does at that time. */
function moveFocus(event: KeyboardEvent, rows: [from: number, SVGGElement][][]): void {
  const y = rows.findIndex((row) => row.some(([, span]) => span === event.target));
  const x = rows[y]?.findIndex(([, span]) => span === event.target) ?? -1;
  if (x < 0) return;
  const [from, current] = rows[y]![x]!;
  const beside = (row: [number, SVGGElement][] | undefined) =>
    row?.findLast(([start]) => start <= from) ?? row?.[0];
  const target = {
    ArrowLeft: rows[y]![x - 1],
    ArrowRight: rows[y]![x + 1],
    ArrowUp: beside(rows[y - 1]),
    ArrowDown: beside(rows[y + 1]),
  }[event.key]?.[1];
  if (event.key.startsWith("Arrow")) event.preventDefault();
  if (!target) return;
  current.setAttribute("tabindex", "-1");
  target.setAttribute("tabindex", "0");
  target.focus();
}

function element<K extends keyof SVGElementTagNameMap>(
  name: K,
  attributes: Record<string, string | number | boolean>,
  text?: string,
): SVGElementTagNameMap[K] {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  if (text !== undefined) made.textContent = text;
  return made;
}
