// The service worker: keeps the page's files, so that it works offline, and adds the
// headers by which browsers allow threads. VERSION, SHELL (the files that are kept at
// once) and LARGE (those that are kept when they are first used) are set by build.mjs.

const KEPT = `lightbsr-${VERSION}`;

// The large files that an older version has kept are kept again: this one, too, works
// offline.
async function install() {
  const cache = await caches.open(KEPT);
  await cache.addAll(SHELL.map(name => new Request(name, {cache: "reload"})));
  for (const name of LARGE)
    if (await caches.match(name)) await cache.add(new Request(name, {cache: "no-cache"}));
}

oninstall = event => event.waitUntil(install());

onactivate = event => event.waitUntil((async () => {
  for (const name of await caches.keys())
    if (name.startsWith("lightbsr-") && name !== KEPT) await caches.delete(name);
  await clients.claim();
})());

function isolated(answer) {
  const headers = new Headers(answer.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  const {status, statusText} = answer;
  return new Response(answer.body, {status, statusText, headers});
}

async function answered(request) {
  const cache = await caches.open(KEPT);
  const kept = await cache.match(request, {ignoreSearch: true});
  if (kept) return isolated(kept);
  const answer = await fetch(request, {cache: "no-cache"});  // none of an older page
  if (answer.status === 200) {
    const copy = answer.clone();
    cache.put(request, copy).catch(() => null);  // no space: it works, but not offline
  }
  return isolated(answer);
}

onfetch = event => {
  const {url, method} = event.request;
  if (method !== "GET" || new URL(url).origin !== location.origin) return;
  event.respondWith(answered(event.request));
};
