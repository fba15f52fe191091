/** Plays a recording: forwards at several speeds, step by step, and wherever a slider is put. */
import { make } from "./dom.ts";
import type { Recording } from "./record.ts";
import { draw, format, seek, toFile } from "./timeline.ts";

type Axis = "time" | "order";

/** What nobody would wait for is shown in as many ms. */
const LONGEST = 8000;
const WHOLE = 5000;

/** How long an event is shown when only their order counts, in ms. */
const STEP = 400;

const SPEEDS = { "¼": 0.25, "½": 0.5, "1": 1, "2": 2, "4": 4 };

const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

export class Player {
  readonly #picture: HTMLElement;
  readonly #name: string;
  #axis: Axis;
  #recording: Recording = { lines: [], end: 0 };
  #svg: SVGSVGElement | undefined;
  /** Where on the axis it stands, and where the axis ends. */
  #at = 0;
  #last = 0;
  /** The frame of the animation that comes next, and when the last one was. */
  #frame = 0;
  #before = 0;

  readonly #play = make("button", { type: "button", textContent: "Play", id: "play" });
  readonly #back = make("button", { type: "button", textContent: "Back", id: "back" });
  readonly #next = make("button", { type: "button", textContent: "Next", id: "next" });
  readonly #speed = make(
    "select",
    { id: "speed" },
    ...Object.entries(SPEEDS).map(([text, value]) => new Option(`${text}×`, `${value}`)),
  );
  readonly #axes = make("select", { id: "axis" }, new Option("time"), new Option("order"));
  readonly #slider = make("input", { type: "range", id: "slider", min: "0", step: "any" });
  readonly #time = make("output", { id: "time" });
  readonly #save = make("button", { type: "button", textContent: "Save as SVG", id: "save" });
  readonly #lines = make("ol");

  /** @param name for the file that is saved */
  constructor(picture: HTMLElement, controls: HTMLElement, name: string, axis: Axis) {
    this.#picture = picture;
    this.#name = name;
    this.#axis = axis;
    this.#slider.ariaLabel = "Position";
    this.#time.htmlFor.add("slider");
    this.#axes.value = axis;
    this.#speed.value = "1";
    controls.append(
      make("p", {}, this.#slider, this.#time),
      make(
        "p",
        {},
        this.#play,
        this.#back,
        this.#next,
        make("label", {}, "Speed ", this.#speed),
        make("label", {}, "Drawn by ", this.#axes),
        this.#save,
      ),
      make("details", {}, make("summary", { textContent: "The same as text" }), this.#lines),
    );
    this.#play.onclick = () => (this.#frame ? this.pause() : this.play());
    this.#back.onclick = () => this.#step(-1);
    this.#next.onclick = () => this.#step(1);
    this.#slider.oninput = () => (this.pause(), this.#seek(Number(this.#slider.value)));
    this.#axes.onchange = () => this.#setAxis(this.#axes.value as Axis);
    this.#save.onclick = () => this.#download();
    new ResizeObserver(() => this.#draw()).observe(picture);
    this.#enable();
  }

  /** Shows another recording: its end, or played once unless less motion is wanted. */
  show(recording: Recording, plays: boolean): void {
    this.pause();
    this.#recording = recording;
    this.#lines.replaceChildren(
      ...recording.lines.map(({ lane, state, ms }) =>
        make("li", { textContent: `${format(ms)}: ${lane}: ${state}` }),
      ),
    );
    this.#draw(true);
    this.#seek(this.#last);
    this.#enable();
    if (plays && !reducedMotion.matches && recording.lines.length > 0) this.play();
  }

  /** What there is to say of how fast it is played. */
  get pace(): string {
    if (this.#axis === "order") return "; each is shown as long as any other";
    const isLong = this.#recording.end > LONGEST;
    return isLong ? `; speed 1 plays all of it in ${WHOLE / 1000} s` : "";
  }

  play(): void {
    if (this.#at >= this.#last) this.#seek(0);
    this.#play.textContent = "Pause";
    this.#before = performance.now();
    const advance = (now: number) => {
      const passed = Math.max(0, now - this.#before);
      this.#before = now;
      this.#seek(
        Math.min(this.#last, this.#at + passed * Number(this.#speed.value) * this.#rate()),
      );
      if (this.#at >= this.#last) this.pause();
      else this.#frame = requestAnimationFrame(advance);
    };
    this.#frame = requestAnimationFrame(advance);
  }

  pause(): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#play.textContent = "Play";
  }

  /** How far on the axis a ms goes. */
  #rate(): number {
    if (this.#axis === "order") return 1 / STEP;
    return this.#last > LONGEST ? this.#last / WHOLE : 1;
  }

  #setAxis(axis: Axis): void {
    this.pause();
    this.#axis = axis;
    this.#draw(true);
    this.#seek(this.#last);
  }

  /** Draws it anew if it must be, or the page has another width. */
  #draw(must = false): void {
    const width = Math.floor(this.#picture.clientWidth);
    const { lines, end } = this.#recording;
    this.#last = this.#axis === "order" ? lines.length : end;
    if (lines.length === 0) return this.#picture.replaceChildren();
    if (!must && Number(this.#svg?.getAttribute("width")) === width) return;
    const label = `Timeline of ${lines.length} events. The arrow keys move from one to the next.`;
    this.#svg = draw(lines, end, { width, axis: this.#axis, label });
    this.#slider.max = `${this.#last}`;
    this.#picture.replaceChildren(this.#svg);
    seek(this.#svg, this.#at);
  }

  #seek(at: number): void {
    const { lines, end } = this.#recording;
    this.#at = at;
    if (this.#svg) seek(this.#svg, at);
    const isOrder = this.#axis === "order";
    const count = lines.filter(({ ms }, index) => (isOrder ? index : ms) <= at).length;
    const time = isOrder ? (at < lines.length ? (lines[count - 1]?.ms ?? 0) : end) : at;
    const shown = isOrder ? time : Math.min(end, Math.round(time * 10) / 10);
    const text = `${format(at === this.#last ? end : shown)}, event ${count} of ${lines.length}`;
    this.#slider.value = `${at}`;
    this.#slider.ariaValueText = text;
    this.#time.value = text;
    for (const [index, item] of [...this.#lines.children].entries()) {
      item.classList.toggle("past", index < count);
    }
  }

  /** To the next moment at which something happens, or to the one before. */
  #step(direction: 1 | -1): void {
    this.pause();
    const { lines } = this.#recording;
    const marks = lines.map(({ ms }, index) => (this.#axis === "order" ? index : ms));
    const moments = [0, ...marks, this.#last];
    const target =
      direction === 1
        ? moments.find((moment) => moment > this.#at)
        : moments.findLast((moment) => moment < this.#at);
    if (target !== undefined) this.#seek(target);
  }

  #enable(): void {
    const disabled = this.#recording.lines.length === 0;
    for (const control of [this.#play, this.#back, this.#next, this.#slider, this.#save]) {
      control.disabled = disabled;
    }
    if (disabled) this.#time.value = "nothing recorded";
  }

  #download(): void {
    const url = URL.createObjectURL(new Blob([toFile(this.#svg!)], { type: "image/svg+xml" }));
    make("a", { href: url, download: `${this.#name}.svg` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }
}
