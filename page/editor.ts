/** A plain text area as an editor of code: the Tab key indents, and undo takes back every change. */
export class Editor {
  readonly #area: HTMLTextAreaElement;
  /** Escape has been pressed: Tab leaves, as it does everywhere else. */
  #leaves = false;

  constructor(area: HTMLTextAreaElement, run: () => void) {
    this.#area = area;
    area.addEventListener("keydown", (event) => {
      const { key } = event;
      if (key === "Tab" && !this.#leaves && !event.altKey && !event.ctrlKey && !event.metaKey) {
        event.preventDefault();
        this.#indent(event.shiftKey);
      } else if (key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        run();
      }
      if (key !== "Shift") this.#leaves = key === "Escape";
    });
    area.addEventListener("blur", () => (this.#leaves = false));
  }

  get text(): string {
    return this.#area.value;
  }

  set text(text: string) {
    this.replace(0, this.text.length, text);
  }

  /** Replaces a part of the text, as if it was typed. The focus stays where it is. */
  replace(from: number, to: number, text: string): void {
    const area = this.#area;
    if (area.value.slice(from, to) === text) return;
    const focused = document.activeElement as HTMLElement | null;
    const { scrollTop } = area;
    area.focus({ preventScroll: true });
    area.setSelectionRange(from, to);
    // Nothing else has a place in the browser's own list of what can be undone.
    if (!document.execCommand("insertText", false, text)) area.setRangeText(text, from, to, "end");
    if (focused !== area) focused?.focus({ preventScroll: true });
    area.scrollTop = scrollTop;
  }

  /** Selects a line, counted from 1, and shows it. */
  select(line: number): void {
    const lines = this.text.split("\n");
    const from = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
    this.#area.focus();
    this.#area.setSelectionRange(from, from + (lines[line - 1] ?? "").length);
  }

  /** Two spaces where the caret is, or before each line that is selected. */
  #indent(isBack: boolean): void {
    const { value, selectionStart: start, selectionEnd: end } = this.#area;
    if (!isBack && start === end) return this.replace(start, end, "  ");
    const from = value.lastIndexOf("\n", start - 1) + 1;
    const old = value.slice(from, end);
    const text = isBack ? old.replace(/^ {1,2}/gm, "") : old.replace(/^(?=.)/gm, "  ");
    this.replace(from, end, text);
    const moved = isBack ? Math.min(2, /^ */.exec(old)![0].length) : -2;
    const at = start === end ? Math.max(from, start - moved) : from;
    this.#area.setSelectionRange(at, start === end ? at : from + text.length);
  }
}
