// Shows a picture large in the page: next and previous by arrow keys or buttons.
// Without this script every frame is a link to its picture.
const view = document.querySelector("dialog");
const large = new Image();
view.prepend(large);
let shown = large; // or a sharper one in its place
const frames = [...document.querySelectorAll("a.frame")].filter((frame) => frame.querySelector("img"));
const buttons = Object.fromEntries([...view.querySelectorAll("button")].map((button) => [button.name, button]));
let at = 0;

function put(picture) {
  shown.replaceWith(picture);
  shown = picture;
}

// Puts the picture in the width that fits in place of the one in the page, if its gateway still answers.
async function sharpen(frame) {
  const sharp = new Image();
  sharp.alt = large.alt;
  sharp.className = large.className;
  sharp.sizes = frame.dataset.sizes;
  sharp.srcset = frame.dataset.srcset;
  await sharp.decode().catch(() => {});
  if (sharp.naturalWidth && frames[at] === frame && shown === large) put(sharp);
}

function show(next) {
  at = (next + frames.length) % frames.length;
  const frame = frames[at];
  const small = frame.querySelector("img");
  put(large);
  large.src = small.srcset.split(" ")[0] || small.src;
  large.alt = small.alt;
  large.className = small.className;
  if (frame.dataset.srcset) sharpen(frame);
  const card = frame.closest("li");
  view.querySelector("p").textContent = card.querySelector(".prompt").textContent;
  view.querySelector("span").textContent = `${at + 1} of ${frames.length}`;
  buttons.copy.dataset.copy = card.querySelector("button.copy").dataset.copy;
}

for (const [number, frame] of frames.entries()) {
  frame.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    show(number);
    view.showModal();
  });
}
buttons.previous.addEventListener("click", () => show(at - 1));
buttons.next.addEventListener("click", () => show(at + 1));
buttons.close.addEventListener("click", () => view.close());
view.addEventListener("click", (event) => { if (event.target === view) view.close(); });
view.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") show(at - 1);
  if (event.key === "ArrowRight") show(at + 1);
});
view.addEventListener("close", () => frames[at].focus());
