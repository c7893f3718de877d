/**
 * The microphone, as the media manager of Pipecat's SmallWebRTC transport.
 *
 * Of the two that come with the transport, one loads Daily's code from Daily's servers at run time, and the
 * other (WavMediaManager) copies every sample through an AudioWorklet that never forgets one (350 MB an hour)
 * and drops the browser's reason when the microphone is not available. This one hands the browser's own track,
 * with echo cancellation, to the peer connection and does nothing else.
 */

import { DeviceError, type DeviceErrorType, type PipecatClientOptions, type Tracks } from "@pipecat-ai/client-js";

/** Without echo cancellation a bot on loudspeakers hears, and interrupts, itself. */
const CONSTRAINTS: MediaTrackConstraints = {
  echoCancellation: true,
  noiseSuppression: true,
  autoGainControl: true,
  channelCount: 1,
};

const ERROR_TYPES: Record<string, DeviceErrorType> = {
  NotAllowedError: "permissions",
  SecurityError: "permissions",
  NotFoundError: "not-found",
  OverconstrainedError: "constraints",
  NotReadableError: "in-use",
  AbortError: "in-use",
};

const LOCAL = { id: "local", name: "", local: true };

export class Microphone {
  readonly supportsScreenShare = false;
  readonly isCamEnabled = false;
  readonly isSharingScreen = false;
  readonly selectedCam: Record<string, never> = {};
  readonly selectedSpeaker: Record<string, never> = {};
  #options: PipecatClientOptions | undefined;
  #track: MediaStreamTrack | undefined;
  #lent: MediaStreamTrack[] = [];
  #enabled = true;
  #selected: MediaDeviceInfo | undefined;

  /** The track while there is one. */
  get track(): MediaStreamTrack | undefined {
    return this.#track;
  }

  setClientOptions(options: PipecatClientOptions): void {
    this.#options = options;
    this.#enabled = options.enableMic ?? true;
  }

  /**
   * Asks for the microphone.
   *
   * @throws DeviceError with the type that says why there is none.
   */
  async initialize(): Promise<void> {
    if (this.#track?.readyState === "live") return;
    await this.#open();
  }

  async connect(): Promise<void> {
    await this.initialize();
  }

  async disconnect(): Promise<void> {
    for (const track of this.#all()) track.stop();
    this.#track = undefined;
    this.#lent = [];
  }

  /**
   * A track to send. It is a new clone each time: when the transport replaces a peer connection that was lost, it
   * stops the old one's track after the new one has been given its own, and the same track would fall silent.
   */
  tracks(): Tracks {
    if (!this.#track) return { local: {} };
    const audio = this.#track.clone();
    this.#lent = [...this.#lent.filter(({ readyState }) => readyState === "live"), audio];
    return { local: { audio } };
  }

  get isMicEnabled(): boolean {
    return this.#enabled;
  }

  enableMic(enable: boolean): void {
    this.#enabled = enable;
    for (const track of this.#all()) track.enabled = enable;
  }

  #all(): MediaStreamTrack[] {
    return this.#track ? [this.#track, ...this.#lent] : this.#lent;
  }

  get selectedMic(): MediaDeviceInfo | Record<string, never> {
    return this.#selected ?? {};
  }

  getAllMics(): Promise<MediaDeviceInfo[]> {
    return devicesOf("audioinput");
  }

  getAllSpeakers(): Promise<MediaDeviceInfo[]> {
    return devicesOf("audiooutput");
  }

  async getAllCams(): Promise<MediaDeviceInfo[]> {
    return [];
  }

  /** @throws DeviceError: the transport has no way to change the microphone of a call for this manager. */
  async updateMic(): Promise<void> {
    throw unsupported();
  }

  updateCam(): void {
    throw unsupported();
  }

  updateSpeaker(): void {
    throw unsupported();
  }

  enableCam(enable: boolean): void {
    if (enable) throw unsupported();
  }

  enableScreenShare(enable: boolean): void {
    if (enable) throw unsupported();
  }

  async #open(): Promise<void> {
    let stream: MediaStream;
    try {
      // Browsers hide it from pages that are neither on https nor on localhost.
      if (!navigator.mediaDevices) throw new DeviceError(["mic"], "undefined-mediadevices");
      stream = await navigator.mediaDevices.getUserMedia({ audio: CONSTRAINTS });
    } catch (error) {
      const failure = asDeviceError(error);
      this.#options?.callbacks?.onDeviceError?.(failure);
      throw failure;
    }
    const track = stream.getAudioTracks()[0];
    if (!track) throw new DeviceError(["mic"], "not-found");
    track.enabled = this.#enabled;
    this.#track = track;
    const { deviceId } = track.getSettings();
    this.#selected = (await this.getAllMics()).find((device) => device.deviceId === deviceId);
    if (this.#selected) this.#options?.callbacks?.onMicUpdated?.(this.#selected);
    this.#options?.callbacks?.onTrackStarted?.(track, LOCAL);
  }
}

function asDeviceError(error: unknown): DeviceError {
  if (error instanceof DeviceError) return error;
  const { name, message } = error instanceof Error ? error : { name: "", message: String(error) };
  return new DeviceError(["mic"], ERROR_TYPES[name] ?? "unknown", message);
}

function unsupported(): DeviceError {
  return new DeviceError(["cam", "speaker"], "constraints", "The voice page uses the default microphone and speaker only.");
}

async function devicesOf(kind: MediaDeviceKind): Promise<MediaDeviceInfo[]> {
  return (await navigator.mediaDevices.enumerateDevices()).filter((device) => device.kind === kind);
}

/** Returns true if there is a microphone that the page may use without asking. */
export async function microphoneIsCertain(): Promise<boolean> {
  try {
    const permission = await navigator.permissions.query({ name: "microphone" as PermissionName });
    const devices = await navigator.mediaDevices.enumerateDevices();
    return permission.state === "granted" && devices.some(({ kind }) => kind === "audioinput");
  } catch {
    return false; // A browser that cannot say: older Firefox, or any on a page that is not secure.
  }
}
