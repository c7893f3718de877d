/** A call's transcript, picture and metrics. */

import type { BotOutputData, RTVIEventCallbacks } from "@pipecat-ai/client-js";
import type { Metrics } from "./metrics.ts";
import type { Picture } from "./picture.ts";
import type { Transcript } from "./transcript.ts";

/** What is kept of a bot's sentences until it is known that they come in no other way. */
const MAX_KEPT = 20;

/** The conversation of one call. Messages after its end are not shown: the next call may have begun. */
export class Conversation {
  #over = false;
  #hasOutput = false;
  #kept: unknown[] = [];

  constructor(
    private readonly transcript: Transcript,
    private readonly metrics: Metrics,
    private readonly picture: Picture,
  ) {
    transcript.clear();
    metrics.clear();
    picture.show(undefined);
  }

  /** For Pipecat's client. */
  readonly callbacks: RTVIEventCallbacks = {
    onUserTranscript: (data) => this.#while(() => this.transcript.heard(data?.text, data?.final === true)),
    onBotOutput: (data) => this.#while(() => this.#onOutput(data)),
    onBotTranscript: (data) => this.#while(() => this.#keep(data?.text)),
    onBotStoppedSpeaking: () => this.#while(() => this.#tellKept()),
    onMetrics: (data) => this.#while(() => this.metrics.add(data)),
  };

  /** A track of the bot's that is no sound has begun. */
  onVideo(track: MediaStreamTrack): void {
    this.#while(() => this.picture.show(track));
  }

  onTrackStopped(track: MediaStreamTrack): void {
    this.#while(() => this.picture.stop(track));
  }

  end(): void {
    this.#while(() => this.#tellKept());
    this.#over = true;
    this.transcript.end();
    this.picture.show(undefined);
  }

  /** `bot-output` tells of each segment when it is about to be spoken, of its words, and when it has been. */
  #onOutput(data: BotOutputData | undefined): void {
    if (data === undefined || data === null) return;
    this.#hasOutput = true;
    this.#kept = [];
    const { segment_id: id, text, spoken_progress: progress, will_be_spoken: willBe, spoken } = data;
    // Bots of RTVI 1 say everything twice: before it is spoken, and then.
    if (willBe === undefined) return void (spoken !== false && this.transcript.said(text));
    if (typeof id !== "number" || !willBe) return void this.transcript.said(text);
    this.transcript.saying(id, progress?.accumulated_text ?? text, progress?.remaining_text ?? "");
  }

  /** `bot-transcription` has the same words earlier: it counts for bots without `bot-output` alone. */
  #keep(text: unknown): void {
    if (!this.#hasOutput && this.#kept.length < MAX_KEPT) this.#kept.push(text);
  }

  #tellKept(): void {
    for (const text of this.#kept.splice(0)) this.transcript.said(text);
  }

  #while(act: () => void): void {
    if (!this.#over) act();
  }
}
