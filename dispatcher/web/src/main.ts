/** Wires the page: its link, the button, the agents, and the one call at a time. */

import { TransportStartError } from "@pipecat-ai/client-js";
import { BEFORE, Call, type CallState, isBusy } from "./call.ts";
import { type Agent, getAgents, getSession, isOver, Refused, type Session, startSession } from "./dispatcher.ts";
import { Conversation } from "./conversation.ts";
import { faultOf, takeEntry } from "./entry.ts";
import { Lanes } from "./lanes.ts";
import { Metrics } from "./metrics.ts";
import { Picture } from "./picture.ts";
import { SessionView } from "./session-view.ts";
import { Timeline } from "./timeline.ts";
import { Transcript } from "./transcript.ts";
import { BROKEN_LINK, STALE_LINK, troubleOf, troubleOfLink } from "./trouble.ts";
import { element, View } from "./view.ts";

const view = new View();
const lanes = new Lanes(view.lanes);
const timeline = new Timeline();
const transcript = new Transcript(element("transcript", HTMLElement));
const metrics = new Metrics(element("metrics-rows", HTMLTableSectionElement), element("metrics-empty", HTMLElement));
const picture = new Picture(
  element("picture", HTMLElement),
  element("picture-video", HTMLVideoElement),
  element("picture-enlarge", HTMLButtonElement),
);
const sessionView = new SessionView({
  dialog: element("session-view", HTMLDialogElement),
  close: element("session-close", HTMLButtonElement),
  name: element("session-name", HTMLElement),
  state: element("session-state", HTMLElement),
  agent: element("session-agent", HTMLElement),
  message: element("session-message", HTMLElement),
  record: element("session-record", HTMLAnchorElement),
  note: element("log-note", HTMLElement),
  lines: element("log-lines", HTMLElement),
  newest: element("log-newest", HTMLButtonElement),
});
/** In the tab's storage: whether the metrics are shown. */
const METRICS = "switchboard:metrics";
const entry = takeEntry();
let call: Call | undefined;
let liveSince: number | undefined;
let clock: ReturnType<typeof setInterval> | undefined;
let key: string | undefined;
let agents: readonly Agent[] = [];
/** Null until the dispatcher has said what it has; `POST /start` then takes its default. */
let agent: Agent | null = null;
/** Settled once the dispatcher has said so, or will not: a click before that must not talk to another agent. */
let entered: Promise<void> = Promise.resolve();
/** Name of the agent that the page talks to, if known. */
let name: string | null = null;
/** True if the dispatcher shows a session's record to a link, which sends no key. */
let linksRecords = entry.session === undefined;

function isRunning(): boolean {
  return call !== undefined && isBusy(call.state.phase);
}

function onChange(state: CallState): void {
  if (state.phase === "live" && liveSince === undefined) {
    liveSince = performance.now();
    const since = liveSince;
    clock = setInterval(() => view.showDuration(performance.now() - since), 250);
  }
  if (!isBusy(state.phase)) {
    clearInterval(clock);
    lanes.stop();
  }
  const refused = state.trouble?.needsKey ?? false;
  view.show(refused && entry.session ? { ...state, trouble: STALE_LINK } : state, name, timeline);
  if (!entry.session) {
    if (refused) askForKey(state.trouble?.text);
  } else if (!isBusy(state.phase) && (refused || state.sessionId)) {
    // A link is valid for one call: an ended session cannot restart.
    view.endOfLink();
  }
}

async function open(): Promise<Session> {
  if (!entry.session) return startSession(agent, key);
  const { queue } = await getSession(entry.session);
  return { ...entry.session, queue: queue ?? null };
}

function talk(): void {
  timeline.begin();
  liveSince = undefined;
  view.showDuration(undefined);
  view.showTranscript(false);
  const next = new Call(entered, open, timeline, new Conversation(transcript, metrics, picture), onChange);
  call = next;
  lanes.start(() => next.levels);
  void next.run();
}

/** Shows, before a click, why a link leads to no call. */
function closeLink(why: Pick<CallState, "phase"> & Partial<CallState>): void {
  view.show({ ...BEFORE, ...why }, name, timeline);
  view.endOfLink();
}

