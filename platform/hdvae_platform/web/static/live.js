// The live page: asks for the studies, or for one, again and again, and shows what it is told.
import { NAMED, STYLES, axes, element, limits, path, sample, signed } from "/charts.js";

const OTHER = "var(--other)"; // the colour of trials beyond those that have one of their own
const PAUSE = { running: 2000, interrupted: 5000, finished: 15000, list: 3000, problem: 5000, unread: 200 };
const STATES = ["complete", "pruned", "fail", "running", "waiting"];
const WORDS = { complete: "complete", running: "running", waiting: "waiting", pruned: "pruned", fail: "failed" };
const name = location.pathname.startsWith("/studies/") ? decodeURIComponent(location.pathname.slice(9)) : null;
const find = (selector) => document.querySelector(selector);
const styles = new Map(); // trial → its place in STYLES, kept as long as the page is open
let named = new Set(); // the trials that are drawn in their styles now
let timer, shown, metric = "";

function make(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function row(cells) {
  const made = make("tr");
  for (const cell of cells) {
    if (cell instanceof Node) made.append(cell);
    else made.append(typeof cell === "number" ? make("td", cell, { class: "number" }) : make("td", cell));
  }
  return made;
}

const number = (text) => make("td", text, { class: "number" });
function value(one) {
  if (one === null || one === undefined) return "";
  const size = Math.abs(one);
  const far = size >= 1e5 || (one && size < 0.0005);
  return signed(far ? one.toExponential(2) : one.toFixed(size < 1 ? 3 : 2));
}

const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

// A date as 2026-11-28 13:12.
function date(seconds) {
  const at = new Date(1000 * seconds), two = (count) => String(count).padStart(2, "0");
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}`;
}

function badge(study) {
  const begins = study.state === "running" && study.begun === false;
  return make("span", begins ? "begins" : study.state, { class: `state ${begins ? "begins" : study.state}` });
}

function showList(studies) {
  document.title = "Studies";
  find(".kind").hidden = true;
  find("#studies").hidden = false;
  find("#studies .scroll").hidden = !studies.length;
  find("#studies .empty").hidden = studies.length > 0;
  find("#studies tbody").replaceChildren(...studies.map((one) => {
    const at = make("td"), state = make("td");
    at.append(make("a", one.study, { href: `/studies/${encodeURIComponent(one.study)}` }));
    state.append(badge(one));
    return row([at, state, number(`${one.complete} of ${one.runs}`), one.pruned, one.failed, one.claim]);
  }));
}

function showProgress(study) {
  const counts = STATES.filter((state) => study.states[state]);
  find("#bar").setAttribute("aria-label", counts.map((state) => `${study.states[state]} ${WORDS[state]}`).join(", "));
  find("#bar").replaceChildren(...counts.map((state) => {
    const part = make("span", null, { class: state });
    part.style.flexGrow = study.states[state];
    return part;
  }));
  find("#states").replaceChildren(...counts.map((state) => {
    const item = make("li"), text = `${study.states[state]} ${WORDS[state]}`;
    item.append(make("span", null, { class: `swatch ${state}` }), state === "fail" ? make("a", text, { href: "#failures" }) : text);
    return item;
  }));
  const { done, of } = study.trials;
  const best = study.best_trial, far = study.state === "finished" ? "" : " so far";
  const facts = [
    ["runs complete", `${study.complete} of ${study.runs}`],
    ["trials done", of === null ? `${done}` : `${done} of ${of}`],
    study.seconds_left === null ? null : ["time left, about", duration(study.seconds_left)],
    study.constraints ? ["feasible", study.constraints] : null,
    ["first launched", date(study.created)],
    best ? [`best ${study.objectives[0].metric}${far}`, `${value(best.value)} (trial ${best.trial}${best.confirmed ? ", confirmed" : ""})`] : null,
  ];
  find("#facts").replaceChildren(...facts.filter(Boolean).map(([term, text]) => {
    const both = make("div");
    both.append(make("dt", term), make("dd", text));
    return both;
  }));
}

function showRuns(study) {
  find("#under-way").hidden = !study.under_way.length;
  find("#under-way [data-metric]").textContent = study.objectives[0].metric;
  find("#under-way tbody").replaceChildren(...study.under_way.map((one) => {
    const step = make("td");
    step.append(make("progress", null, { value: one.step, max: one.steps, "aria-label": `${one.handle}: steps done` }), `${one.step} of ${one.steps}`);
    const speed = one.images_per_second === null ? "" : one.images_per_second.toFixed(0);
    const left = one.seconds_left === null ? "" : duration(one.seconds_left);
    return row([one.kind === "search" ? one.handle : `${one.handle} (${one.kind})`, step, number(value(one.value)), number(speed), number(left), one.settings]);
  }));
}

// A style for each of the first trials. A trial keeps its own while the page is open, also while it is not among them;
// only once all styles are taken, the trial that has had one for the longest gives it up.
function restyle(curves) {
  named = new Set(curves.slice(0, NAMED).map((one) => one.trial));
  for (const trial of named) {
    if (styles.has(trial)) continue;
    const old = [...styles.keys()].filter((one) => !named.has(one));
    if (styles.size === STYLES.length) styles.delete(old[0]);
    const taken = new Set(styles.values());
    const colours = new Set([...named].filter((one) => styles.has(one)).map((one) => STYLES[styles.get(one)][0]));
    const free = STYLES.map((_, i) => i).filter((i) => !taken.has(i));
    styles.set(trial, free.find((i) => !colours.has(STYLES[i][0])) ?? free[0]);
  }
}

// Mean, lowest and highest value over a trial's runs, at the steps that all runs with curves have reported.
function overSeeds(runs) {
  const maps = runs.map((run) => new Map(run.points));
  return runs[0].points.map(([step]) => [step, maps.map((map) => map.get(step))])
    .filter(([, values]) => values.every((one) => one !== undefined))
    .map(([step, values]) => ({ step, mean: values.reduce((a, b) => a + b) / values.length, low: Math.min(...values), high: Math.max(...values) }));
}

// The limits of the named trials after the first fifth of the steps, before which training changes fast.
function valueLimits(named, most) {
  const late = named.flatMap((run) => run.points.filter(([step], i) => step >= most / 5 || i === run.points.length - 1));
  return limits(late.map((point) => point[1]));
}

function showCurves(study) {
  const curves = study.curves.map((one) => ({ ...one, runs: one.runs.filter((run) => run.kind === "search" && run.points.length) })).filter((one) => one.runs.length);
  find("#curves").hidden = !study.begun;
  const select = find("#metric");
  if (select.options.length !== study.metrics.length) select.replaceChildren(...study.metrics.map((one) => make("option", one, { value: one })));
  select.value = study.metric;
  if (!curves.length) {
    find("#curves .chart").replaceChildren(make("p", "No run has reported this metric yet."));
    find("#curves .legend").replaceChildren();
    find("#curves .note").textContent = "";
    return;
  }
  restyle(curves);
  const runs = curves.flatMap((one) => one.runs);
  const most = Math.max(...runs.map((run) => run.points.at(-1)[0]));
  const y = valueLimits(curves.filter((one) => named.has(one.trial)).flatMap((one) => one.runs), most);
  const cut = runs.some((run) => run.points.some((point) => point[1] < y[0] || point[1] > y[1]));
  const chart = axes(find("#curves .chart"), [0, most * 1.02], y, ["step", study.metric], `Curves of ${study.metric} by trial`);
  for (const one of [...curves].reverse()) drawTrial(chart, one);
  const several = runs.length > curves.length;
  find("#curves .note").textContent = [
    several ? "Thick lines: mean over seeds. Bands: from the lowest to the highest seed. Thin lines: each run." : "",
    cut ? "The vertical axis leaves out the first fifth of the steps." : "",
    study.trained > study.curves.length ? `${study.curves.length} of ${study.trained} trials are drawn: those under way, the best, and the newest.` : "",
    study.unread ? `Reading the journals of ${plural(study.unread, "more run")} …` : "",
  ].filter(Boolean).join(" ");
  find("#curves .legend").replaceChildren(...curves.filter((one) => named.has(one.trial)).map(legendOf));
}

function drawTrial(chart, one) {
  const style = named.has(one.trial) ? STYLES[styles.get(one.trial)] : null;
  const [colour, dashes] = style ?? [OTHER, ""];
  const group = element("g", { fill: "none", stroke: colour, "stroke-linejoin": "round" });
  group.append(element("title", {}, `trial ${one.trial}: ${one.settings}`));
  const mean = one.runs.length > 1 ? overSeeds(one.runs) : [];
  if (style && mean.length > 1) {
    const around = [...mean.map((at) => [at.step, at.high]), ...mean.reverse().map((at) => [at.step, at.low])];
    group.append(element("path", { d: `${path(around, chart)}Z`, fill: colour, "fill-opacity": 0.16, stroke: "none" }));
    mean.reverse();
    group.append(element("path", { d: path(mean.map((at) => [at.step, at.mean]), chart), "stroke-width": 2.4, "stroke-dasharray": dashes }));
  }
  const alone = style && one.runs.length === 1;
  for (const run of one.runs) {
    const last = run.points.at(-1);
    group.append(element("path", { d: path(run.points, chart), "stroke-width": alone ? 2.4 : 1, "stroke-dasharray": alone ? dashes : "", "stroke-opacity": alone ? 1 : 0.55 }));
    group.append(element("circle", { cx: chart.toX(last[0]), cy: chart.toY(last[1]), r: style ? 3 : 2, fill: run.state === "RUNNING" ? "var(--paper)" : colour, "stroke-width": 1.4 }));
  }
  chart.inside.append(group);
}

function legendOf(one) {
  const item = make("li");
  const runs = Object.entries(Object.groupBy(one.runs, (run) => run.state)).map(([state, same]) => `${same.length} ${WORDS[state.toLowerCase()]}`);
  const last = overSeeds(one.runs).at(-1);
  item.append(sample(...STYLES[styles.get(one.trial)]), make("b", `${one.trial}`), ` ${one.settings || "as in the study file"}`);
  item.append(make("small", [last ? `${value(last.mean)} at step ${last.step}` : "", runs.join(", ")].filter(Boolean).join("; ")));
  return item;
}

// The border of what the front beats: between two of its trials nothing better in one metric is known than the next.
function stairs(front, direction) {
  const corner = (a, b) => (direction === "maximize" ? [a[0], b[1]] : [b[0], a[1]]);
  return front.flatMap((at, i) => (i ? [corner(front[i - 1], at), at] : [at]));
}

// The trials at each place of the chart; of trials so close that their numbers would cover each other, one label.
function labels(points) {
  const found = [];
  for (const [x, y, trial] of points) {
    const near = found.find((one) => Math.abs(one.x - x) < 14 && Math.abs(one.y - y) < 12);
    if (near) near.trials.push(trial);
    else found.push({ x, y, trials: [trial] });
  }
  return found;
}

function showFront(study) {
  find("#front").hidden = study.objectives.length < 2;
  if (study.objectives.length < 2) return;
  if (!study.front.length) {
    find("#front .chart").replaceChildren(make("p", "No trial is complete yet."));
    return;
  }
  const [one, other] = study.objectives;
  const points = study.front.map((trial) => ({ ...trial, at: trial.values.slice(0, 2) }));
  const across = limits(points.map((p) => p.at[0]));
  const chart = axes(find("#front .chart"), across, limits(points.map((p) => p.at[1])), [one.metric, other.metric], "Trials by two metrics, with the Pareto front");
  const right = chart.toX(across[1]);
  const front = points.filter((p) => p.front).sort((a, b) => a.at[0] - b.at[0]);
  if (study.objectives.length === 2) chart.inside.append(element("path", { d: path(stairs(front.map((p) => p.at), one.direction), chart), fill: "none", stroke: "var(--complete)", "stroke-dasharray": "2 3" }));
  for (const point of [...points.filter((p) => !p.front), ...front]) {
    const [cx, cy] = [chart.toX(point.at[0]), chart.toY(point.at[1])];
    const dot = element("circle", { cx, cy, r: point.front ? 5 : 3.5, fill: point.front ? "var(--complete)" : OTHER });
    dot.append(element("title", {}, `trial ${point.trial}: ${point.settings}`));
    chart.inside.append(dot);
  }
  for (const { x, y, trials } of labels(front.map((p) => [chart.toX(p.at[0]), chart.toY(p.at[1]), p.trial]))) {
    const text = trials.sort((a, b) => a - b).join(", "), left = x + 8 * text.length > right;
    chart.inside.append(element("text", { class: "number", x: left ? x - 7 : x + 7, y: y - 6, "text-anchor": left ? "end" : "start" }, text));
  }
  const third = study.objectives.length > 2 ? ` The front is that of all ${study.objectives.length} metrics.` : "";
  const ways = [one, other].map((way) => `${way.metric} is to be ${way.direction}d`).join(", ");
  find("#front .note").textContent = `Complete trials, by their means over seeds; ${ways}. Numbered: the Pareto front, the trials that no other${study.constraints ? " feasible one" : ""} beats.${third}`;
}

function showBest(study) {
  find("#best").hidden = !study.best.length;
  const confirmed = study.best.some((one) => one.confirmations);
  const columns = study.measured.flatMap((one) => [one.limit ? `${one.metric}, ${one.limit}` : one.metric, ...(confirmed ? ["confirmed"] : [])]);
  const heads = ["trial", ...columns, "seeds", "settings"];
  const cells = (one) => one.values.flatMap((at, i) => [number(value(at)), ...(confirmed ? [number(value(one.confirmed[i]))] : [])]);
  find("#best thead tr").replaceChildren(...heads.map((head) => make("th", head, head === "settings" || head === "trial" ? {} : { class: "number" })));
  find("#best tbody").replaceChildren(...study.best.map((one) => row([
    `${one.trial}`, ...cells(one), number(one.confirmations ? `${one.seeds} + ${one.confirmations}` : `${one.seeds}`), one.settings,
  ])));
  const first = confirmed && study.objectives.length === 1 ? "confirmed trials first, " : "";
  find("#best .note").textContent = `Means over seeds, ${first}by ${study.objectives[0].metric}${study.constraints ? ", infeasible ones last" : ""}.` + (confirmed ? " Confirmed: the mean over fresh seeds." : " The best of many trials is partly the luckiest one.");
}

function showFailures(study) {
  find("#failures").hidden = !study.failures.length;
  find("#failures ul").replaceChildren(...study.failures.map((one) => {
    const failed = one.state === "FAIL";
    const item = make("li", `${one.handle}${failed ? "" : ` (goes on: ${plural(one.attempts, "attempt")})`} · ${one.settings}`, failed ? {} : { class: "again" });
    item.append(make("code", one.error));
    return item;
  }));
}

function showStudy(study) {
  const done = study.runs ? Math.floor((100 * (study.complete + study.pruned + study.failed)) / study.runs) : 0;
  document.title = `${done}% · ${study.study}`;
  find("#claim").textContent = study.claim;
  find("h1").replaceChildren(study.study, badge(study));
  find("#study").hidden = false;
  for (const show of [showProgress, showRuns, showCurves, showFront, showBest, showFailures]) show(study);
}

function tell(problem) {
  find("#problem").hidden = !problem;
  find("#problem").textContent = problem;
}

async function refresh() {
  clearTimeout(timer);
  let pause = PAUSE.problem;
  try {
    const query = metric ? `?metric=${encodeURIComponent(metric)}` : "";
    const answer = await fetch(name === null ? "/api/studies" : `/api/studies/${encodeURIComponent(name)}${query}`);
    const told = await answer.json();
    if (answer.ok) {
      tell("");
      if (name === null) showList(told);
      else showStudy((shown = told));
      find("#updated").textContent = `Updated at ${new Date().toLocaleTimeString("en-GB")}.`;
      pause = name === null ? PAUSE.list : told.unread ? PAUSE.unread : PAUSE[told.state];
    } else tell(`${told.error}. The page tries again.`);
  } catch {
    tell("hdvae ui does not answer. It may have been closed; the page tries again.");
  }
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(refresh, pause);
}

find("h1").textContent = name ?? "Studies";
find("#metric").addEventListener("change", (event) => {
  metric = event.target.value;
  refresh();
});
document.addEventListener("visibilitychange", () => document.hidden || refresh());
addEventListener("resize", () => {
  if (shown) for (const show of [showCurves, showFront]) show(shown);
});
refresh();
