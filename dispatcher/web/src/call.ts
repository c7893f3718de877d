/**
 * One call, from the click to its end.
 *
 * It joins three sources that each know a part: Pipecat's client (signalling, media), the dispatcher's record of
 * the session (why a bot is gone), and the measured audio (who is heard).
 */

import { DeviceError, LogLevel, PipecatClient, type RTVIMessage } from "@pipecat-ai/client-js";
import { SmallWebRTCTransport } from "@pipecat-ai/small-webrtc-transport";
import {
  authorization,
  endSession,
  getSession,
  isOver,
  offerEndpoint,
  type QueuePlace,
  type Session,
  type SessionRecord,
  type SessionState,
} from "./dispatcher.ts";
import type { Conversation } from "./conversation.ts";
import { LevelMeter } from "./levels.ts";
import { Microphone, microphoneIsCertain } from "./microphone.ts";
import type { Timeline } from "./timeline.ts";
import { CONNECTION_LOST, type Trouble, troubleOf, troubleOfSession } from "./trouble.ts";
import { SessionWatch } from "./watch.ts";

/** `queued`: no slot is free; `ending`: the audio is gone and the dispatcher is asked why. */
export type Phase = "microphone" | "starting" | "queued" | "live" | "ending" | "ended" | "failed";

/** True if there is a call, or one is starting. */
export function isBusy(phase: Phase | "idle"): boolean {
  return phase !== "idle" && phase !== "ended" && phase !== "failed";
}

export interface CallState {
  phase: Phase;
  sessionId?: string;
  /** The session's state, as the dispatcher reports it. */
  session?: SessionState;
  /** Its position, while it is `queued`. */
  queue?: QueuePlace;
  bot: boolean;
  you: boolean;
  muted: boolean;
  dispatcherReachable: boolean;
  /** Nothing arrives from the bot; the transport tries to reach it again. */
  interrupted: boolean;
  /** What the bot itself last reported as an error. */
  complaint?: string;
  /** Why it ended, in words; with `failed` see `trouble`. */
  ending?: string;
  trouble?: Trouble;
}

const CONNECTION_INTERVAL_MS = 500;
/** The transport looks for 10 s before it sends a new offer; what is not back after that and as long again is gone. */
const LOST_AFTER_MS = 25_000;
/** Limit on the time until the dispatcher notices that a bot is gone. */
const VERDICT_WITHIN_MS = 5_000;
/** Limit on the time that a client stays connected, silent both ways, after it has hung up, until the dispatcher knows. */
const TOLD_WITHIN_MS = 1_000;

/** A call of which nothing has happened yet. */
export const BEFORE: CallState = {
  phase: "microphone",
  bot: false,
  you: false,
  muted: false,
  dispatcherReachable: true,
  interrupted: false,
};

export class Call {
  state: CallState = BEFORE;
  readonly #transport: SmallWebRTCTransport;
  readonly #client: PipecatClient;
  readonly #microphone = new Microphone();
  readonly #context = new AudioContext();
  readonly #audio = new Audio();
  #session: Session | undefined;
  #watch: SessionWatch | undefined;
  #onAdmitted = () => {};
  #connectionTimer: ReturnType<typeof setInterval> | undefined;
  #lastConnected = 0;
  #botMeter: LevelMeter | undefined;
  #youMeter: LevelMeter | undefined;
  #closed = false;

