/**
 * The transcript of a call, from RTVI's messages: the last turns of both sides.
 *
 * A screen reader gets final text, once. Text that may still change is hidden from it: the user's words while the
 * recogniser guesses, and the bot's before they are spoken.
 */

import { spoken } from "./harmless.ts";

export type Speaker = "you" | "bot";

const NAMES: Record<Speaker, string> = { you: "You", bot: "Bot" };
const MAX_TURNS = 200;
/** What one message may add, and where a turn goes on as a new one. */
const MAX_TEXT = 2_000;
const MAX_TURN = 4_000;
/** Segments that may still be spoken; an older one is as it was left. */
const MAX_SEGMENTS = 50;
/** A person who has scrolled up further than this is reading: do not scroll. */
const AT_THE_END = 48;

interface Segment {
  said: HTMLElement;
  left: HTMLElement;
}

export class Transcript {
  /** Called when the first words come. */
  onBegin: (() => void) | undefined;
  readonly #turns = document.createElement("ol");
  readonly #segments = new Map<number, Segment>();
  #turn: { who: Speaker; words: HTMLElement } | undefined;
  /** The user's words that are not final yet. */
  #guess: HTMLElement | undefined;

  constructor(private readonly frame: HTMLElement) {
    frame.replaceChildren(this.#turns);
  }

  clear(): void {
    this.#turns.replaceChildren();
    this.#segments.clear();
    this.#turn = this.#guess = undefined;
  }

  /** What the user says; an interim text stands until the next one, or the final one, takes its place. */
  heard(text: unknown, final: boolean): void {
    const words = spoken(text, MAX_TEXT);
    this.#scrolling(() => {
      if (!final && words) {
        this.#guess ??= this.#append("you", "", "guess");
        this.#guess.textContent = words;
        return;
      }
      const guess = this.#guess;
      if (!guess || !(final || !words)) return void (words && this.#append("you", words));
      this.#guess = undefined;
      if (words) guess.replaceWith(element("span", words));
      else this.#remove(guess);
    });
  }

  /** What the bot has said, whole. */
  said(text: unknown): void {
    const words = spoken(text, MAX_TEXT);
    if (words) this.#scrolling(() => void this.#append("bot", words));
  }

  /** A part of what the bot says, how much of it is said, and how much is left. */
  saying(id: number, said: unknown, left: unknown): void {
    const segment = this.#segments.get(id);
    this.#scrolling(() => {
      const { said: saidSo, left: leftOver } = segment ?? this.#segment(id);
      const words = spoken(said, MAX_TEXT);
      if (saidSo.textContent !== words) saidSo.textContent = words;
      leftOver.textContent = spoken(left, MAX_TEXT);
      saidSo.toggleAttribute("hidden", !words);
    });
  }

  /** Keeps unfinished text as it is: nothing more comes. */
  end(): void {
    this.#guess = undefined;
    this.#segments.clear();
  }

  #segment(id: number): Segment {
    const said = this.#append("bot", "");
    const left = element("span", "", "left");
    left.ariaHidden = "true";
    said.after(" ", left);
    const segment = { said, left };
    this.#segments.set(id, segment);
    const [oldest] = this.#segments.keys();
    if (this.#segments.size > MAX_SEGMENTS && oldest !== undefined) this.#segments.delete(oldest);
    return segment;
  }

  #append(who: Speaker, text: string, kind?: string): HTMLElement {
    const { words } = this.#turnOf(who);
    const part = element("span", text, kind);
    if (kind) part.ariaHidden = "true";
    words.append(part, " ");
    return part;
  }

  /** The turn that goes on, or a new one. */
  #turnOf(who: Speaker): { words: HTMLElement } {
    if (this.#turn?.who === who && (this.#turn.words.textContent?.length ?? 0) < MAX_TURN) return this.#turn;
    if (this.#turns.childElementCount === 0) this.onBegin?.();
    const item = element("li");
    const words = element("p");
    // Each turn in the direction of its own first letters, and none beyond its end.
    words.dir = "auto";
    item.dataset.who = who;
    item.append(element("span", NAMES[who], "who"), words);
    this.#turns.append(item);
    while (this.#turns.childElementCount > MAX_TURNS) this.#turns.firstElementChild?.remove();
    this.#turn = { who, words };
    return this.#turn;
  }

  #remove(part: HTMLElement): void {
    const turn = part.closest("li");
    part.remove();
    if (turn?.querySelector("p")?.childElementCount !== 0) return;
    if (this.#turn?.words.closest("li") === turn) this.#turn = undefined;
    turn.remove();
  }

  #scrolling(change: () => void): void {
    const { scrollHeight, scrollTop, clientHeight } = this.frame;
    change();
    if (scrollHeight - scrollTop - clientHeight < AT_THE_END) this.frame.scrollTop = this.frame.scrollHeight;
  }
}

function element(name: string, text = "", kind = ""): HTMLElement {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}
