// The words of the extension and of the page in another language than English, looked up by their English: in ComfyUI
// those that it serves of locales/<language>/main.json, on the page of `ostinato live` the same file's by the browser's
// language. A text that is not there stays English.

import { ostinato as zh } from "../../locales/zh/main.json";

type Texts = Record<string, string>;

const TABLES: Record<string, Texts> = { zh };

let known: Texts = {};

/** Speaks another language from now on: its texts by their English. */
export function speak(texts: Texts): void {
  known = texts;
}

/** The texts of a language such as "zh-CN"; none for one that has no table. */
export function textsOf(language: string): Texts {
  return TABLES[language.toLowerCase().split("-")[0]!] ?? {};
}

/** A text in the language that is spoken, with `%1`, `%2` … replaced by the values. */
export function worded(english: string, ...values: (string | number)[]): string {
  return (known[english] ?? english).replace(/%(\d)/g, (_, place) => String(values[Number(place) - 1]));
}
