// Charts as SVG, as wide as the element that they are put into.
const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 340;
const EDGE = { left: 64, right: 16, top: 10, bottom: 40 };

// Okabe and Ito's colours, which colour-blind readers can tell apart; dashes differ too.
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6FDF"];
const DASHES = ["", "7 3", "9 3 2 3", "2 3", "12 4", "5 5", "3 2 9 2"];
// So many lines are drawn in a style at a time: as many as there are colours.
export const NAMED = COLOURS.length;
// Each colour with each dash; the first ones differ in both.
export const STYLES = DASHES.flatMap((_, turn) => COLOURS.map((colour, i) => [colour, DASHES[(i + turn) % DASHES.length]]));

export function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Round numbers from low to high, some `count` of them.
export function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((one) => power * one >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return { found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

// The limits of an axis for these values, with a margin.
export function limits(values) {
  const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
  const margin = 0.06 * (high - low) || 0.05 * Math.abs(high) || 1;
  return [low - margin, high + margin];
}

// A number with a minus, at which no line is broken, instead of a hyphen.
export function signed(text) {
  return text.replace("-", "\u2212");
}

function shown(value, digits) {
  return signed(Math.abs(value) >= 1e5 ? value.toExponential(1) : value.toFixed(digits));
}

// An empty chart with axes: the place to draw in, and the positions of values on it.
export function axes(holder, x, y, names, description) {
  const width = Math.max(holder.clientWidth, 280);
  const svg = element("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": description });
  const right = width - EDGE.right, bottom = HEIGHT - EDGE.bottom;
  const toX = (value) => EDGE.left + ((value - x[0]) / (x[1] - x[0])) * (right - EDGE.left);
  const toY = (value) => bottom - ((value - y[0]) / (y[1] - y[0])) * (bottom - EDGE.top);
  const across = ticks(x[0], x[1], Math.max(2, Math.floor(width / 120))), up = ticks(y[0], y[1], 6);
  for (const at of up.found) {
    svg.append(element("line", { class: "axis", x1: EDGE.left, x2: right, y1: toY(at), y2: toY(at) }));
    svg.append(element("text", { x: EDGE.left - 6, y: toY(at) + 4, "text-anchor": "end" }, shown(at, up.digits)));
  }
  for (const at of across.found) {
    svg.append(element("line", { class: "axis", x1: toX(at), x2: toX(at), y1: bottom, y2: bottom + 4 }));
    svg.append(element("text", { x: toX(at), y: bottom + 18, "text-anchor": "middle" }, shown(at, across.digits)));
  }
  svg.append(element("rect", { class: "frame", x: EDGE.left, y: EDGE.top, width: right - EDGE.left, height: bottom - EDGE.top }));
  svg.append(element("text", { x: (EDGE.left + right) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, names[0]));
  const middle = (EDGE.top + bottom) / 2;
  svg.append(element("text", { x: 13, y: middle, "text-anchor": "middle", transform: `rotate(-90 13 ${middle})` }, names[1]));
  const id = `clip-${names.join("-").replace(/\W/g, "_")}`;
  const clip = element("clipPath", { id });
  clip.append(element("rect", { x: EDGE.left, y: EDGE.top, width: right - EDGE.left, height: bottom - EDGE.top }));
  const inside = element("g", { "clip-path": `url(#${id})` });
  svg.append(clip, inside);
  holder.replaceChildren(svg);
  return { inside, toX, toY };
}

export function path(points, { toX, toY }) {
  return points.map(([x, y], i) => `${i ? "L" : "M"}${toX(x).toFixed(1)} ${toY(y).toFixed(1)}`).join("");
}

// The sign of a line in a legend.
export function sample(colour, dashes, thickness = 2) {
  const svg = element("svg", { viewBox: "0 0 34 10", "aria-hidden": "true" });
  svg.append(element("line", { x1: 0, x2: 34, y1: 5, y2: 5, stroke: colour, "stroke-width": 2 * thickness, "stroke-dasharray": dashes }));
  return svg;
}
