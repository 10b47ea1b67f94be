// The sample browser: one step of one run, filtered and searched; a sample opens to its whole group.
"use strict";

const MARKS = { right: "✓", wrong: "✗", error: "!" };
const FILTERS = {
  all: () => true,
  right: (sample) => kindOf(sample) === "right",
  wrong: (sample) => kindOf(sample) === "wrong",
  truncated: (sample) => Boolean(sample.truncated),
  error: (sample) => Boolean(sample.error || sample.rejected),
};
const places = Object.fromEntries(["browser", "sample-run", "sample-step", "step-shown", "step-back", "step-on",
  "sample-filter", "sample-search", "sample-count", "sample-list"].map((id) => [id, document.getElementById(id)]));
const shown = { run: 0, step: null, filter: "all", q: "", group: null };
let groups = []; // of the step that is shown
let asked = 0; // steps asked for: only the newest is shown, whichever is unpacked first

function kindOf(sample) {
  return sample.error || sample.lenient === undefined ? "error" : sample.lenient ? "right" : "wrong";
}

function verdictOf(sample) {
  const said = { error: "no verdict", wrong: "wrong", right: sample.strict ? "right" : "right, not in the marker" };
  return `${MARKS[kindOf(sample)]} ${said[kindOf(sample)]}`;
}

function stepsOf(run) {
  return Object.keys(data.samples[run]).map(Number).sort((a, b) => a - b);
}

function signed(value) {
  const shown = value?.toFixed(2);
  return shown === "-0.00" ? "0.00" : value > 0 ? `+${shown}` : shown;
}

function advantageOf(sample, largest) {
  if (sample.advantage == null) return null;
  const bar = element("span", `advantage ${sample.advantage < 0 ? "negative" : ""}`, element("i"));
  bar.firstChild.style.setProperty("--size", largest > 1e-3 ? Math.abs(sample.advantage) / largest : 0);
  return element("span", "", signed(sample.advantage), bar);
}

function sampleCard(sample, chosen, largest) {
  const parts = Object.entries(sample.parts ?? {}).map(([name, value]) => `${name} ${value}`).join(", ");
  const note = [`sample ${sample.id}`, sample.truncated ? "truncated" : null];
  return element("div", `sample ${kindOf(sample)} ${sample === chosen ? "chosen" : ""}`,
    element("h4", "", verdictOf(sample), element("span", "", note.filter(Boolean).join(", "))),
    element("pre", "", sample.completion ?? "(no completion)"),
    pairs([
      ["reward", sample.reward === undefined ? undefined : sample.reward + (parts ? ` (${parts})` : "")],
      ["advantage", advantageOf(sample, largest)], ["extracted", sample.extracted], ["rule", sample.rule],
      ["versions", sample.versions?.join(", ")], ["tokens", sample.completion_tokens],
      ["logprob drift", sample.logprob_drift], ["error", sample.error],
      ["rejected", sample.rejected === sample.error ? undefined : sample.rejected],
    ]));
}

function groupElement(group, chosen) {
  const largest = Math.max(...group.samples.map((sample) => Math.abs(sample.advantage ?? 0)));
  const rewards = group.samples.map((sample) => sample.reward ?? NaN);
  const mean = rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length;
  const made = element("div", "open",
    element("details", "", element("summary", "", `reference solution of ${group.row}`), element("pre", "", group.reference)),
    element("p", "note", `${group.samples.length} samples of this question` +
      (Number.isNaN(mean) ? "" : `, mean reward ${mean.toFixed(3)}`) + (largest ? "" : ", no signal: nothing was learned from them")),
    element("div", "side", ...group.samples.map((sample) => sampleCard(sample, chosen, largest))));
  made.id = "group";
  return made;
}

function questionElement(group) {
  const right = group.samples.filter((sample) => kindOf(sample) === "right").length;
  const answer = group.reference?.split("####")[1]?.trim();
  return element("div", "question", element("span", "", group.question),
    element("span", "figures", `${answer ? `answer ${answer}, ` : ""}${right} of ${group.samples.length} right`));
}

