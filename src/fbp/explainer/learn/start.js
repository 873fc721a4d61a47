// The list of chapters, the address, the size of the window, and the test of the page by itself.
const SECTIONS = [...document.querySelectorAll("section[data-chapter]")];
let here = null;

function follow(hash = location.hash) {
  const asked = new URLSearchParams(hash.slice(1)).get("chapter");
  const section = SECTIONS.find((each, i) => each.dataset.chapter === asked || String(i + 1) === asked);
  if (section) section.scrollIntoView({ behavior: "instant" });
}

// The chapter being read is the last one that begins above the middle of the window.
function read() {
  const now = SECTIONS.findLast((each) => each.getBoundingClientRect().top < innerHeight / 2) || SECTIONS[0];
  if (now === here) return;
  const first = here === null;
  here = now;
  for (const link of document.querySelectorAll("nav a")) link.setAttribute("aria-current", String(link.hash === `#chapter=${now.dataset.chapter}`));
  if (!first) history.replaceState(null, "", `#chapter=${now.dataset.chapter}`);
}

function drawAll() {
  for (const { draw, pic, pics } of Object.values(CHAPTERS)) {
    for (const each of pics || [pic]) each.drawAxes();
    draw();
  }
}

// Makes every step that fbp made, from the same start, and says how far the page is from it.
function selftest() {
  let [compared, worst] = [0, 0];
  for (const { rate, losses, steps } of DATA.neuron.traces) {
    let s = { w: steps[0][0], b: steps[0][1], ...EXAMPLE, rate };
    losses.forEach((loss, k) => {
      const now = neuronStep(s);
      s = { ...s, ...now.next };
      worst = Math.max(worst, apart([now.loss, s.w, s.b], [loss, ...steps[k + 1]]));
      compared += 2;
    });
  }
  for (const net of Object.values(FITS)) {
    net.reset();
    for (let k = 0; k < net.steps; k++) net.step();
    worst = Math.max(worst, net.worst);
    compared += net.steps * net.size;
  }
  const mean = CHAPTERS.gpt.losses.reduce((p, q) => p + q, 0) / CHAPTERS.gpt.losses.length;
  worst = Math.max(worst, apart([mean], [DATA.gpt.value]));
  const began = performance.now();
  for (const { draw } of Object.values(CHAPTERS)) draw();
  const ms = (performance.now() - began) / Object.keys(CHAPTERS).length;
  const box = find("selftest");
  box.hidden = false;
  box.textContent = `selftest: ${compared} parameters after a step compared with fbp's, worst difference ${worst.toExponential(2)}, ${ms.toFixed(1)} ms to draw a chapter`;
  Object.assign(box.dataset, { compared, worst, ms: ms.toFixed(2) });
}

find("title").textContent = DATA.title;
document.title = DATA.title;
find("forgpt").textContent = DATA.gpt.sentences.join("\n");
for (const [name, text] of [["gptsize", DATA.gpt.size.toLocaleString("en")], ["gptsteps", DATA.gpt.steps.toLocaleString("en")], ["gptblocks", DATA.gpt.blocks]]) find(name).textContent = text;
drawAll();
let waiting = null;
addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(drawAll, 100); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
addEventListener("scroll", read, { passive: true });
addEventListener("hashchange", (event) => follow(new URL(event.newURL).hash));
for (const link of document.querySelectorAll("nav a")) {
  link.onclick = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a new window
    event.preventDefault();
    history.pushState(null, "", link.hash);
    follow();
  };
}
follow();
read();
if (location.hash === "#selftest") selftest();
