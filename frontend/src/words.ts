// The words of the extension in the editor's language. ComfyUI serves what locales/<language>/main.json has under
// "ostinato", by its English; a text that it does not have stays English, and so does the page of `ostinato live`.

let known: Record<string, string> = {};

/** Speaks another language from now on: its texts by their English. */
export function speak(texts: Record<string, string>): void {
  known = texts;
}

/** A text in the editor's language, with `%1`, `%2` … replaced by the values. */
export function worded(english: string, ...values: (string | number)[]): string {
  return (known[english] ?? english).replace(/%(\d)/g, (_, place) => String(values[Number(place) - 1]));
}
