// What every page needs: its data, how a number is written, and elements of the document.
const DATA = JSON.parse(document.getElementById("data").textContent);
// The numbers of an array, which are there as base64.
function floats(letters) {
  return new Float32Array(Uint8Array.from(atob(letters), (letter) => letter.charCodeAt(0)).buffer);
}

// Four digits, as the explanation has them.
function number(v) {
  if (v === null || v === undefined) return "?";
  if (Number.isNaN(v)) return "not a number";
  if (!Number.isFinite(v)) return v > 0 ? "infinity" : "−infinity";
  if (v === 0) return "0";
  const size = Math.abs(v);
  const text = size >= 1e5 || size < 1e-3 ? v.toExponential(3) : String(Number(v.toPrecision(4)));
  return text.replace("-", "−").replace("e-", "e−").replace("e+", "e");
}

// An element of the document; all text goes in as text.
function make(tag, props, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}
const find = (id) => document.getElementById(id);

// A token with what cannot be seen made visible, kept apart from the direction of its neighbours.
function token(text) {
  const shown = text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/^ +$/, (s) => "␣".repeat(s.length));
  return make("span", { className: "token", dir: "auto" }, shown === "" ? "∅" : shown);
}
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
