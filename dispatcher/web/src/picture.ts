/** The bot's picture: it is there while its track is. */

export class Picture {
  #track: MediaStreamTrack | undefined;

  /** @param frame What is shown and hidden; it has the video and a button for the full screen. */
  constructor(
    private readonly frame: HTMLElement,
    private readonly video: HTMLVideoElement,
    enlarge: HTMLButtonElement,
  ) {
    enlarge.hidden = !document.fullscreenEnabled;
    enlarge.addEventListener("click", () => {
      video.requestFullscreen().catch((error: unknown) => console.error("The browser shows no full screen", error));
    });
  }

  show(track: MediaStreamTrack | undefined): void {
    this.#track = track;
    this.frame.hidden = track === undefined;
    this.video.srcObject = track === undefined ? null : new MediaStream([track]);
    if (track === undefined) {
      if (document.fullscreenElement === this.video) void document.exitFullscreen();
      return;
    }
    // Its sound is a track of its own, so that no browser refuses to play this.
    this.video.play().catch((error: unknown) => {
      if (this.#track === track) console.error("The browser does not show the bot's picture", error);
    });
  }

  stop(track: MediaStreamTrack): void {
    if (track === this.#track) this.show(undefined);
  }
}
