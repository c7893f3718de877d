/** The page's elements, and how they show a state. */

import type { CallState } from "./call.ts";
import type { Timeline } from "./timeline.ts";
import { wordsFor } from "./words.ts";

function element<T extends HTMLElement>(id: string, type: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`index.html has no ${type.name} with id ${id}`);
  return found;
}

/** Writes only what differs, so that a screen reader does not hear the same words again. */
function write(target: HTMLElement, text: string): void {
  if (target.textContent !== text) target.textContent = text;
}

const NOTHING = "–";

export class View {
  readonly call = element("call", HTMLButtonElement);
  readonly mute = element("mute", HTMLButtonElement);
  readonly agent = element("agent", HTMLSelectElement);
  readonly lanes = { bot: element("lane-bot", HTMLCanvasElement), you: element("lane-you", HTMLCanvasElement) };
  readonly #root = element("page", HTMLElement);
  readonly #title = element("title", HTMLElement);
  readonly #text = element("text", HTMLElement);
  readonly #detail = element("detail", HTMLDetailsElement);
  readonly #detailText = element("detail-text", HTMLElement);
  readonly #announcement = element("announcement", HTMLElement);
  readonly #callLabel = element("call-label", HTMLElement);
  readonly #muteLabel = element("mute-label", HTMLElement);
  readonly #session = element("session", HTMLAnchorElement);
  readonly #facts = {
    answered: element("fact-answered", HTMLElement),
    connected: element("fact-connected", HTMLElement),
    firstWord: element("fact-first-word", HTMLElement),
    duration: element("fact-duration", HTMLElement),
  };

  showAgents(names: readonly string[], chosen: string): void {
    this.agent.replaceChildren(...names.map((name) => new Option(name, name, name === chosen, name === chosen)));
    element("agent-field", HTMLElement).hidden = names.length < 2;
  }

  show(state: CallState | null, agent: string | null, timeline: Timeline): void {
    const words = wordsFor(state, agent);
    const { phase } = state ?? { phase: "idle" as const };
    const busy = phase === "microphone" || phase === "starting" || phase === "live" || phase === "ending";
    Object.assign(this.#root.dataset, { phase, tone: words.tone, bot: String(state?.bot ?? false), you: String(state?.you ?? false) });
    write(this.#title, words.title);
    write(this.#text, words.text);
    // While people talk, each change of the speaker would talk over them: only what else changes is announced.
    write(this.#announcement, phase === "live" ? liveAnnouncement(state) : `${words.title}. ${words.text}`);
    this.#showDetail(state?.trouble?.detail);
    write(this.#callLabel, busy ? "Hang up" : phase === "failed" ? "Try again" : phase === "ended" ? "Talk again" : "Talk");
    this.mute.disabled = phase !== "live";
    this.mute.setAttribute("aria-pressed", String(state?.muted ?? false));
    write(this.#muteLabel, state?.muted ? "Unmute" : "Mute");
    this.agent.disabled = busy;
    this.#showSession(state?.sessionId);
    write(this.#facts.answered, seconds(timeline.since("started")));
    write(this.#facts.connected, seconds(timeline.since("connected")));
    write(this.#facts.firstWord, seconds(timeline.since("first-sound")));
  }

  showDuration(milliseconds: number | undefined): void {
    write(this.#facts.duration, milliseconds === undefined ? NOTHING : clock(milliseconds));
  }

  #showDetail(detail: string | undefined): void {
    this.#detail.hidden = detail === undefined;
    if (detail === undefined) this.#detail.open = false;
    write(this.#detailText, detail ?? "");
  }

  #showSession(sessionId: string | undefined): void {
    this.#session.hidden = sessionId === undefined;
    if (sessionId === undefined) return;
    this.#root.dataset.session = sessionId;
    this.#session.href = `/sessions/${sessionId}`;
    write(this.#session, `Session ${sessionId.slice(0, 8)}`);
    this.#session.title = `The dispatcher's record of session ${sessionId}`;
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
