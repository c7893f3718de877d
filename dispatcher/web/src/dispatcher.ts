/** Client of the dispatcher's HTTP API, as far as the voice page uses it. */

export type SessionState = "queued" | "starting" | "ready" | "active" | "ended" | "failed";

/** Position of a queued session. */
export interface QueuePlace {
  /** 1 is next. */
  place: number;
  /** Null before the agent's first session has ended. */
  estimatedWaitSeconds: number | null;
}

/** A session, and what its client needs to join it. */
export interface Session {
  sessionId: string;
  /** Valid for this session alone. Pipecat's development runner has none. */
  sessionToken?: string;
  iceConfig?: { iceServers: RTCIceServer[] };
  queue?: QueuePlace | null;
}

export interface SessionRecord {
  sessionId: string;
  agent: string;
  state: SessionState;
  reason?: string | null;
  /** One sentence that a person understands. */
  message?: string | null;
  /** The end of a traceback or of the bot's log. */
  detail?: string | null;
  queue?: QueuePlace | null;
}

export interface Agent {
  name: string;
  transports: string[];
  /** Longest wait in the queue that a caller may ask for, in seconds. */
  maxQueueSeconds: number;
}

export interface Agents {
  agents: Agent[];
  defaultAgent: string | null;
}

/** Lines of what a session's bot printed. */
export interface LogPart {
  lines: string[];
  /** `after` of the next request. */
  next: string;
  /** Bytes missing before these lines; null if they are not counted. */
  skippedBytes: number | null;
  /** True if the machine is gone: no line will follow. */
  ended: boolean;
}

/** The dispatcher answered with an error. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
    /** The dispatcher's own code, more specific than the status. */
    readonly code?: string,
    /** Seconds. */
    readonly retryAfter?: number,
  ) {
    super(message);
  }
}

/** The dispatcher did not answer at all. */
export class Unreachable extends Error {}

/** Limit on these requests; a running dispatcher answers within milliseconds. */
export const TIMEOUT_MS = 5_000;

/** Longest wait in the queue of a visitor, in seconds; the limit of the agent may be less. */
const QUEUE_SECONDS = 300;

export function isOver(state: SessionState): boolean {
  return state === "ended" || state === "failed";
}

export function authorization(secret: string | undefined): Record<string, string> {
  return secret === undefined ? {} : { Authorization: `Bearer ${secret}` };
}

export function getAgents(key: string | undefined): Promise<Agents> {
  return getJson<Agents>("/v1/agents", key);
}

export function getSession(session: Session): Promise<SessionRecord> {
  return getJson<SessionRecord>(`/sessions/${session.sessionId}`, session.sessionToken);
}

/** Returns the bot's last 1,000 lines after `after`. A session's token does not allow it. */
export function getLog({ sessionId }: Session, key: string | undefined, after: string | undefined): Promise<LogPart> {
  const from = after === undefined ? "" : `&after=${after}`;
  return getJson<LogPart>(`/v1/sessions/${sessionId}/logs?tail=1000${from}`, key);
}

/**
 * Starts a session without waiting for its machine; its events report the rest.
 *
 * Replaces the client's own `startBot`, whose error lacks the answer's code and its `Retry-After`.
 *
 * @param agent Null for the default agent of a dispatcher that has not said which agents it has.
 */
export async function startSession(agent: Agent | null, key: string | undefined): Promise<Session> {
  const path = agent === null ? "/start" : `/v1/public/${agent.name}/start`;
  const queue = agent === null ? 0 : Math.min(QUEUE_SECONDS, agent.maxQueueSeconds);
  const answer = await ask(`${path}?wait=none&queue=${queue}`, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...authorization(key) },
    body: JSON.stringify({ transport: "webrtc", enableDefaultIceServers: true, body: {} }),
  });
  return (await answer.json()) as Session;
}

/** Ends a session and its machine. The request outlives the page, so that closing a tab leaves no machine behind. */
export async function endSession({ sessionId, sessionToken }: Session): Promise<void> {
  await ask(`/sessions/${sessionId}`, { method: "DELETE", keepalive: true, headers: authorization(sessionToken) });
}

export function offerEndpoint({ sessionId }: Session): string {
  return `/sessions/${sessionId}/api/offer`;
}

/** The stream of a session's events after one of them; status 204 if none will ever follow. */
export function openEvents({ sessionId, sessionToken }: Session, after: number, signal: AbortSignal): Promise<Response> {
  // Not an EventSource: it cannot send headers, and proxies log a token in a URL.
  const headers = { Accept: "text/event-stream", ...authorization(sessionToken) };
  return ask(`/v1/sessions/${sessionId}/events?after=${after}`, { headers, signal, cache: "no-store" });
}

async function getJson<T>(path: string, secret: string | undefined): Promise<T> {
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  const answer = await ask(path, { cache: "no-store", signal, headers: authorization(secret) });
  try {
    return (await answer.json()) as T;
  } catch {
    throw new Refused(answer.status, `${path}: the answer is not JSON`);
  }
}

/** @throws Unreachable without an answer, Refused for one that is an error. */
async function ask(path: string, request: RequestInit): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(path, request);
  } catch (error) {
    throw new Unreachable(String(error));
  }
  if (answer.ok) return answer;
  const problem = (await answer.json().catch(() => ({}))) as { detail?: unknown; code?: unknown };
  const retryAfter = Number.parseInt(answer.headers.get("Retry-After") ?? "", 10);
  throw new Refused(
    answer.status,
    typeof problem.detail === "string" ? problem.detail : `${answer.status} ${answer.statusText}`,
    typeof problem.code === "string" ? problem.code : undefined,
    Number.isNaN(retryAfter) ? undefined : retryAfter,
  );
}
