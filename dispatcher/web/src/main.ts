/** Wires the page together: the button, the agents, and the one call that there can be. */

import { TransportStartError } from "@pipecat-ai/client-js";
import { Call, type CallState } from "./call.ts";
import { getAgents } from "./dispatcher.ts";
import { Lanes } from "./lanes.ts";
import { Timeline } from "./timeline.ts";
import { View } from "./view.ts";

const view = new View();
const lanes = new Lanes(view.lanes);
const timeline = new Timeline();
let call: Call | undefined;
let liveSince: number | undefined;
let clock: ReturnType<typeof setInterval> | undefined;
/** Null until the dispatcher has said what it has; `POST /start` then takes its default. */
let agent: string | null = null;

function isRunning(): boolean {
  const phase = call?.state.phase;
  return phase !== undefined && phase !== "ended" && phase !== "failed";
}

function onChange(state: CallState): void {
  if (state.phase === "live" && liveSince === undefined) {
    liveSince = performance.now();
    const since = liveSince;
    clock = setInterval(() => view.showDuration(performance.now() - since), 250);
  }
  if (state.phase === "ended" || state.phase === "failed") {
    clearInterval(clock);
    lanes.stop();
  }
  view.show(state, agent, timeline);
}

function talk(): void {
  timeline.begin();
  liveSince = undefined;
  view.showDuration(undefined);
  const next = new Call(agent, timeline, onChange);
  call = next;
  lanes.start(() => next.levels);
  void next.run();
}

view.call.addEventListener("click", () => (isRunning() ? call?.hangUp() : talk()));
view.mute.addEventListener("click", () => call?.mute(!call.state.muted));
view.agent.addEventListener("change", () => {
  agent = view.agent.value;
  view.show(null, agent, timeline);
});
// A tab that is closed or left ends its call; the request to the dispatcher outlives the page.
addEventListener("pagehide", () => {
  if (isRunning()) call?.hangUp();
});

// Hanging up while the offer is under way makes the transport reject a promise that it has not handed out yet
// (small-webrtc-transport 1.10.8, `_connect`), so nobody can catch it; the call itself has been told by then.
addEventListener("unhandledrejection", (event) => {
  if (event.reason instanceof TransportStartError && !isRunning()) event.preventDefault();
});

view.show(null, agent, timeline);
getAgents().then(
  ({ agents, defaultAgent }) => {
    const names = agents.map(({ name }) => name);
    const wanted = new URLSearchParams(location.search).get("agent");
    agent = names.find((name) => name === wanted) ?? defaultAgent ?? names[0] ?? null;
    view.showAgents(names, agent ?? "");
    if (call === undefined) view.show(null, agent, timeline);
  },
  // Pipecat's development runner has no list; a dispatcher that is down will say so at the click.
  (error: unknown) => console.info("The list of agents is not there", error),
);
