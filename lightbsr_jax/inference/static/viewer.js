// Before and after, one over the other: a slider, a magnifier, a view at 100 %.

const at = id => document.getElementById(id);
const ZOOM = 3;  // of the magnifier, beyond what the page shows, at least
const STEP = 0.02;  // of the picture, by an arrow key

let size = [1, 1];  // of the result
let lens = {x: 0.5, y: 0.5, before: "", after: ""};

export function move() {
  const split = at("split").value;
  at("after").style.clipPath = `inset(0 0 0 ${split}%)`;
  // Else it would be seen through a transparent result.
  at("before").style.clipPath = at("after").hidden ? ""
    : `inset(0 ${100 - split}% 0 0)`;
  at("line").style.left = `${split}%`;
  at("tag-before").style.opacity = split < 12 ? 0 : 1;
  at("tag-after").style.opacity = split > 88 ? 0 : 1;
}

// Shows URLs of a picture and of its result; without a result the picture alone.
export function show(before, after, [width, height]) {
  size = [width, height];
  lens = {...lens, before, after: after ?? before};
  at("compare").style.setProperty("--ratio", width / height);
  at("compare").style.setProperty("--actual", `${width / devicePixelRatio}px`);
  at("before").src = before;
  if (after) at("after").src = after;
  else at("after").removeAttribute("src");
  for (const id of ["after", "line", "split", "tag-before", "tag-after"])
    at(id).hidden = !after;
  for (const id of ["fit", "actual", "magnify"]) at(id).disabled = !after;
  at("glass").hidden = !after || at("magnify").ariaPressed !== "true";
  move();
  look();
}

// Draws the magnifier: the left half of what it shows is before, the right one after.
function look() {
  if (at("glass").hidden) return;
  const {clientWidth: wide, clientHeight: high} = at("compare");
  const side = Math.min(260, Math.max(160, wide * 0.4));
  const zoom = Math.max(ZOOM, 2 * size[0] / devicePixelRatio / wide);
  at("lens").style.setProperty("--lens", `${side}px`);
  at("lens").style.left = `${100 * lens.x}%`;
  at("lens").style.top = `${100 * lens.y}%`;
  const inner = side - 6;
  for (const [index, half] of [...at("lens").children].entries()) {
    const left = inner / 2 - lens.x * wide * zoom - index * inner / 2;
    const top = inner / 2 - lens.y * high * zoom;
    half.style.backgroundImage = `url("${index ? lens.after : lens.before}")`;
    half.style.backgroundSize = `${wide * zoom}px ${high * zoom}px`;
    half.style.backgroundPosition = `${left}px ${top}px`;
  }
  const percent = n => Math.round(100 * n);
  at("glass").ariaLabel = `Magnifier at ${percent(lens.x)} % from the left, ` +
    `${percent(lens.y)} % from the top; arrow keys move it`;
}

function point(event) {
  const box = at("compare").getBoundingClientRect();
  const within = n => Math.min(1, Math.max(0, n));
  lens.x = within((event.clientX - box.left) / box.width);
  lens.y = within((event.clientY - box.top) / box.height);
  look();
}

function walk(event) {
  const [x, y] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1],
    ArrowDown: [0, 1]}[event.key] ?? [0, 0];
  if (event.key === "Escape") at("magnify").click();
  if (!x && !y) return;
  event.preventDefault();
  lens.x = Math.min(1, Math.max(0, lens.x + STEP * x));
  lens.y = Math.min(1, Math.max(0, lens.y + STEP * y));
  look();
}

function magnify() {
  const on = at("magnify").ariaPressed !== "true";
  at("magnify").ariaPressed = String(on);
  at("glass").hidden = !on;
  if (on) at("glass").focus({preventScroll: true});
  else at("magnify").focus();
  look();
}

function zoomed(actual) {
  at("scroll").classList.toggle("actual", actual);
  at("actual").ariaPressed = String(actual);
  at("fit").ariaPressed = String(!actual);
  if (actual) {  // its middle
    at("scroll").scrollLeft = (at("scroll").scrollWidth - at("scroll").clientWidth) / 2;
    at("scroll").scrollTop =
      (at("scroll").scrollHeight - at("scroll").clientHeight) / 2;
  }
  look();
}

at("split").oninput = move;
at("magnify").onclick = magnify;
at("fit").onclick = () => zoomed(false);
at("actual").onclick = () => zoomed(true);
at("glass").onpointermove = point;
at("glass").onpointerdown = point;
at("glass").onkeydown = walk;
new ResizeObserver(look).observe(at("compare"));
