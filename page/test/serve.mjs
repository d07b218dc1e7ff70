// A plain static server for tests, without any headers for threads.
import {createReadStream, existsSync} from "node:fs";
import {createServer} from "node:http";
import {extname, join} from "node:path";

// Like many servers it does not know .mjs.
const KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript",
  ".svg": "image/svg+xml", ".png": "image/png"};

// Serves a folder; resolves to {address, close}.
export async function serve(folder, port = 0) {
  const server = createServer((request, response) => {
    const path = new URL(request.url, "http://x").pathname;
    const file = join(folder, path === "/" ? "index.html" : path);
    if (!existsSync(file)) return response.writeHead(404).end();
    response.writeHead(200, {"content-type":
      KINDS[extname(file)] ?? "application/octet-stream"});
    createReadStream(file).pipe(response);
  });
  await new Promise(resolve => server.listen(port, "127.0.0.1", resolve));
  const close = () => { server.close(); server.closeAllConnections(); };
  return {address: `http://127.0.0.1:${server.address().port}/`, close};
}