  /**
   * @param ready Nothing begins before it.
   * @param open Gives the session: a new one, or one that somebody else started.
   * @param conversation What it shows besides its levels.
   */
  constructor(
    private readonly ready: Promise<void>,
    private readonly open: () => Promise<Session>,
    private readonly timeline: Timeline,
    private readonly conversation: Conversation,
    private readonly onChange: (state: CallState) => void,
  ) {
    this.#transport = new SmallWebRTCTransport({ mediaManager: this.#microphone });
    this.#client = new PipecatClient({
      transport: this.#transport,
      callbacks: {
        ...conversation.callbacks,
        onConnected: () => this.#onConnected(),
        onBotReady: () => this.timeline.mark("bot-ready"),
        onTrackStarted: (track, participant) => {
          if (this.#closed) track.stop();
          else if (track.kind !== "audio") conversation.onVideo(track);
          else if (participant?.local) this.#listenToYou(track);
          else this.#listenToBot(track);
        },
        onTrackStopped: (track) => conversation.onTrackStopped(track),
        onUserStartedSpeaking: () => this.#set({ you: true }),
        onUserStoppedSpeaking: () => this.#set({ you: false }),
        onDisconnected: () => void this.#onDisconnected(),
        onError: (message) => this.#onComplaint(message),
      },
    });
    this.#client.setLogLevel(LogLevel.WARN);
  }

  get session(): Session | undefined {
    return this.#session;
  }

  /** 0 to 1, for the meters. */
  get levels(): { bot: number; you: number } {
    return { bot: this.#botMeter?.level ?? 0, you: this.state.muted ? 0 : (this.#youMeter?.level ?? 0) };
  }

  /** Runs the call; all that happens is told through `onChange`. */
  async run(): Promise<void> {
    this.#set({});
    try {
      await this.ready;
      if (this.#closed) return;
      // Opening a microphone can take a second, and a machine's start too. They go side by side, unless the
      // person has yet to be asked or there is none: that should cost no machine.
      const certain = await microphoneIsCertain();
      const microphone = this.#client.initDevices().then(() => this.timeline.mark("microphone"));
      if (!certain) await microphone;
      if (this.#closed) return;
      this.#set({ phase: "starting" });
      const opened = this.open().then((session) => this.#onOpened(session));
      const [session] = await Promise.all([opened, microphone]);
      if (session.queue && !this.#closed) await this.#admission(session.queue);
      if (this.#closed) return;
      await this.#client.connect({
        ...(session.iceConfig && { iceConfig: session.iceConfig }),
        webrtcRequestParams: {
          endpoint: offerEndpoint(session),
          headers: new Headers(authorization(session.sessionToken)),
        },
      });
    } catch (error) {
      if (!this.#closed) await this.#judge(error);
    }
  }

  mute(muted: boolean): void {
    this.#client.enableMic(!muted);
    this.#set(muted ? { muted, you: false } : { muted });
  }

  /** @param leaving The page goes away at once: there is no time to wait for the dispatcher. */
  hangUp(leaving = false): void {
    const ending = this.state.phase === "queued" ? "You gave up your place in the queue." : "You hung up.";
    this.#finish({ phase: "ended", ending }, leaving);
  }

  #onOpened(session: Session): Session {
    if (this.#closed) {
      // Hung up before the dispatcher had answered: end the session that it started.
      void end(session);
      return session;
    }
    this.#session = session;
    this.#set({ sessionId: session.sessionId });
    this.#watch = new SessionWatch(session, {
      event: (event, state) => this.#onEvent(event, state),
      queue: (queue) => this.#set({ queue }),
      over: (record) => this.#finishWith(record),
      reachable: (dispatcherReachable) => this.#set({ dispatcherReachable }),
    });
    return session;
  }

  /** Waits until the session has a slot, or the call is over. */
  async #admission(queue: QueuePlace): Promise<void> {
    if (this.state.session !== undefined && this.state.session !== "queued") return;
    const admitted = new Promise<void>((resolve) => (this.#onAdmitted = resolve));
    this.#set({ phase: "queued", queue: this.state.queue ?? queue });
    await admitted;
    if (!this.#closed) this.#set({ phase: "starting" });
  }

  #onEvent(event: string, session: SessionState): void {
    if (event === "machine-started") this.timeline.mark("started");
    this.#set({ session });
    if (session !== "queued") this.#onAdmitted();
  }

  #onConnected(): void {
    this.timeline.mark("connected");
    this.#lastConnected = performance.now();
    clearInterval(this.#connectionTimer);
    this.#connectionTimer = setInterval(() => this.#lookAtConnection(), CONNECTION_INTERVAL_MS);
    this.#set({ phase: "live" });
  }

  /**
   * A bot that is frozen or out of reach looks like one that listens, and the transport tells nobody while it
   * tries to get it back; so its peer connection, which it keeps to itself, is asked.
   */
  #lookAtConnection(): void {
    if (this.state.phase !== "live") return;
    const connection = Reflect.get(this.#transport, "pc") as RTCPeerConnection | null;
    const state = connection?.iceConnectionState;
    const interrupted = state !== "connected" && state !== "completed";
    if (!interrupted) this.#lastConnected = performance.now();
    if (interrupted !== this.state.interrupted) this.#set({ interrupted });
    if (performance.now() - this.#lastConnected > LOST_AFTER_MS) void this.#judge(undefined);
  }

  #onComplaint(message: RTVIMessage): void {
    const { error, message: text } = message.data as { error?: string; message?: string };
    const complaint = error ?? text;
    console.error("The bot reports an error", message.data);
    if (complaint && this.state.phase === "live") this.#set({ complaint });
  }

  #listenToYou(track: MediaStreamTrack): void {
    this.#youMeter?.close();
    this.#youMeter = new LevelMeter(this.#context, track);
  }

  #listenToBot(track: MediaStreamTrack): void {
    this.#audio.srcObject = new MediaStream([track]);
    this.#audio.play().catch((error: unknown) => console.error("The browser does not play the bot's audio", error));
    this.#botMeter?.close();
    this.#botMeter = new LevelMeter(this.#context, track);
    this.#botMeter.onFirstSound = (at) => {
      this.timeline.mark("first-sound", at);
      this.#set({});
    };
    this.#botMeter.onSpeaking = (bot) => this.#set({ bot });
  }

  async #onDisconnected(): Promise<void> {
    if (!this.#closed) await this.#judge(undefined);
  }

  /** The media path is gone, or never came up: asks the dispatcher why, and ends the call. */
  async #judge(error: unknown): Promise<void> {
    if (this.state.phase === "live") this.#set({ phase: "ending", bot: false, you: false });
    const record = error instanceof DeviceError ? undefined : await this.#verdict();
    if (this.#closed) return;
    if (record && isOver(record.state)) this.#finishWith(record);
    else this.#finish({ phase: "failed", trouble: error === undefined ? this.#lost() : troubleOf(error) });
  }

  #lost(): Trouble {
    const { complaint } = this.state;
    return complaint === undefined ? CONNECTION_LOST : { title: "The bot failed", text: complaint };
  }

  /** The session's record, once it is over; the last one seen if that does not happen in time. */
  async #verdict(): Promise<SessionRecord | undefined> {
    if (!this.#session) return undefined;
    const deadline = performance.now() + VERDICT_WITHIN_MS;
    let record: SessionRecord | undefined;
    do {
      try {
        record = await getSession(this.#session);
      } catch {
        return record; // Unreachable or unknown there: the page has only its own words for it.
      }
      if (isOver(record.state)) return record;
      await new Promise((resolve) => setTimeout(resolve, 250));
    } while (performance.now() < deadline && !this.#closed);
    return record;
  }

  #finishWith(record: SessionRecord): void {
    this.#set({ session: record.state });
    if (record.state === "failed") this.#finish({ phase: "failed", trouble: troubleOfSession(record) });
    else this.#finish({ phase: "ended", ending: record.message || "The bot ended the call." });
  }

  #finish(change: Partial<CallState>, leaving = false): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watch?.stop();
    clearInterval(this.#connectionTimer);
    this.#botMeter?.close();
    this.#youMeter?.close();
    this.#audio.srcObject = null;
    this.conversation.end();
    void this.#context.close();
    this.#onAdmitted();
    const { session } = this.state;
    const told = this.#session && !(session && isOver(session)) ? end(this.#session) : undefined;
    void this.#disconnect(this.state.phase === "live" && !leaving ? told : undefined);
    void this.#microphone.disconnect();
    this.#show({ ...change, bot: false, you: false });
  }

  /** A bot that sees its client go ends the session in its own name; so it sees that once the dispatcher is `told`. */
  async #disconnect(told: Promise<void> | undefined): Promise<void> {
    if (told) await Promise.race([told, new Promise((resolve) => setTimeout(resolve, TOLD_WITHIN_MS))]);
    try {
      await this.#client.disconnect();
    } catch (error) {
      console.error("The client did not disconnect", error);
    }
  }

  /** What still arrives after the call is over changes nothing. */
  #set(change: Partial<CallState>): void {
    if (!this.#closed) this.#show(change);
  }

  #show(change: Partial<CallState>): void {
    this.state = { ...this.state, ...change };
    this.onChange(this.state);
  }
}

function end(session: Session): Promise<void> {
  return endSession(session).catch((error: unknown) => console.error("The session could not be ended", error));
}
