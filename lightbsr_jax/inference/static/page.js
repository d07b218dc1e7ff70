"use strict";

const at = id => document.getElementById(id);
const tell = (text, wrong) => {
  at("status").textContent = text;
  at("status").className = wrong ? "error" : "";
};

const move = () => {
  const split = at("split").value;
  at("before").style.clipPath = `inset(0 ${100 - split}% 0 0)`;
  at("after").style.clipPath = `inset(0 0 0 ${split}%)`;
  at("line").style.left = `calc(${split}% - 1px)`;
};

// The picture that is shown or under way, by number; earlier ones are abandoned.
let current = 0, leave = new AbortController();

async function upscale(file) {
  const mine = ++current;
  at("result").hidden = true;
  const mostBytes = Number(at("file").dataset.mostBytes);
  if (file.size > mostBytes)
    return tell(`${file.name} is larger than ${mostBytes / 1e6} MB`, true);
  tell(`Upscaling ${file.name} ...`);
  leave.abort();  // of an earlier picture
  leave = new AbortController();
  let result = {};
  try {
    const to = "/upscale?name=" + encodeURIComponent(file.name);
    const sent = {method: "POST", body: file, signal: leave.signal};
    const answer = (await fetch(to, sent)).body.pipeThrough(new TextDecoderStream());
    const reader = answer.getReader();
    let text = "";
    for (let part; !(part = await reader.read()).done;) {
      const lines = (text + part.value).split("\n");
      text = lines.pop();
      for (const line of lines) result = JSON.parse(line);
      if (mine === current && result.percent)
        tell(`Upscaling ${file.name}: ${result.percent} %`);
    }
  } catch (error) {
    result = {};
  }
  if (mine !== current) return;
  if (!result.error && !result.after)
    result.error = "no answer: is the file too large, or has the server stopped?";
  if (result.error) return tell(result.error, true);
  for (const id of ["before", "after", "idr"]) at(id).src = result[id];
  at("download").href = result.after;
  at("download").download = result.name;
  at("download").textContent = `Download ${result.name}`;
  at("known").hidden = !result.nearest.length;
  at("nearest").textContent = "Nearest known: " + result.nearest.join("; ");
  const [width, height] = result.size;  // all of it is to fit into the window
  for (const id of ["compare", "sides"])
    at(id).style.width = `min(100%, ${75 * width / height}vh)`;
  tell(`${file.name}: now ${width} x ${height} pixels`);
  at("result").hidden = false;
  move();
}

at("split").oninput = move;
at("file").onchange = () => at("file").files[0] && upscale(at("file").files[0]);
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, event => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0])
      upscale(event.dataTransfer.files[0]);
  });