function sampleElements({ group, sample, first, opens }) {
  const figures = [sample.truncated ? "truncated" : null, `reward ${sample.reward ?? "–"}`,
    sample.advantage == null ? null : `advantage ${signed(sample.advantage)}`, `${sample.completion_tokens ?? "–"} tokens`];
  const row = element("button", `row ${kindOf(sample)}`, element("span", "mark", MARKS[kindOf(sample)]),
    element("span", "text", element("b", "", sample.extracted ?? "no answer"),
      element("code", "", (sample.completion ?? sample.error ?? "").replace(/\s+/g, " "))),
    element("span", "figures", figures.filter(Boolean).join(" · ")));
  row.type = "button";
  row.setAttribute("aria-expanded", Boolean(opens));
  row.onclick = () => {
    const open = row.getAttribute("aria-expanded") === "true";
    document.getElementById("group")?.remove();
    for (const other of places["sample-list"].querySelectorAll("[aria-expanded=true]")) other.setAttribute("aria-expanded", false);
    if (!open) row.after(groupElement(group, sample));
    row.setAttribute("aria-expanded", !open);
    shown.group = open ? null : group.name;
    changed();
  };
  return [...(first ? [questionElement(group)] : []), row, ...(opens ? [groupElement(group, null)] : [])];
}

function showSamples() {
  const wanted = shown.q.toLowerCase();
  const all = groups.flatMap((group) => group.samples.map((sample) => ({ group, sample })));
  const found = all.filter(({ group, sample }) => !wanted ||
    [group.question, group.row, sample.completion, sample.extracted].some((text) => text?.toLowerCase().includes(wanted)));
  for (const button of places["sample-filter"].querySelectorAll("button")) {
    button.setAttribute("aria-pressed", button.dataset.filter === shown.filter);
    button.querySelector("b").textContent = found.filter(({ sample }) => FILTERS[button.dataset.filter](sample)).length;
  }
  const listed = found.filter(({ sample }) => FILTERS[shown.filter](sample));
  listed.forEach((item, at) => { item.first = item.group !== listed[at - 1]?.group; });
  const opened = listed.find(({ group }) => group.name === shown.group);
  if (opened) opened.opens = true;
  fill(places["sample-list"], listed, sampleElements);
  places["sample-count"].textContent =
    `${listed.length} of ${all.length} samples of ${groups.length} questions. Choose one to see its whole group.`;
}

async function showStep(group = null) {
  const steps = stepsOf(shown.run);
  places.browser.hidden = steps.length === 0;
  if (!steps.length) return;
  const nearest = steps.reduce((best, step) => (Math.abs(step - shown.step) < Math.abs(best - shown.step) ? step : best));
  Object.assign(shown, { step: shown.step === null ? steps.at(-1) : nearest, group });
  const range = places["sample-step"];
  range.max = steps.length - 1;
  range.value = steps.indexOf(shown.step);
  const mine = ++asked;
  const unpacked = await unpack(data.samples[shown.run][shown.step]);
  if (mine !== asked) return;
  groups = unpacked;
  places["step-shown"].textContent = `${shown.step} of ${steps.at(-1)}`;
  showSamples();
}

function changed() {
  hash.write({ ...shown, run: data.names.length > 1 ? shown.run : null, filter: shown.filter === "all" ? null : shown.filter });
}

function moveTo(index) {
  shown.step = stepsOf(shown.run)[index];
  showStep().then(changed);
}

function takeHash() {
  const linked = hash.read();
  if (!linked) return;
  shown.run = data.names[linked.run] === undefined ? 0 : Number(linked.run);
  shown.step = Number.isFinite(Number(linked.step)) ? Number(linked.step) : null;
  shown.filter = linked.filter in FILTERS ? linked.filter : "all";
  shown.q = linked.q ?? "";
  places["sample-run"].value = shown.run;
  places["sample-search"].value = shown.q;
  showStep(linked.group ?? null).then(() => document.getElementById("samples").scrollIntoView());
}

places["sample-run"].onchange = ({ target }) => { shown.run = Number(target.value); showStep().then(changed); };
places["sample-step"].oninput = ({ target }) => moveTo(Number(target.value));
places["step-back"].onclick = () => moveTo(Math.max(0, Number(places["sample-step"].value) - 1));
places["step-on"].onclick = () => moveTo(Math.min(Number(places["sample-step"].max), Number(places["sample-step"].value) + 1));
places["sample-search"].oninput = ({ target }) => { shown.q = target.value; showSamples(); changed(); };
places["sample-filter"].onclick = ({ target }) => {
  const filter = target.closest("button")?.dataset.filter;
  if (filter) { shown.filter = filter; showSamples(); changed(); }
};
addEventListener("hashchange", takeHash);
if (hash.read()) takeHash(); else showStep();
