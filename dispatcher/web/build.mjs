// Bundles the voice page into dist/: index.html, and assets/ whose names carry their content's hash, so that
// they can be cached for ever while index.html is always asked for again.
import { readFile, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = dirname(fileURLToPath(import.meta.url));
const dist = join(root, "dist");
const font = "node_modules/@fontsource-variable/inter/files/inter-latin-wght-normal.woff2";

await rm(dist, { recursive: true, force: true });
const { metafile } = await build({
  absWorkingDir: root,
  entryPoints: ["src/main.ts", "src/styles.css", "src/favicon.svg"],
  outdir: "dist/assets",
  entryNames: "[name]-[hash]",
  assetNames: "[name]-[hash]",
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  sourcemap: "linked",
  legalComments: "linked",
  loader: { ".woff2": "file", ".svg": "copy" },
  // The transport falls back to Daily's call object as its source of media, which fetches its code from Daily's
  // servers at run time and brings an error reporter along. microphone.ts takes its place.
  alias: { "@daily-co/daily-js": "./src/no-daily.ts" },
  metafile: true,
});

const built = new Map();
for (const [output, { entryPoint, inputs }] of Object.entries(metafile.outputs)) {
  const source = entryPoint ?? Object.keys(inputs).find((input) => input === font);
  if (source && !output.endsWith(".map")) built.set(basename(source), relative("dist", output));
}
const page = await readFile(join(root, "src/index.html"), "utf8");
const html = page.replaceAll(/(href|src)="\.\/([^"]+)"/g, (_, attribute, name) => {
  if (!built.has(name)) throw new Error(`index.html refers to ./${name}, which is not one of: ${[...built.keys()].join(", ")}`);
  return `${attribute}="${built.get(name)}"`;
});
await writeFile(join(dist, "index.html"), html);
for (const [name, output] of built) console.log(`${name} → ${output} (${metafile.outputs[join("dist", output)].bytes} bytes)`);
