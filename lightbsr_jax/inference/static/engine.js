// What upscales the page's pictures: here the Python server that sent the page.
//
// `about()` says what it offers, `upscale(file, wish, options)` makes one picture.
// A page with another engine has another file of this name.

class Refused extends Error {}

// What the engine offers and how far it is; null where nobody answers.
export async function about() {
  try {
    const answer = await fetch("about");
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

// A query of the server's for what the settings say.
function query(file, wish) {
  const asked = new URLSearchParams({name: file.name});
  for (const [key, value] of Object.entries(wish)) if (value) asked.set(key, value);
  return "upscale?" + asked;
}

// The values of a stream of lines of JSON, each as soon as it is there.
async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (let part; !(part = await reader.read()).done;) {
    const whole = (text + part.value).split("\n");
    text = whole.pop();
    for (const line of whole) yield JSON.parse(line);
  }
}

async function blob(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Refused("the result is no longer there: try again");
  return answer.blob();
}

// Upscales a File. `onProgress` gets percent. The result's `before`, `after`, `shown`
// (what a browser can show of `after`) and `idr` are Blobs. Errors are in words.
export async function upscale(file, wish, {signal, onProgress}) {
  try {
    const sent = {method: "POST", body: file, signal};
    const answer = await fetch(query(file, wish), sent);
    let result = {};
    for await (const line of lines(answer.body)) {
      if (line.percent) onProgress(line.percent);
      result = line;
    }
    if (result.error) throw new Refused(result.error);
    if (!result.after) throw new Refused("the answer broke off: try again");
    const [before, after, idr] = await Promise.all(
      [result.before, result.after, result.idr].map(blob));
    const shown = result.shown === result.after ? after : await blob(result.shown);
    return {...result, before, after, shown, idr};
  } catch (error) {
    if (signal.aborted || error instanceof Refused) throw error;
    throw new Refused("no answer: has lightbsr serve been stopped, or the file moved?");
  }
}
