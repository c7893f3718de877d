/** Measures a track: its level for the meters, whether somebody speaks, and the time of its first sound. */

/** −40 dBFS: over a codec's comfort noise (below −60), under the quietest speech that one would call audible. */
const AUDIBLE = 0.01;
/** Speech has pauses between words; a speaker is silent after this long without a sound. */
const PAUSE_MS = 450;
/** The range of a meter, in dBFS: from a quiet room to loud speech. */
const FLOOR_DB = -54;
const CEILING_DB = -9;
/** 43 ms at 48 kHz: longer than the interval between looks, so that no sample goes unseen. */
const WINDOW = 2048;
const LOOK_EVERY_MS = 20;

export class LevelMeter {
  /** 0 (silence) to 1 (loud). */
  level = 0;
  speaking = false;
  onFirstSound: ((at: number) => void) | undefined;
  onSpeaking: ((speaking: boolean) => void) | undefined;
  readonly #analyser: AnalyserNode;
  readonly #source: MediaStreamAudioSourceNode;
  readonly #samples = new Float32Array(WINDOW);
  readonly #timer: ReturnType<typeof setInterval>;
  #lastSound = Number.NEGATIVE_INFINITY;
  #heard = false;

  constructor(
    private readonly context: AudioContext,
    track: MediaStreamTrack,
  ) {
    this.#analyser = new AnalyserNode(context, { fftSize: WINDOW });
    this.#source = new MediaStreamAudioSourceNode(context, { mediaStream: new MediaStream([track]) });
    this.#source.connect(this.#analyser);
    this.#timer = setInterval(() => this.#look(), LOOK_EVERY_MS);
  }

  close(): void {
    clearInterval(this.#timer);
    this.#source.disconnect();
    this.level = 0;
  }

  #look(): void {
    this.#analyser.getFloatTimeDomainData(this.#samples);
    const now = performance.now();
    let sum = 0;
    let first = -1;
    for (let index = 0; index < WINDOW; index++) {
      const sample = this.#samples[index] ?? 0;
      sum += sample * sample;
      if (first < 0 && Math.abs(sample) > AUDIBLE) first = index;
    }
    const decibels = 10 * Math.log10(sum / WINDOW + 1e-12);
    this.level = Math.min(1, Math.max(0, (decibels - FLOOR_DB) / (CEILING_DB - FLOOR_DB)));
    if (first >= 0) {
      this.#lastSound = now;
      if (!this.#heard) {
        this.#heard = true;
        this.onFirstSound?.(now - ((WINDOW - first) * 1000) / this.context.sampleRate);
      }
    }
    const speaking = now - this.#lastSound < PAUSE_MS;
    if (speaking !== this.speaking) {
      this.speaking = speaking;
      this.onSpeaking?.(speaking);
    }
  }
}
