/** Follows a session: the dispatcher's stream of its events, reopened whenever it breaks. */

import {
  getSession,
  isOver,
  openEvents,
  type QueuePlace,
  Refused,
  type Session,
  type SessionRecord,
  type SessionState,
  TIMEOUT_MS,
} from "./dispatcher.ts";

export interface Watcher {
  /** Something happened: one of the timeline's events, and the session's state right after it. */
  event(event: string, state: SessionState): void;
  /** The session is queued, at this position. */
  queue(place: QueuePlace): void;
  /** The session is over; nothing follows. */
  over(record: SessionRecord): void;
  /** Called when the dispatcher stops answering, and when it answers again. */
  reachable(reachable: boolean): void;
}

/** Longest silence of a stream: two of the comments that the dispatcher sends every 15 s are missing. */
const SILENCE_MS = 35_000;
const AGAIN_MS = 1_000;

/**
 * Follows a session until it is over.
 *
 * The media path does not say why a bot is gone, or that a machine never came up, and Pipecat's client has no
 * timer of its own: a bot that never joins would look like a page that hangs.
 */
export class SessionWatch {
  #stopped = false;
  #connection: AbortController | undefined;
  /** The last event that was dealt with. */
  #last = 0;
  #reachable = true;

  constructor(
    private readonly session: Session,
    private readonly watcher: Watcher,
  ) {
    void this.#follow();
  }

  stop(): void {
    this.#stopped = true;
    this.#connection?.abort();
  }

  async #follow(): Promise<void> {
    while (!this.#stopped) {
      try {
        await this.#read();
      } catch (error) {
        if (this.#stopped) return;
        if (error instanceof Refused && error.status < 500) {
          // Pipecat's development runner starts bots but keeps no record of sessions: there is nothing to follow.
          console.info(`The session cannot be followed: ${error.message}`);
          return;
        }
        this.#setReachable(false);
      }
      // Spread out, so that not all pages reconnect at once after a restart of the dispatcher.
      const pause = AGAIN_MS * (0.5 + Math.random());
      if (!this.#stopped) await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }

  /** Reads one connection's events to its end. A connection that only breaks is no error: the next try will tell. */
  async #read(): Promise<void> {
    const connection = new AbortController();
    this.#connection = connection;
    let timer = setTimeout(() => connection.abort(), TIMEOUT_MS);
    try {
      const answer = await openEvents(this.session, this.#last, connection.signal);
      this.#setReachable(true);
      if (answer.status === 204 || answer.body === null) return await this.#end();
      const reader = answer.body.getReader();
      const decoder = new TextDecoder();
      let text = "";
      for (;;) {
        clearTimeout(timer);
        timer = setTimeout(() => connection.abort(), SILENCE_MS);
        const { done, value } = await reader.read().catch(() => ({ done: true, value: undefined }));
        if (done || this.#stopped) return;
        text += decoder.decode(value, { stream: true });
        const frames = text.split("\n\n");
        text = frames.pop() ?? "";
        for (const frame of frames) await this.#onFrame(frame);
      }
    } finally {
      clearTimeout(timer);
      connection.abort();
    }
  }

  async #onFrame(frame: string): Promise<void> {
    const field = (name: string) => frame.match(new RegExp(`^${name}: (.*)$`, "m"))?.[1];
    const data = field("data");
    if (data === undefined || this.#stopped) return; // A comment, that breaks a silence.
    if (field("event") === "queue") {
      this.watcher.queue(JSON.parse(data) as QueuePlace);
      return;
    }
    const { id, event, state } = JSON.parse(data) as { id: number; event: string; state: SessionState };
    if (isOver(state)) return await this.#end();
    this.watcher.event(event, state);
    this.#last = id;
  }

  /** An event does not say all that a person may want to know of an end; the record does. */
  async #end(): Promise<void> {
    const record = await getSession(this.session);
    if (this.#stopped) return;
    this.stop();
    this.watcher.over(record);
  }

  #setReachable(reachable: boolean): void {
    if (reachable === this.#reachable) return;
    this.#reachable = reachable;
    this.watcher.reachable(reachable);
  }
}