function askForKey(fault?: string): void {
  key = undefined;
  view.otherKey.hidden = true;
  view.askForKey(fault);
}

/** Gets the agents, with a key if there is one; asks for a key where that one, or none, will not do. */
async function enter(given?: string): Promise<void> {
  const fault = given === undefined ? undefined : faultOf(given);
  if (fault !== undefined) return askForKey(fault);
  key = given;
  try {
    const found = await getAgents(given);
    showAgents(found.agents, found.defaultAgent);
  } catch (error) {
    const trouble = troubleOf(error);
    if (given !== undefined) askForKey(trouble.text);
    else if (error instanceof Refused && error.status === 401) askForKey();
    // Pipecat's development runner has no list; a dispatcher that is down will say so at the click.
    else console.info("The list of agents is not there", error);
  }
}

function showAgents(found: readonly Agent[], standard: string | null): void {
  agents = found;
  const wanted = new URLSearchParams(location.search).get("agent");
  const named = (wish: string | null) => agents.find((one) => one.name === wish);
  agent = named(wanted) ?? named(standard) ?? agents[0] ?? null;
  name = agent?.name ?? null;
  view.showAgents(agents.map((one) => one.name), name ?? "");
  view.otherKey.hidden = key === undefined;
  linksRecords = key === undefined;
  if (call === undefined || (key !== undefined && !isRunning())) view.show(null, name, timeline);
}

/** Looks at the session of a link before anybody clicks: it may be over. */
async function look(session: Session): Promise<void> {
  try {
    const record = await getSession(session);
    name = record.agent;
    if (isRunning()) return;
    if (isOver(record.state)) closeLink({ phase: "ended", ending: record.message ?? "", sessionId: session.sessionId });
    else view.show(null, name, timeline, session.sessionId);
  } catch (error) {
    if (!isRunning()) closeLink({ phase: "failed", trouble: troubleOfLink(error) });
  }
}

/** Ignores a browser that refuses its storage: only this setting is lost. */
function remember(shown: boolean): void {
  try {
    sessionStorage.setItem(METRICS, String(shown));
  } catch (error) {
    console.info("The browser remembers nothing for this tab", error);
  }
}

function remembered(): boolean {
  try {
    return sessionStorage.getItem(METRICS) === "true";
  } catch {
    return false;
  }
}

view.call.addEventListener("click", () => (isRunning() ? call?.hangUp() : talk()));
view.mute.addEventListener("click", () => call?.mute(!call.state.muted));
view.agent.addEventListener("change", () => {
  agent = agents.find((one) => one.name === view.agent.value) ?? null;
  name = view.agent.value;
  view.show(null, name, timeline);
});
view.otherKey.addEventListener("click", () => askForKey());
view.session.addEventListener("click", () => {
  const session = call?.session ?? entry.session;
  if (session) sessionView.open(session, key, linksRecords);
});
view.metricsToggle.addEventListener("click", () => {
  const shown = view.metricsToggle.ariaPressed !== "true";
  view.showMetrics(shown);
  remember(shown);
});
transcript.onBegin = () => view.showTranscript(true);
view.onKey((given) => {
  entered = enter(given);
});
// A tab that is closed or left ends its call; the request to the dispatcher outlives the page.
addEventListener("pagehide", () => {
  if (isRunning()) call?.hangUp(true);
});
// Another link, opened in this tab: browsers do not load a page anew for another fragment.
addEventListener("hashchange", () => location.reload());

// Hanging up while the offer is under way makes the transport reject a promise that it has not handed out yet
// (small-webrtc-transport 1.10.8, `_connect`), so nobody can catch it; the call itself has been told by then.
addEventListener("unhandledrejection", (event) => {
  if (event.reason instanceof TransportStartError && !isRunning()) event.preventDefault();
});

view.showMetrics(remembered());
view.show(null, name, timeline);
if (entry.broken) closeLink({ phase: "failed", trouble: BROKEN_LINK });
else if (entry.session) void look(entry.session);
else entered = enter(entry.key);
