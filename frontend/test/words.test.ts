import assert from "node:assert/strict";
import test from "node:test";
import { speak, textsOf, worded } from "../src/words.ts";

test("every kind of Chinese has the table, other languages have none", () => {
  for (const language of ["zh", "zh-CN", "ZH-hant-TW"]) assert.equal(textsOf(language).Play, "播放");
  for (const language of ["en-GB", "zu", ""]) assert.deepEqual(textsOf(language), {});
});

test("a text without a translation stays English, with its values", () => {
  speak(textsOf("zh"));
  assert.equal(worded("Keep the last %1 s", 30), "保留最近 30 秒");
  assert.equal(worded("%2 of %1", 1, 2), "2 of 1");
  speak({});
  assert.equal(worded("Play"), "Play");
});
