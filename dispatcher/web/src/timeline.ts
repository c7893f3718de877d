/**
 * Times of a call's steps, in milliseconds since the click.
 *
 * They are ordinary performance marks (`switchboard:<step>`), so that tests, benches and a browser's own
 * profiler can read them.
 */

export const STEPS = [
  "click",
  "microphone", // the microphone's track is there
  "started", // the dispatcher says that the machine has started
  "connected", // audio and data can flow both ways
  "bot-ready", // the bot said so
  "first-sound", // the first audible sample was received; measured, not announced
] as const;
export type Step = (typeof STEPS)[number];

const PREFIX = "switchboard:";

export class Timeline {
  /** Forgets the last call and begins a new one. */
  begin(): void {
    for (const step of STEPS) performance.clearMarks(PREFIX + step);
    this.mark("click");
  }

  /** Notes that a step happened, now or at `at` (in `performance.now()`'s time); only its first time counts. */
  mark(step: Step, at: number = performance.now()): void {
    if (this.#entry(step) === undefined) performance.mark(PREFIX + step, { startTime: at });
  }

  /** Milliseconds from the click to `step`; undefined while it has not happened. */
  since(step: Step): number | undefined {
    const click = this.#entry("click");
    const entry = this.#entry(step);
    return click === undefined || entry === undefined ? undefined : entry.startTime - click.startTime;
  }

  #entry(step: Step): PerformanceEntry | undefined {
    return performance.getEntriesByName(PREFIX + step, "mark")[0];
  }
}
