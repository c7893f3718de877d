/** Errors in words for the person in front of the page. */

import { DeviceError } from "@pipecat-ai/client-js";
import { Refused, type SessionRecord, Unreachable } from "./dispatcher.ts";

export interface Trouble {
  title: string;
  text: string;
  /** For the bot's operator: the end of its traceback or log. */
  detail?: string;
  /** The dispatcher does not take the page's key, or asks for one. */
  needsKey?: boolean;
}

const MICROPHONE: Record<string, Trouble> = {
  permissions: {
    title: "The microphone is blocked",
    text: "Allow this page to use the microphone in the browser's address bar, then try again.",
  },
  "not-found": {
    title: "No microphone found",
    text: "Connect a microphone or a headset, then try again.",
  },
  "in-use": {
    title: "The microphone is busy",
    text: "Another application holds it, or it could not be opened. Close that application, then try again.",
  },
  "undefined-mediadevices": {
    title: "The browser offers no microphone here",
    text: "Browsers give microphones only to pages on https or on localhost.",
  },
};

const UNREACHABLE: Trouble = {
  title: "The dispatcher does not answer",
  text: "Check that it is running, then try again.",
};

export const CONNECTION_LOST: Trouble = {
  title: "The connection was lost",
  text: "The audio to and from the bot stopped, and could not be restored.",
};

/** Returns why a call could not be started or kept. */
export function troubleOf(error: unknown): Trouble {
  if (error instanceof DeviceError) {
    return (
      MICROPHONE[error.type] ?? {
        title: "The microphone could not be used",
        text: error.message || "The browser gave no reason.",
      }
    );
  }
  if (error instanceof Unreachable) return UNREACHABLE;
  if (error instanceof Refused) return troubleOfStart(error);
  if (status(error) !== undefined) {
    return { title: "The bot could not be reached", text: `The dispatcher refused the call (status ${status(error)}).` };
  }
  return { title: "The call could not be connected", text: error instanceof Error ? error.message : String(error) };
}

/** The link to a session is incomplete. */
export const BROKEN_LINK: Trouble = {
  title: "This link is not complete",
  text: "Open it again from where you got it.",
};

/** The dispatcher does not know the session of a link, or no longer has it. */
export const STALE_LINK: Trouble = {
  title: "This link is not good any more",
  text: "It was for one call. Go back to where you got it, and start again from there.",
};

/** Returns why the session of a link cannot be read. */
export function troubleOfLink(error: unknown): Trouble {
  return error instanceof Refused && (error.status === 401 || error.status === 404) ? STALE_LINK : troubleOf(error);
}

function troubleOfStart({ status, code, message, retryAfter }: Refused): Trouble {
  switch (status) {
    case 429:
      return code === "429"
        ? { title: "Too many calls at once", text: `Please try again ${inWords(retryAfter)}.` }
        : { title: "All agents are busy", text: "The queue is full. Please try again in a few minutes." };
    case 401:
      return {
        title: "This page needs a key",
        text: code === "key_expired" ? "The key of this page has expired." : "The key of this page is not good here.",
        needsKey: true,
      };
    case 403:
      return { title: "This page may not start this call", text: message };
    case 503:
      return { title: "The dispatcher takes no calls now", text: message };
    default:
      return { title: "The bot could not be started", text: message };
  }
}

function inWords(seconds: number | undefined): string {
  if (seconds === undefined) return "in a moment";
  return seconds === 1 ? "in a second" : seconds < 90 ? `in ${seconds} seconds` : `in ${Math.ceil(seconds / 60)} minutes`;
}

function status(error: unknown): number | undefined {
  const value = (error as { status?: unknown } | null)?.status;
  return typeof value === "number" ? value : undefined;
}

const NO_MACHINE = "No machine is free now";

/** Reason → title; all others are failures of the bot. */
const TITLES: Record<string, string> = {
  queue_timeout: "The wait was too long",
  out_of_memory: "The bot ran out of memory",
  machine_stopped: "The bot's machine was stopped",
  no_capacity: NO_MACHINE,
  quota_reached: NO_MACHINE,
  throttled: NO_MACHINE,
  unreachable: NO_MACHINE,
  rejected: "No machine could be started",
  internal_error: "No machine could be started",
  room_throttled: "No room is free now",
  room_unreachable: "No room is free now",
  room_rejected: "No room could be opened",
};

/** Returns why a session failed, in the dispatcher's words. */
export function troubleOfSession(record: SessionRecord): Trouble {
  const trouble: Trouble = {
    title: TITLES[record.reason ?? ""] ?? "The bot failed",
    text: record.message || "It ended without giving a reason.",
  };
  return record.detail ? { ...trouble, detail: record.detail } : trouble;
}
