/** The bot's metrics from RTVI: a row for each service and measure, with its last and its usual value. */

import { spoken } from "./harmless.ts";

/** Seconds, shown as they go on the mean; and counts, shown with their sum. */
const TIMES: Record<string, string> = { ttfb: "First byte", ttfa: "First audio", ttfat: "First answer", processing: "Processing" };
const COUNTS: Record<string, string> = { characters: "Characters" };
const TOKENS: Record<string, string> = { prompt_tokens: "Tokens in", completion_tokens: "Tokens out" };
/** A bot that names its services anew each time gets no more rows than these. */
const MAX_ROWS = 40;
/** Limit on the entries of one message: a pipeline has a handful of services. */
const MAX_ENTRIES = 50;
const MAX_NAME = 60;
const NOTHING = "–";

interface Row {
  cells: { last: HTMLElement; all: HTMLElement };
  sum: number;
  count: number;
}

export class Metrics {
  readonly #rows = new Map<string, Row>();

  constructor(
    private readonly body: HTMLTableSectionElement,
    private readonly empty: HTMLElement,
  ) {}

  clear(): void {
    this.#rows.clear();
    this.body.replaceChildren();
    this.empty.hidden = false;
  }

  add(message: unknown): void {
    const { tokens, ...others } = (message ?? {}) as Record<string, unknown>;
    for (const [kind, name] of Object.entries(TIMES)) {
      for (const { processor, ...measured } of entries(others[kind])) {
        this.#note(name, processor, measured.value ?? measured[kind], true);
      }
    }
    for (const [kind, name] of Object.entries(COUNTS)) {
      for (const { processor, value } of entries(others[kind])) this.#note(name, processor, value, false);
    }
    for (const used of entries(tokens)) {
      for (const [kind, name] of Object.entries(TOKENS)) this.#note(name, used.processor, used[kind], false);
    }
  }

  #note(name: string, processor: unknown, value: unknown, isTime: boolean): void {
    if (typeof value !== "number" || !Number.isFinite(value)) return;
    const service = spoken(processor, MAX_NAME);
    const key = `${name}\n${service}`;
    const row = this.#rows.get(key) ?? this.#row(key, name, service);
    // Pipecat begins with a zero for each service, before there is anything to measure.
    if (row === undefined || value === 0) return;
    row.sum += value;
    row.count += 1;
    row.cells.last.textContent = isTime ? milliseconds(value) : number(value);
    row.cells.all.textContent = isTime ? `⌀ ${milliseconds(row.sum / row.count)}` : `Σ ${number(row.sum)}`;
  }

  #row(key: string, name: string, service: string): Row | undefined {
    if (this.#rows.size >= MAX_ROWS) return undefined;
    this.empty.hidden = true;
    const line = this.body.insertRow();
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    if (service) {
      const whose = document.createElement("small");
      whose.textContent = service;
      head.append(whose);
    }
    line.append(head);
    const last = line.insertCell();
    const all = line.insertCell();
    last.textContent = all.textContent = NOTHING;
    const row = { cells: { last, all }, sum: 0, count: 0 };
    this.#rows.set(key, row);
    return row;
  }
}

function entries(found: unknown): Record<string, unknown>[] {
  if (!Array.isArray(found)) return [];
  return found.slice(0, MAX_ENTRIES).filter((entry) => typeof entry === "object" && entry !== null);
}

function milliseconds(seconds: number): string {
  return `${number(Math.round(seconds * 1000))} ms`;
}

function number(value: number): string {
  return value.toLocaleString("en", { maximumFractionDigits: 1 });
}
