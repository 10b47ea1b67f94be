// Charts, and what flips.js and samples.js share. Nothing is loaded; what a model wrote is only ever set as text.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);

// An element with a class and children; strings become text.
function element(tag, className = "", ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

// A definition list of [label, text or element], without the empty ones.
function pairs(lines) {
  const shown = lines.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return element("dl", "pairs", ...shown.map(([label, value]) =>
    element("div", "", element("dt", "", label), element("dd", "", value instanceof Element ? value : String(value)))));
}

// Unpacks the text of embedded_samples.py: base64 of gzipped JSON.
async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

// Show items in a list, `size` at a time; `make` gives the elements of one.
function fill(list, items, make, size = 100) {
  list.replaceChildren();
  const show = (from) => {
    for (const item of items.slice(from, from + size)) list.append(...make(item));
    const left = items.length - from - size;
    if (left <= 0) return;
    const more = element("button", "more", `${left} more`);
    more.type = "button";
    more.onclick = () => { more.remove(); show(from + size); };
    list.append(more);
  };
  show(0);
}

// #step=3&filter=wrong; a hash without = is the name of a section.
const hash = {
  read: () => (location.hash.includes("=") ? Object.fromEntries(new URLSearchParams(location.hash.slice(1))) : null),
  write(state) {
    const set = Object.entries(state).filter(([, value]) => value !== "" && value !== null);
    history.replaceState(null, "", `#${new URLSearchParams(set)}`);
  },
};

async function drawCharts() {
  await Bokeh.embed.embed_items(data.charts.documents, data.charts.items);
  document.documentElement.dataset.charts = "drawn";
  const repaint = () => Bokeh.documents.forEach((drawn) => drawn.roots().forEach((plot) => plot.properties.height.change.emit()));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
}

document.getElementById("toggles")?.addEventListener("change", ({ target }) => {
  for (const drawn of Bokeh.documents)
    for (const plot of drawn.roots())
      for (const curve of plot.renderers)
        if (curve.name === target.value) curve.visible = target.checked;
});

if (!("DecompressionStream" in window)) {
  const note = "This browser cannot unpack the completions (it lacks DecompressionStream); any of 2023 or later can.";
  for (const id of ["flips", "samples"]) document.getElementById(id).append(element("p", "absent", note));
}
drawCharts();
