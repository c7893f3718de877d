/** Follows a session from outside its call: its record and its bot's output, until both are over. */

import { getLog, getSession, isOver, type LogPart, Refused, type Session, type SessionRecord } from "./dispatcher.ts";

export interface Reader {
  record(record: SessionRecord): void;
  /** More lines. */
  log(part: LogPart): void;
  /** A note about the log; empty if there is none. */
  note(words: string): void;
}

const EVERY_MS = 1_000;
const LONGEST_MS = 30_000;
/** Looks after a session's end, for what its bot prints while it goes; its machine may never be told to be gone. */
const LAST_LOOKS = 30;

/** Looks once a second at the most; not while nobody sees the page, and ever more seldom while it goes wrong. */
export class Follower {
  #stopped = false;
  #looking = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #after: string | undefined;
  #failures = 0;
  #left = LAST_LOOKS;
  #hasRecord = false;
  #hasLog = false;

  constructor(
    private readonly session: Session,
    private readonly key: string | undefined,
    private readonly reader: Reader,
  ) {
    document.addEventListener("visibilitychange", this.#onVisibility);
    void this.#look();
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
    document.removeEventListener("visibilitychange", this.#onVisibility);
  }

  readonly #onVisibility = () => {
    clearTimeout(this.#timer);
    // Delayed: quick changes between tabs must not cause as many requests.
    if (!document.hidden && !this.#stopped && !this.#looking) this.#timer = setTimeout(() => void this.#look(), EVERY_MS);
  };

  async #look(): Promise<void> {
    if (document.hidden) return;
    this.#looking = true;
    let wait = EVERY_MS;
    try {
      await Promise.all([this.#hasRecord || this.#lookAtRecord(), this.#hasLog || this.#lookAtLog()]);
      this.#failures = 0;
    } catch (error) {
      this.#failures += 1;
      const asked = error instanceof Refused ? (error.retryAfter ?? 0) * 1000 : 0;
      wait = Math.max(asked, Math.min(LONGEST_MS, EVERY_MS * 2 ** Math.min(this.#failures, 10)));
      if (!this.#stopped) this.reader.note(`The log cannot be read now; trying again in ${Math.round(wait / 1000)} s.`);
    } finally {
      this.#looking = false;
    }
    if (this.#hasRecord) this.#left -= 1;
    if ((this.#hasRecord && this.#hasLog) || this.#left <= 0) this.stop();
    // Spread out, so that not all pages reconnect at once after a restart of the dispatcher.
    if (!this.#stopped && !document.hidden) this.#timer = setTimeout(() => void this.#look(), wait * (1 + Math.random() / 4));
  }

  async #lookAtRecord(): Promise<void> {
    const record = await getSession(this.session).catch((error: unknown) => {
      // Its token has expired, or it is kept no longer: what the page knows of it stands.
      if (error instanceof Refused && error.status < 500 && error.status !== 429) return null;
      throw error;
    });
    if (this.#stopped) return;
    this.#hasRecord = record === null || isOver(record.state);
    if (record !== null) this.reader.record(record);
  }

  async #lookAtLog(): Promise<void> {
    try {
      const part = await getLog(this.session, this.key, this.#after);
      if (this.#stopped) return;
      this.#after = part.next;
      this.#hasLog = part.ended;
      this.reader.note("");
      this.reader.log(part);
    } catch (error) {
      if (this.#stopped) return;
      if (!(error instanceof Refused) || error.status === 429 || error.status === 503) throw error;
      // A session that has no machine yet has no log yet.
      const waits = error.code === "no_log" && !this.#hasRecord;
      this.#hasLog = !waits;
      this.reader.note(waits ? "Nothing is printed yet." : wordsFor(error, this.session));
    }
  }
}

function wordsFor({ status, code, message }: Refused, { sessionId }: Session): string {
  if (status === 401 || status === 403) {
    return (
      "This page may not read the log: that takes a key of scope read or admin. " +
      `Whoever runs the dispatcher reads it with: make logs SESSION=${sessionId}`
    );
  }
  if (code === "no_log") return "There is no log of this session, or none any more.";
  return message;
}
