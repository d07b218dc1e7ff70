// Builds the page: node build.mjs MODELS OUT. MODELS has weights.json and the networks
// that models.py wrote; the page's HTML and CSS are those of lightbsr serve.
import {createHash} from "node:crypto";
import {copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync,
  writeFileSync} from "node:fs";
import {dirname, join, resolve} from "node:path";
import {fileURLToPath} from "node:url";
import {gzipSync} from "node:zlib";
import {build} from "esbuild";
import * as ort from "onnxruntime-web";
import {trial} from "./src/check.js";
import {Network} from "./src/network.js";

const HERE = dirname(fileURLToPath(import.meta.url));
const STATIC = resolve(HERE, "../lightbsr_jax/inference/static");
const RUNTIME = resolve(HERE, "node_modules/onnxruntime-web/dist");
const MEGAPIXELS = 16;  // of the largest picture taken
const MOST = 25e6;  // bytes of all files
const GLUE = {wasm: "ort-wasm-simd-threaded", webgpu: "ort-wasm-simd-threaded.asyncify"};
// The browser itself keeps pictures from being sent anywhere.
const POLICY = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; " +
  "img-src 'self' blob: data:; connect-src 'self' blob:; worker-src 'self' blob:; " +
  "object-src 'none'; form-action 'none'; base-uri 'none'";

ort.env.wasm.numThreads = 1;
const [models, out] = process.argv.slice(2).map(path => resolve(path));
rmSync(out, {recursive: true, force: true});
mkdirSync(out, {recursive: true});
const put = (name, content) => {
  writeFileSync(join(out, name), content);
  return content.length;
};
const packed = (name, path) =>
  put(name, gzipSync(readFileSync(path), {level: 9, mtime: 0}));

const weights = JSON.parse(readFileSync(join(models, "weights.json"), "utf8"));
const files = {weights, megapixels: MEGAPIXELS, models: {}, runtimes: {}};
for (const {name} of weights) {
  const file = `${name}.model.gz`;
  const size = packed(file, join(models, `${name}.model`));
  const content = new Uint8Array(readFileSync(join(models, `${name}.model`)));
  const made = await trial(new Network(ort, content.buffer));
  const expected = Array.from(made, value => Number(value.toFixed(4)));
  files.models[name] = {file, size, expected};
}
for (const [kind, stem] of Object.entries(GLUE)) {
  // As .js, because not every web server knows what .mjs is.
  copyFileSync(join(RUNTIME, `${stem}.mjs`), join(out, `${stem}.js`));
  const binary = `${stem}.wasm.gz`;
  const size = packed(binary, join(RUNTIME, `${stem}.wasm`));
  files.runtimes[kind] = {glue: `${stem}.js`, binary, size};
}
for (const name of ["page.css", "icon.svg", "example.png"])
  copyFileSync(join(STATIC, name), join(out, name));
const html = readFileSync(join(STATIC, "index.html"), "utf8");
put("index.html", html.replace('<meta charset="utf-8">', '<meta charset="utf-8">\n' +
  `<meta http-equiv="Content-Security-Policy" content="${POLICY}">`));

// The page's script asks engine.js, of which this page has another.
const engine = {name: "engine", setup: ({onResolve}) => onResolve(
  {filter: /^\.\/engine\.js$/}, () => ({path: join(HERE, "src/engine.js")}))};
const common = {bundle: true, minify: true, format: "esm", target: "es2022",
  logLevel: "warning", legalComments: "eof",
  // The runtime in files of its own, which its threads load again.
  conditions: ["onnxruntime-web-use-extern-wasm"],
  define: {FILES: JSON.stringify(files)}};
await build({...common, entryPoints: [join(STATIC, "page.js")], plugins: [engine],
  outfile: join(out, "page.js")});
await build({...common, entryPoints: [join(HERE, "src/worker.js")], splitting: true,
  outdir: out, chunkNames: "[name]-[hash]"});
const hash = createHash("sha256");
const names = readdirSync(out).sort();
for (const name of names) hash.update(readFileSync(join(out, name)));
const isLarge = name => name.endsWith(".gz");
const shell = ["./", ...names.filter(name => !isLarge(name))];
await build({...common, entryPoints: [join(HERE, "src/sw.js")], format: "iife",
  define: {VERSION: JSON.stringify(hash.digest("hex").slice(0, 12)),
    SHELL: JSON.stringify(shell), LARGE: JSON.stringify(names.filter(isLarge))},
  outfile: join(out, "sw.js")});

const sizes = readdirSync(out).map(name => statSync(join(out, name)).size);
const total = sizes.reduce((sum, size) => sum + size, 0);
console.log(`${out}: ${sizes.length} files, ${(total / 1e6).toFixed(1)} MB`);
if (total > MOST) {
  console.error(`more than ${MOST / 1e6} MB: give fewer WEIGHTS`);
  process.exit(1);
}
