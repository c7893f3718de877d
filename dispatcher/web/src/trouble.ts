/** What went wrong, in words for the person in front of the page. */

import { DeviceError, StartBotError } from "@pipecat-ai/client-js";
import type { SessionRecord } from "./dispatcher.ts";

export interface Trouble {
  title: string;
  text: string;
  /** For whoever runs the bot: the end of its traceback or log. */
  detail?: string;
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

/** Why a call could not be started or kept. */
export function troubleOf(error: unknown): Trouble {
  if (error instanceof DeviceError) {
    return (
      MICROPHONE[error.type] ?? {
        title: "The microphone could not be used",
        text: error.message || "The browser gave no reason.",
      }
    );
  }
  if (error instanceof StartBotError) return troubleOfStart(error.status, error.message);
  if (status(error) !== undefined) {
    return { title: "The bot could not be reached", text: `The dispatcher refused the call (status ${status(error)}).` };
  }
  return { title: "The call could not be connected", text: error instanceof Error ? error.message : String(error) };
}

function troubleOfStart(status: number | undefined, message: string): Trouble {
  // Pipecat's client gives 500 and the browser's own words to a request that got no answer.
  if (/failed to fetch|networkerror|load failed/i.test(message)) return UNREACHABLE;
  switch (status) {
    case 429:
      return { title: "All lines are busy", text: message };
    case 401:
    case 403:
      return { title: "The dispatcher refused this page", text: message };
    case 503:
      return { title: "The dispatcher takes no calls now", text: message };
    default:
      return { title: "The bot could not be started", text: message };
  }
}

function status(error: unknown): number | undefined {
  const value = (error as { status?: unknown } | null)?.status;
  return typeof value === "number" ? value : undefined;
}

/** Why a session failed, in the dispatcher's words. */
export function troubleOfSession(record: SessionRecord): Trouble {
  const trouble: Trouble = {
    title: "The bot failed",
    text: record.message || "It ended without giving a reason.",
  };
  return record.detail ? { ...trouble, detail: record.detail } : trouble;
}
