/** A session as its operator sees it: where it is, how it ended, and what its bot prints. */

import { isOver, type LogPart, type Session, type SessionRecord } from "./dispatcher.ts";
import { Follower } from "./follow.ts";
import { logged } from "./harmless.ts";

/** What the page keeps of a log, and of a line: a browser lays out all of it. */
const MAX_LINES = 2_000;
const MAX_LINE = 2_000;
/** A person who has scrolled up further than this is reading: do not scroll. */
const AT_THE_END = 48;
/** Loguru's lines, and the dispatcher's: date, time, level. */
const LEVEL = /^\S+ \S+ (TRACE|DEBUG|INFO|SUCCESS|WARNING|ERROR|CRITICAL)\b/;

export interface SessionElements {
  dialog: HTMLDialogElement;
  close: HTMLButtonElement;
  name: HTMLElement;
  state: HTMLElement;
  agent: HTMLElement;
  message: HTMLElement;
  record: HTMLAnchorElement;
  note: HTMLElement;
  lines: HTMLElement;
  newest: HTMLButtonElement;
}

export class SessionView {
  #follower: Follower | undefined;
  #follows = true;

  constructor(private readonly elements: SessionElements) {
    const { dialog, close, lines, newest } = elements;
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => this.#follower?.stop());
    lines.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    newest.addEventListener("click", () => {
      lines.scrollTop = lines.scrollHeight;
      lines.focus();
    });
  }

  /**
   * @param key The key for the log; the record takes the session's own token.
   * @param linked Whether a link, which sends no key, leads to the record.
   */
  open(session: Session, key: string | undefined, linked: boolean): void {
    const { dialog, name, state, agent, message, record, lines, newest } = this.elements;
    this.#follower?.stop();
    this.#follows = true;
    name.textContent = session.sessionId;
    state.textContent = agent.textContent = "–";
    message.textContent = "";
    record.hidden = !linked;
    record.href = `/sessions/${session.sessionId}`;
    lines.replaceChildren();
    newest.hidden = true;
    delete dialog.dataset.state;
    this.#note("");
    if (!dialog.open) dialog.showModal();
    this.#follower = new Follower(session, key, {
      record: (found) => this.#showRecord(found),
      log: (part) => this.#add(part),
      note: (words) => this.#note(words),
    });
  }

  #showRecord({ state, agent, message, reason }: SessionRecord): void {
    const { elements } = this;
    elements.dialog.dataset.state = state;
    write(elements.state, reason && isOver(state) ? `${state} (${reason})` : state);
    write(elements.agent, agent);
    write(elements.message, message ?? "");
  }

  #add({ lines, skippedBytes, ended }: LogPart): void {
    const { lines: list } = this.elements;
    const more = document.createDocumentFragment();
    if (skippedBytes !== 0) more.append(line(`${bytes(skippedBytes)} not shown here`, "gap"));
    for (const text of lines) more.append(line(logged(text, MAX_LINE)));
    if (ended) {
      const nothing = list.childElementCount + more.childElementCount === 0;
      more.append(line(nothing ? "It printed nothing, and its machine is gone." : "Its machine is gone.", "gap"));
    }
    if (more.childElementCount === 0) return;
    list.append(more);
    while (list.childElementCount > MAX_LINES) list.firstElementChild?.remove();
    if (this.#follows) list.scrollTop = list.scrollHeight;
    else this.elements.newest.hidden = false;
  }

  #onScroll(): void {
    const { lines, newest } = this.elements;
    this.#follows = lines.scrollHeight - lines.scrollTop - lines.clientHeight < AT_THE_END;
    if (this.#follows) newest.hidden = true;
  }

  #note(words: string): void {
    const { note, lines } = this.elements;
    write(note, words);
    note.hidden = words === "";
    // It takes its room from the lines.
    if (this.#follows) lines.scrollTop = lines.scrollHeight;
  }
}

function line(text: string, kind?: string): HTMLElement {
  const made = document.createElement("div");
  // An empty line has the height of one.
  made.textContent = text || "\u200b";
  if (kind) made.className = kind;
  else {
    const level = LEVEL.exec(text)?.[1];
    if (level) made.dataset.level = level;
  }
  return made;
}

function write(target: HTMLElement, text: string): void {
  if (target.textContent !== text) target.textContent = text;
}

function bytes(count: number | null): string {
  if (count === null) return "Earlier lines are";
  return `${count.toLocaleString("en")} ${count === 1 ? "byte is" : "bytes are"}`;
}
