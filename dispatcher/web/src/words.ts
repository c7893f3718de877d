/** The page's words for the state of a call. */

import type { CallState } from "./call.ts";

export interface Words {
  /** Sets the colours: idle, waiting, in a call, or failed. */
  tone: "calm" | "busy" | "live" | "bad";
  title: string;
  text: string;
}

export const NEEDS_KEY = {
  title: "This page needs a key",
  text: "Whoever runs it can give you a public one. If a link brought you here, open that link again.",
};

/** `state` is null before the first call. */
export function wordsFor(state: CallState | null, agent: string | null): Words {
  const bot = agent ?? "the bot";
  if (state === null) {
    return { tone: "calm", title: `Talk to ${bot}`, text: "Your browser will ask for the microphone." };
  }
  switch (state.phase) {
    case "microphone":
      return { tone: "busy", title: "Opening the microphone", text: "Allow it if your browser asks." };
    case "starting":
      return { tone: "busy", title: "Connecting", text: `A machine of your own starts for ${bot}.` };
    case "queued":
      return { tone: "busy", title: "Waiting in the queue", text: queuedWords(state) };
    case "live":
      return liveWords(state, bot);
    case "ending":
      return { tone: "busy", title: "The call was cut off", text: "Asking the dispatcher why." };
    case "ended":
      return { tone: "calm", title: "Call ended", text: state.ending ?? "" };
    case "failed":
      return { tone: "bad", title: state.trouble?.title ?? "The call failed", text: state.trouble?.text ?? "" };
  }
}

function liveWords(state: CallState, bot: string): Words {
  if (state.interrupted) {
    return { tone: "busy", title: "Connection interrupted", text: `Trying to reach ${bot} again.` };
  }
  const title = state.bot
    ? `${capitalised(bot)} is speaking`
    : state.you
      ? "You are speaking"
      : state.muted
        ? "You are muted"
        : "Listening";
  const words = { tone: "live", title } as const;
  if (state.complaint) return { ...words, text: `The bot reports: ${state.complaint}` };
  if (!state.dispatcherReachable) {
    return { ...words, text: "The dispatcher does not answer. The call itself goes on." };
  }
  if (state.muted) return { ...words, text: `${capitalised(bot)} cannot hear you.` };
  return { ...words, text: state.bot ? "You can interrupt at any time." : "Say something." };
}

/** Estimates are rough, so are the words: to 10 s, and to a minute from 90 s on. */
function queuedWords({ queue, dispatcherReachable }: CallState): string {
  if (!dispatcherReachable) return "The dispatcher does not answer now. Your place is kept.";
  if (queue === undefined) return "";
  const { place, estimatedWaitSeconds: seconds } = queue;
  const where = place === 1 ? "You are next." : `You are number ${place} in the queue.`;
  if (seconds === null) return `${where} The call starts by itself.`;
  const rounded = Math.max(10, Math.round(seconds / 10) * 10);
  const wait = rounded < 90 ? `${rounded} seconds` : rounded < 120 ? "2 minutes" : `${Math.round(seconds / 60)} minutes`;
  return `${where} The wait is about ${wait}; the call starts by itself.`;
}

function capitalised(words: string): string {
  return words.charAt(0).toUpperCase() + words.slice(1);
}
