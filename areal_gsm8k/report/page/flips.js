// The questions that changed sides, with both completions.
"use strict";

function answerBefore(side) {
  return side.error ? "no answer" : side.extracted ?? "no answer";
}

function flipSide(title, side, kind) {
  return element("div", `sample ${kind}`,
    element("h4", "", title, element("span", "", side.truncated ? "truncated" : "")),
    element("pre", "", side.completion ?? "(no completion)"),
    pairs([["extracted", side.extracted], ["rule", side.rule], ["error", side.error]]));
}

function flipElements(kind, flip) {
  const gained = kind === "gained";
  const figures = `${answerBefore(flip.before)} → ${answerBefore(flip.after)}`;
  const row = element("button", `row ${gained ? "right" : "wrong"}`,
    element("span", "mark", gained ? "+" : "−"), element("span", "text", flip.question ?? flip.row),
    element("span", "figures", figures));
  const sides = element("div", "side", flipSide("first evaluation", flip.before, gained ? "wrong" : "right"),
    flipSide("last evaluation", flip.after, gained ? "right" : "wrong"));
  const open = element("div", "open", element("p", "", flip.question ?? flip.row),
    element("details", "", element("summary", "", "reference solution"), element("pre", "", flip.reference ?? "")), sides);
  open.hidden = true;
  row.type = "button";
  row.onclick = () => row.setAttribute("aria-expanded", !(open.hidden = !open.hidden));
  return [row, open];
}

for (const place of document.querySelectorAll(".flips")) {
  const packed = data.flips[place.dataset.run];
  const buttons = [...place.querySelectorAll("[data-kind]")];
  if (!packed) continue;
  unpack(packed).then((flips) => {
    const choose = (kind) => {
      for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.kind === kind);
      fill(place.querySelector(".list"), flips[kind], (flip) => flipElements(kind, flip), 10);
    };
    for (const button of buttons) button.onclick = () => choose(button.dataset.kind);
    choose(flips.gained.length ? "gained" : "lost");
  });
}
