/** What the voice page asks of the dispatcher's HTTP API, and how it follows a session. */

export interface SessionRecord {
  sessionId: string;
  agent: string;
  state: "queued" | "starting" | "ready" | "active" | "ended" | "failed";
  reason?: string | null;
  /** One sentence that a person understands. */
  message?: string | null;
  /** The end of a traceback or of the bot's log. */
  detail?: string | null;
}

export interface Agents {
  agents: { name: string; transports: string[] }[];
  defaultAgent: string | null;
}

/** The dispatcher answered, but not with what was asked for. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** The dispatcher did not answer at all. */
export class Unreachable extends Error {}

/** A dispatcher that is there answers these requests within milliseconds. */
const TIMEOUT_MS = 5_000;

export function isOver(record: SessionRecord): boolean {
  return record.state === "ended" || record.state === "failed";
}

export function getAgents(): Promise<Agents> {
  return getJson<Agents>("/v1/agents");
}

export function getSession(sessionId: string): Promise<SessionRecord> {
  return getJson<SessionRecord>(`/sessions/${sessionId}`);
}

/** Ends a session and its machine. The request outlives the page, so that closing a tab leaves no machine behind. */
export async function endSession(sessionId: string): Promise<void> {
  await fetch(`/sessions/${sessionId}`, { method: "DELETE", keepalive: true });
}

/** Where a session of an agent is started; `null` is the default agent. */
export function startEndpoint(agent: string | null): string {
  return agent === null ? "/start" : `/v1/public/${agent}/start`;
}

async function getJson<T>(path: string): Promise<T> {
  let response: Response;
  try {
    response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch (error) {
    throw new Unreachable(String(error));
  }
  if (!response.ok) throw new Refused(response.status, `${path}: ${response.status} ${response.statusText}`);
  try {
    return (await response.json()) as T;
  } catch {
    throw new Refused(response.status, `${path}: the answer is not JSON`);
  }
}

export interface Watcher {
  record(record: SessionRecord): void;
  /** Called when the dispatcher stops answering, and when it answers again. */
  reachable(reachable: boolean): void;
}

/**
 * Follows a session until it is over, by asking.
 *
 * The media path does not say why a bot is gone, or that a machine never came up, and Pipecat's client has no
 * timer of its own: a bot that never joins would look like a page that hangs.
 */
export class SessionWatch {
  #stopped = false;
  #interval: number;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #asking = false;
  #reachable = true;

  constructor(
    readonly sessionId: string,
    intervalMs: number,
    private readonly watcher: Watcher,
  ) {
    this.#interval = intervalMs;
    this.#schedule();
  }

  /** Asks this often from now on. */
  every(intervalMs: number): void {
    this.#interval = intervalMs;
    if (!this.#asking) this.#schedule();
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  #schedule(): void {
    clearTimeout(this.#timer);
    if (!this.#stopped) this.#timer = setTimeout(() => void this.#ask(), this.#interval);
  }

  async #ask(): Promise<void> {
    this.#asking = true;
    try {
      const record = await getSession(this.sessionId);
      if (this.#stopped) return;
      this.#setReachable(true);
      if (isOver(record)) this.stop();
      this.watcher.record(record);
    } catch (error) {
      if (this.#stopped) return;
      if (error instanceof Refused && error.status < 500) {
        // Pipecat's development runner starts bots but keeps no record of sessions: there is nothing to follow.
        console.info(`The session cannot be followed: ${error.message}`);
        this.stop();
      } else {
        this.#setReachable(false);
      }
    } finally {
      this.#asking = false;
      this.#schedule();
    }
  }

  #setReachable(reachable: boolean): void {
    if (reachable === this.#reachable) return;
    this.#reachable = reachable;
    this.watcher.reachable(reachable);
  }
}
