/** The page of a concept: its demo is recorded, played, and changed. */
import { find, make } from "./dom.ts";
import { Editor } from "./editor.ts";
import "./orders.ts";
import { type Knob, KNOBS, read, write } from "./knobs.ts";
import { Player } from "./player.ts";
import { fetchModules, record, type Recording } from "./record.ts";
import { format } from "./timeline.ts";

const { concept = "", worker = "", needs = "", clock } = document.body.dataset;
const isLive = clock === "live";
const how = !isLive
  ? "on a virtual clock"
  : concept === "virtual-time"
    ? "live, on a virtual clock of its own"
    : "live, in real time";
const area = find<HTMLTextAreaElement>("#code");
const status = find("#status");
const error = find("#error");
const original = area.value;

/** Code comes along in the fragment, which browsers keep to themselves. */
const CODE = "#code=";

/** What came with a link runs only when the visitor says so. */
let isForeign = false;

const editor = new Editor(area, () => void run("play"));
const player = new Player(
  find("#picture"),
  find("#controls"),
  concept,
  // All of it happens at once: only the order says anything.
  concept === "interleavings" ? "order" : "time",
);

let running = new AbortController();

async function run(then: "play" | "show"): Promise<void> {
  running.abort();
  const { signal } = (running = new AbortController());
  const code = editor.text;
  isForeign = false;
  remember(code);
  status.textContent = "Running …";
  try {
    const modules = await fetchModules(needs.split(" "));
    const recording = await record(
      worker,
      { modules, code, clock: isLive ? "live" : "virtual" },
      signal,
    );
    player.show(recording, then === "play");
    tell(recording);
  } catch (reason) {
    if (signal.aborted) return;
    status.textContent = "";
    error.textContent = `${reason}`;
  }
}

/** Says how it went, and where in the code it failed. */
function tell({ lines, end, failed }: Recording): void {
  const what = failed ? "it failed after" : "it took";
  const { pace } = player;
  status.textContent = `Recorded ${how}: ${what} ${format(end)}, with ${lines.length} events${pace}.`;
  error.replaceChildren();
  if (!failed) return;
  const { name, message, line, column } = failed;
  error.append(name ? `${name}: ${message}` : message);
  // The stack came to browsers together with the syntax.
  if (name === "SyntaxError" && find("#using") && !("DisposableStack" in globalThis)) {
    error.append(" (this browser doesn't know using)");
  }
  if (line === undefined) return;
  const where = make("button", { type: "button", textContent: `line ${line}, column ${column}` });
  where.onclick = () => editor.select(line);
  error.append(" at ", where);
}

/** Puts code that is not the demo's own into the address. */
function remember(code: string): void {
  const { pathname, search, hash } = location;
  const own = CODE + encodeURIComponent(code);
  if (code !== original) history.replaceState(null, "", own);
  else if (hash.startsWith(CODE)) history.replaceState(null, "", pathname + search);
}

/** Takes code out of the address, if there is some, and runs nothing. */
function recall(): boolean {
  if (!location.hash.startsWith(CODE)) return false;
  let code: string;
  try {
    code = decodeURIComponent(location.hash.slice(CODE.length));
  } catch {
    return false;
  }
  if (code === editor.text) return isForeign;
  running.abort();
  isForeign = true;
  area.value = code;
  turnKnobs();
  error.replaceChildren();
  player.show({ lines: [], end: 0 }, false);
  status.textContent = "This code came with the link. It has not run: press Run if you trust it.";
  return true;
}

const knobs = (KNOBS[concept] ?? []).map(
  (knob, index): [Knob, HTMLInputElement, HTMLOutputElement] => {
    const { min, max, step = 1 } = knob;
    const id = `knob-${index}`;
    const properties = { type: "range", id, min: `${min}`, max: `${max}`, step: `${step}` };
    const input = make("input", properties);
    const output = make("output");
    output.htmlFor.add(id);
    input.oninput = () => {
      for (const edit of write(knob, editor.text, input.valueAsNumber)) editor.replace(...edit);
      turnKnobs();
      if (!isForeign) void run("show");
    };
    find("#knobs").children[index]!.append(input, output);
    return [knob, input, output];
  },
);

/** Lets the knobs say what the code says. One whose place is gone can't be turned. */
function turnKnobs(): void {
  for (const [knob, input, output] of knobs) {
    const value = read(knob, editor.text);
    input.disabled = value === undefined;
    output.value = value === undefined ? "edited away" : `${value}`;
    if (value !== undefined) input.value = `${value}`;
  }
}

area.oninput = turnKnobs;
find("#run").onclick = () => void run("play");
find("#reset").onclick = () => {
  editor.text = original;
  turnKnobs();
  void run("play");
};
find("#share").onclick = async () => {
  const url = new URL(CODE + encodeURIComponent(editor.text), location.href);
  history.replaceState(null, "", url);
  try {
    await navigator.clipboard.writeText(url.href);
    status.textContent = "The link is copied. The code is in it, and nowhere else.";
  } catch {
    status.textContent = "The link is in the address bar. The code is in it, and nowhere else.";
  }
};
window.onhashchange = recall;

for (const button of document.querySelectorAll<HTMLButtonElement>("[data-copy]")) {
  button.onclick = async () => {
    try {
      await navigator.clipboard.writeText(button.dataset["copy"]!);
      button.textContent = "Copied";
    } catch {
      // Without HTTPS browsers don't let pages write: it is selected, and Ctrl+C copies it.
      getSelection()?.selectAllChildren(button.previousElementSibling!);
    }
  };
}

turnKnobs();
if (!recall()) void run("play");
