/** The page's elements, and how they show a state. */

import { type CallState, isBusy, type Phase } from "./call.ts";
import type { Timeline } from "./timeline.ts";
import { NEEDS_KEY, wordsFor } from "./words.ts";

export function element<T extends HTMLElement>(id: string, type: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`index.html has no ${type.name} with id ${id}`);
  return found;
}

/** Writes only what differs, so that a screen reader does not hear the same words again. */
function write(target: HTMLElement, text: string): void {
  if (target.textContent !== text) target.textContent = text;
}

const NOTHING = "–";

/** The call button, where it does not hang up. */
const LABELS: Partial<Record<Phase | "idle", string>> = {
  idle: "Talk",
  queued: "Give up",
  ended: "Talk again",
  failed: "Try again",
};

export class View {
  readonly call = element("call", HTMLButtonElement);
  readonly mute = element("mute", HTMLButtonElement);
  readonly agent = element("agent", HTMLSelectElement);
  readonly otherKey = element("other-key", HTMLButtonElement);
  /** Shows the session; there is something to show once it has a name. */
  readonly session = element("session", HTMLButtonElement);
  readonly metricsToggle = element("metrics-toggle", HTMLButtonElement);
  readonly lanes = { bot: element("lane-bot", HTMLCanvasElement), you: element("lane-you", HTMLCanvasElement) };
  readonly #root = element("page", HTMLElement);
  readonly #title = element("title", HTMLElement);
  readonly #text = element("text", HTMLElement);
  readonly #detail = element("detail", HTMLDetailsElement);
  readonly #detailText = element("detail-text", HTMLElement);
  readonly #announcement = element("announcement", HTMLElement);
  readonly #callLabel = element("call-label", HTMLElement);
  readonly #muteLabel = element("mute-label", HTMLElement);
  readonly #aside = element("aside", HTMLElement);
  readonly #metrics = element("metrics", HTMLElement);
  readonly #keyForm = element("key-form", HTMLFormElement);
  readonly #key = element("key", HTMLInputElement);
  readonly #keyFault = element("key-fault", HTMLElement);
  readonly #controls = element("controls", HTMLElement);
  readonly #figures = element("facts", HTMLElement);
  readonly #facts = {
    started: element("fact-started", HTMLElement),
    connected: element("fact-connected", HTMLElement),
    firstWord: element("fact-first-word", HTMLElement),
    duration: element("fact-duration", HTMLElement),
  };

  showAgents(names: readonly string[], chosen: string): void {
    this.agent.replaceChildren(...names.map((name) => new Option(name, name, name === chosen, name === chosen)));
    element("agent-field", HTMLElement).hidden = names.length < 2;
  }

  /** @param sessionId The session that a link leads to, while no call has one. */
  show(state: CallState | null, agent: string | null, timeline: Timeline, sessionId?: string): void {
    const words = wordsFor(state, agent);
    const { phase } = state ?? { phase: "idle" as const };
    const busy = isBusy(phase);
    this.#showForm(false);
    Object.assign(this.#root.dataset, { phase, busy: String(busy), tone: words.tone });
    Object.assign(this.#root.dataset, { bot: String(state?.bot ?? false), you: String(state?.you ?? false) });
    write(this.#title, words.title);
    write(this.#text, words.text);
    // Changes of the speaker are not announced: a screen reader would talk over people.
    write(this.#announcement, phase === "live" ? liveAnnouncement(state) : `${words.title}. ${words.text}`);
    this.#showDetail(state?.trouble?.detail);
    write(this.#callLabel, LABELS[phase] ?? "Hang up");
    this.mute.disabled = phase !== "live";
    this.mute.setAttribute("aria-pressed", String(state?.muted ?? false));
    write(this.#muteLabel, state?.muted ? "Unmute" : "Mute");
    this.agent.disabled = this.otherKey.disabled = busy;
    this.#showSession(state?.sessionId ?? sessionId);
    write(this.#facts.started, seconds(timeline.since("started")));
    write(this.#facts.connected, seconds(timeline.since("connected")));
    write(this.#facts.firstWord, seconds(timeline.since("first-sound")));
  }

  /** Asks for a key instead of showing the controls, and says what is wrong with the last one. */
  askForKey(fault: string | undefined): void {
    const { title, text } = NEEDS_KEY;
    Object.assign(this.#root.dataset, { phase: "key", busy: "false", tone: "calm" });
    write(this.#title, title);
    write(this.#text, text);
    write(this.#announcement, `${title}. ${text}`);
    write(this.#keyFault, fault ?? "");
    this.#key.setAttribute("aria-invalid", String(fault !== undefined));
    this.#showDetail(undefined);
    this.#showForm(true);
    this.#key.value = "";
    this.#key.focus();
  }

  /** Calls back with each key that a person enters. */
  onKey(enter: (key: string) => void): void {
    this.#keyForm.addEventListener("submit", (event) => {
      event.preventDefault();
      enter(this.#key.value.trim());
    });
  }

  showDuration(milliseconds: number | undefined): void {
    write(this.#facts.duration, milliseconds === undefined ? NOTHING : clock(milliseconds));
  }

  /** Removes the button: the link's session is over. */
  endOfLink(): void {
    this.#controls.hidden = true;
  }

  /** Begins to show what is said; before that there is nothing beside the call. */
  showTranscript(shown: boolean): void {
    element("talk", HTMLElement).hidden = !shown;
    this.#showAside();
  }

  showMetrics(shown: boolean): void {
    this.#metrics.hidden = !shown;
    this.metricsToggle.setAttribute("aria-pressed", String(shown));
    this.#showAside();
  }

  #showAside(): void {
    this.#aside.hidden = this.#metrics.hidden && element("talk", HTMLElement).hidden;
  }

  #showForm(shown: boolean): void {
    this.#keyForm.hidden = !shown;
    this.#controls.hidden = this.#figures.hidden = shown;
  }

  #showDetail(detail: string | undefined): void {
    this.#detail.hidden = detail === undefined;
    if (detail === undefined) this.#detail.open = false;
    write(this.#detailText, detail ?? "");
  }

  #showSession(sessionId: string | undefined): void {
    this.session.hidden = sessionId === undefined;
    if (sessionId === undefined) return;
    this.#root.dataset.session = sessionId;
    write(this.session, `Session ${sessionId.slice(0, 8)}`);
    this.session.title = `State and log of session ${sessionId}`;
  }
}

function liveAnnouncement(state: CallState | null): string {
  if (state?.interrupted) return "Connection interrupted.";
  if (state?.complaint) return `The bot reports: ${state.complaint}`;
  if (state?.dispatcherReachable === false) return "The dispatcher does not answer. The call itself goes on.";
  return state?.muted ? "Connected. You are muted." : "Connected.";
}

function seconds(milliseconds: number | undefined): string {
  return milliseconds === undefined ? NOTHING : `${(milliseconds / 1000).toFixed(2)} s`;
}

function clock(milliseconds: number): string {
  const total = Math.floor(milliseconds / 1000);
  return `${Math.floor(total / 60)}:${String(total % 60).padStart(2, "0")}`;
}
