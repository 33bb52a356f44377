// Builds web/ostinato.js: one file, with the worklet and the worker in it as strings, because ComfyUI imports every .js there.
import { build } from "esbuild";

const common = { bundle: true, write: false, minify: true, format: "iife", target: "es2022", charset: "utf8" };
const loader = { ".css": "text" };

async function text(entry) {
  const made = await build({ ...common, entryPoints: [`src/${entry}`] });
  return JSON.stringify(made.outputFiles[0].text);
}

await build({
  ...common,
  write: true,
  loader,
  format: "esm",
  entryPoints: ["src/main.ts"],
  outfile: "../web/ostinato.js",
  define: { WORKLET_SOURCE: await text("worklet.ts"), WORKER_SOURCE: await text("worker.ts") },
  banner: { js: "// Built from frontend/ by `npm run build`; change the sources there." },
});
