/**
 * The fragment of the page's URL, which browsers send to no server.
 *
 *     #key=pk_…                          a public key, with which the page starts sessions
 *     #session=…&token=…[&iceConfig=…]   a session that a backend started: its id, its token, and the
 *                                        `iceConfig` of the answer to its start, as JSON
 *
 * Keys and tokens are kept in memory only. In `sessionStorage` they would outlive a reload, and be there for
 * every page of this origin in this tab: also for those that bots answer with below `/sessions/{id}/`.
 */

import type { Session } from "./dispatcher.ts";

export interface Entry {
  key?: string;
  session?: Session;
  /** The link to a session is incomplete. */
  broken?: boolean;
}

const OURS = ["key", "session", "token", "iceConfig"];

/** Reads the fragment, and takes it out of the address bar and the tab's history. */
export function takeEntry(): Entry {
  const given = new URLSearchParams(location.hash.slice(1));
  if (!OURS.some((name) => given.has(name))) return {};
  history.replaceState(history.state, "", location.pathname + location.search);
  if (given.has("session") || given.has("token")) {
    const session = sessionOf(given);
    return session === undefined ? { broken: true } : { session };
  }
  return { key: given.get("key") ?? "" };
}

function sessionOf(given: URLSearchParams): Session | undefined {
  const sessionId = given.get("session");
  const sessionToken = given.get("token");
  // The id becomes part of paths.
  if (!sessionId || !/^[0-9a-f-]{36}$/.test(sessionId) || !sessionToken) return undefined;
  const session = { sessionId, sessionToken };
  const iceConfig = given.get("iceConfig");
  if (iceConfig === null) return session;
  try {
    return { ...session, iceConfig: JSON.parse(iceConfig) as NonNullable<Session["iceConfig"]> };
  } catch {
    return undefined;
  }
}

/** Returns why a text cannot be a page's key; such a text is never sent. */
export function faultOf(key: string): string | undefined {
  if (key.startsWith("pk_")) return undefined;
  if (key.startsWith("sk_")) {
    return "That is a private key, which does not belong in a browser. A public one begins with pk_.";
  }
  return "A public key begins with pk_.";
}
