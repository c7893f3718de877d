/**
 * The picture of the conversation: the levels of the bot and of you over the last seconds, one lane each.
 *
 * With reduced motion nothing scrolls: each lane is a bar with the present level.
 */

/** One column of a lane: its width with the gap after it, in CSS pixels, and the time that it stands for. */
const PITCH = 6;
const BAR = 3;
const COLUMN_MS = 50;
/** At most so often is it drawn, some 30 times a second: without a graphics card twice as often took a fifth of a core. */
const FRAME_MS = 30;

export type Lane = "bot" | "you";
const LANES: readonly Lane[] = ["bot", "you"];

export class Lanes {
  readonly #history: Record<Lane, number[]> = { bot: [], you: [] };
  readonly #still = matchMedia("(prefers-reduced-motion: reduce)");
  readonly #dark = matchMedia("(prefers-color-scheme: dark)");
  #levels: (() => Record<Lane, number>) | undefined;
  #peak: Record<Lane, number> = { bot: 0, you: 0 };
  #columnStarted = 0;
  #drawn = 0;
  #shown: Record<Lane, number> = { bot: 0, you: 0 };
  #frame = 0;

  constructor(private readonly canvases: Record<Lane, HTMLCanvasElement>) {
    const redraw = () => this.#draw();
    const observer = new ResizeObserver(redraw);
    for (const lane of LANES) observer.observe(canvases[lane]);
    this.#dark.addEventListener("change", redraw);
    this.#still.addEventListener("change", redraw);
  }

  /** Draws what `levels` answers (0 to 1 each), from an empty picture on. */
  start(levels: () => Record<Lane, number>): void {
    this.#levels = levels;
    for (const lane of LANES) this.#history[lane].length = 0;
    this.#columnStarted = performance.now();
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => this.#tick());
  }

  /** Stops; what was drawn stays, as the record of the call's end. */
  stop(): void {
    this.#levels = undefined;
    cancelAnimationFrame(this.#frame);
    this.#peak = { bot: 0, you: 0 };
    this.#shown = { bot: 0, you: 0 };
    this.#draw();
  }

  #tick(): void {
    if (!this.#levels) return;
    this.#frame = requestAnimationFrame(() => this.#tick());
    const now = performance.now();
    if (now - this.#drawn < FRAME_MS) return;
    this.#drawn = now;
    const levels = this.#levels();
    for (const lane of LANES) this.#peak[lane] = Math.max(this.#peak[lane], levels[lane]);
    // A hidden page draws nothing; what it missed stays empty.
    for (; now - this.#columnStarted >= COLUMN_MS; this.#columnStarted += COLUMN_MS) {
      for (const lane of LANES) {
        this.#history[lane].unshift(this.#peak[lane]);
        this.#history[lane].length = Math.min(this.#history[lane].length, 600);
        this.#peak[lane] = 0;
      }
    }
    if (this.#still.matches && LANES.every((lane) => levels[lane] === this.#shown[lane])) return;
    this.#shown = levels;
    this.#draw((now - this.#columnStarted) / COLUMN_MS);
  }

  #draw(progress = 0): void {
    for (const lane of LANES) {
      const canvas = this.canvases[lane];
      const context = prepare(canvas);
      const colours = getComputedStyle(canvas);
      const ink = colours.color;
      const rest = colours.getPropertyValue("--lane-rest");
      if (this.#still.matches) drawBar(context, canvas, this.#shown[lane], ink, rest);
      else drawHistory(context, canvas, this.#history[lane], progress, ink, rest);
    }
  }
}

function prepare(canvas: HTMLCanvasElement): CanvasRenderingContext2D {
  const scale = devicePixelRatio;
  const width = Math.round(canvas.clientWidth * scale);
  const height = Math.round(canvas.clientHeight * scale);
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const context = canvas.getContext("2d");
  if (!context) throw new Error("The browser draws no canvas.");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  return context;
}

function drawHistory(
  context: CanvasRenderingContext2D,
  { clientWidth: width, clientHeight: height }: HTMLCanvasElement,
  history: readonly number[],
  progress: number,
  ink: string,
  rest: string,
): void {
  const silent = new Path2D();
  for (let index = 0; index * PITCH < width + PITCH; index++) {
    const level = history[index] ?? 0;
    const x = width - BAR - (index + progress) * PITCH;
    if (level <= 0.02) {
      silent.roundRect(x, (height - BAR) / 2, BAR, BAR, BAR / 2);
      continue;
    }
    const tall = Math.max(BAR, level * (height - 4));
    context.globalAlpha = 1 - 0.75 * Math.min(1, (index * PITCH) / width);
    context.fillStyle = ink;
    context.beginPath();
    context.roundRect(x, (height - tall) / 2, BAR, tall, BAR / 2);
    context.fill();
  }
  context.globalAlpha = 1;
  // Most of a conversation, in one stroke.
  context.fillStyle = rest;
  context.fill(silent);
}

function drawBar(
  context: CanvasRenderingContext2D,
  { clientWidth: width, clientHeight: height }: HTMLCanvasElement,
  level: number,
  ink: string,
  rest: string,
): void {
  const thick = 8;
  for (const [length, colour] of [
    [width, rest],
    [width * level, ink],
  ] as const) {
    context.fillStyle = colour;
    context.beginPath();
    context.roundRect(0, (height - thick) / 2, length, thick, thick / 2);
    context.fill();
  }
}
