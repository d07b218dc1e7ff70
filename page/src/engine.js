// What upscales the page's pictures: here the browser itself, in a worker.
//
// The same interface as lightbsr_jax/inference/static/engine.js, which asks a server.

const WORKER = "worker.js";
const SILENCE = 120;  // seconds without a word after which a worker counts as lost
const MOST_FAILURES = 3;  // of workers that were never ready
const CONTROL = 4000;  // milliseconds to wait for the service worker

let worker = null, state = {said: "starting", ready: false}, waiting = null;
let number = 0, begun = null, failures = 0, asked = false;
let registration = null;  // of the service worker

// Makes pictures from files of the page only, and keeps the files for use offline. It
// adds the headers without which browsers allow one thread: they count after a reload.
async function controlled() {
  const workers = navigator.serviceWorker;
  if (!workers || !isSecureContext) return;
  try {
    registration = await workers.register("sw.js");
    if (!workers.controller)
      await Promise.race([
        new Promise(done => workers.addEventListener("controllerchange", done)),
        new Promise(done => setTimeout(done, CONTROL)),
      ]);
  } catch {
    return;  // a private window: the page works, but not offline
  }
  // A page that has got pictures keeps them, and computes by one thread.
  if (crossOriginIsolated || !workers.controller || asked) return;
  if (sessionStorage.getItem("reloaded")) return;
  sessionStorage.setItem("reloaded", "yes");
  location.reload();
}

// Starts a worker unless there is one: the first when the service worker is in charge.
function begin() {
  begun ??= controlled();
  begun.then(() => { if (!worker && !state.lost) start(); });
}

function start() {
  worker = new Worker(WORKER, {type: "module"});
  worker.onmessage = ({data}) => {
    if (data.id) return waiting?.hear(data);
    state = {...state, ...data};
    if (data.ready) failures = 0;
    waiting?.hear({});
  };
  worker.onerror = ({message}) =>
    lose(`this page's worker has failed (${message || "no reason given"})`);
  worker.postMessage({prepare: FILES.weights[0].name});
}

// Ends a worker that is of no use any more; the next picture gets another one.
function lose(reason) {
  worker?.terminate();
  worker = null;
  state = {said: "starting again", ready: false};
  if (++failures === MOST_FAILURES) state.lost = `${reason}: reload the page`;
  waiting?.hear({error: `${reason}: try again`});
}

// What the engine offers and how far it is; `lost` says why it cannot be started, and
// `renewed` that a new version of the page waits until no tab shows this one.
export async function about() {
  begin();
  return {
    lost: state.lost,
    ready: state.ready,
    said: state.said,
    on: state.engine,
    renewed: Boolean(registration?.active && registration.waiting),
    weights: FILES.weights,
    formats: ["png", "jpg"],
    megapixels: FILES.megapixels,
    suffixes: [".avif", ".heic", ".jfif", ".jxl", ".tif", ".tiff"],
    mostBytes: Infinity,
    keeps: "transparency, EXIF and colour profiles are kept. Pictures with 16 bits " +
      "are refused",
  };
}

// Upscales a File. `onProgress` gets percent. The result's `before`, `after` and `shown`
// are Blobs. Errors are in words. The worker gets the file when it is ready.
export async function upscale(file, wish, {signal, onProgress}) {
  if (state.lost) throw new Error(state.lost);
  asked = true;
  begin();
  const id = ++number;
  let silence, sent = false;
  const answer = new Promise((resolve, reject) => {
    const attend = () => {
      clearTimeout(silence);
      silence = setTimeout(() => lose(`no word from this page's worker for ${SILENCE} ` +
        "seconds"), 1000 * SILENCE);
    };
    waiting = {hear(data) {
      attend();
      if (data.percent) onProgress(data.percent);
      if (data.result) resolve(data.result);
      if (data.error) reject(new Error(data.error));
      if (state.lost) reject(new Error(state.lost));
      if (state.ready && !sent) {
        sent = true;
        worker.postMessage({id, file, wish});
      }
    }};
    signal.addEventListener("abort", () => {
      if (sent) worker?.postMessage({cancel: id});
      else reject(new Error("cancelled"));
    });
    waiting.hear({});
  });
  try {
    return await answer;
  } finally {
    clearTimeout(silence);
    waiting = null;
  }
}
