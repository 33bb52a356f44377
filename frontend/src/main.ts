// One file for both: the page of `ostinato live`, and ComfyUI, which imports every script of the pack as an extension.

import { Link } from "./link.ts";
import { Page } from "./page.ts";

const root = document.getElementById("ostinato-live");
if (root) {
  const name = root.dataset.session ?? "live";
  const link = new Link(`${location.origin.replace(/^http/, "ws")}/ostinato/live/${encodeURIComponent(name)}/socket`);
  new Page(link, root);
  Object.assign(window, { ostinato: link });
} else if (import.meta.url.includes("/extensions/")) {
  const { register } = await import("./extension.ts");
  await register(new URL("../../", import.meta.url).href);
}
