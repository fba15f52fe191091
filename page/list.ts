/** The list of concepts: each shows a small picture of its own demo, which is run when it is seen. */
import { fetchModules, record } from "./record.ts";
import { draw, format } from "./timeline.ts";

const { worker = "" } = document.body.dataset;
const never = new AbortController().signal;

/** One after the other: workers on all processors would slow down what the visitor does. */
let last: Promise<unknown> = Promise.resolve();

const observer = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      observer.unobserve(target);
      // A picture that can't be made is none: the card says all that is needed.
      last = last.then(() => picture(target as HTMLElement)).catch(() => {});
    }
  },
  { rootMargin: "200px" },
);

for (const card of document.querySelectorAll("[data-concept]")) observer.observe(card);

async function picture(card: HTMLElement): Promise<void> {
  const { concept = "", clock } = card.dataset;
  const isLive = clock === "live";
  const modules = await fetchModules(isLive ? [concept] : [concept, "virtual-time"]);
  const program = {
    modules,
    code: `export { demo } from "./${concept}.js";`,
    clock: isLive ? ("live" as const) : ("virtual" as const),
  };
  const { lines, end } = await record(worker, program, never);
  const box = card.querySelector<HTMLElement>(".picture")!;
  const lanes = new Set(lines.map(({ lane }) => lane)).size;
  const label = `Its demo, recorded: ${lanes} lanes, ${format(end)}`;
  const axis = concept === "interleavings" ? "order" : "time";
  box.replaceChildren(
    draw(lines, end, { width: box.clientWidth, small: box.clientHeight, axis, label }),
  );
}
