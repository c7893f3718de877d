/** Makes bots' text safe to show: it may be anything, and is never parsed as HTML. */

/** Characters that change the writing direction of other text, with which words could pass for others. */
const DIRECTIONS = /[\u202a-\u202e\u2066-\u2069]/g;
const CONTROLS = /[\u0000-\u0008\u000a-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;
/** Select Graphic Rendition: the colours of a terminal, which most loggers write. */
const COLOURS = /\u001b\[[0-9;:]*m/g;

/** What somebody said: one paragraph, of at most so many characters. Nothing for what is no text. */
export function spoken(text: unknown, most: number): string {
  if (typeof text !== "string") return "";
  // Twice as much is looked at as is shown, and no more: a message may be megabytes.
  const plain = text.slice(0, 2 * most).replace(COLOURS, "").replace(DIRECTIONS, "").replace(CONTROLS, " ").trim();
  return plain.length > most ? `${plain.slice(0, most)}…` : plain;
}

/** A line of a log: without colours, and with its other control characters written out. */
export function logged(line: string, most: number): string {
  const shown = line.slice(0, 2 * most).replace(COLOURS, "").replace(CONTROLS, writtenOut);
  const rest = line.length - most;
  return rest > 0 && shown.length > most ? `${shown.slice(0, most)}… (${rest} more)` : shown;
}

function writtenOut(control: string): string {
  const code = control.charCodeAt(0);
  return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
}
