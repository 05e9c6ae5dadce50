// Draws and links the views, sorts the table of runs, and compares two runs or two layers sample by sample.
// Every choice stands in the address, so that whoever opens it sees the same.

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// For each head of a run its bits, eight samples to a byte; stored as changes from the head before.
async function heads(run) {
  const packed = await inflate(run.bits), width = Math.ceil(run.n / 8), found = new Map();
  for (let k = 0; k < run.heads.length; k++) {
    const row = packed.subarray(k * width, (k + 1) * width);
    if (k) for (let j = 0; j < width; j++) row[j] ^= packed[(k - 1) * width + j];
    found.set(run.heads[k].slice(0, 2).join(), { row, samples: run.heads[k][2] });
  }
  return found;
}

const ones = (byte) => { let n = 0; for (; byte; byte &= byte - 1) n++; return n; };
const only = (a, b) => a.reduce((n, byte, j) => n + ones(byte & ~b[j] & 255), 0);
const right = (a) => a.reduce((n, byte) => n + ones(byte), 0);

// McNemar's two-sided mid-p: 2 P(X < m) + P(X = m), X ~ Binomial(b + c, 1/2), m = min(b, c).
function mcnemar(b, c) {
  if (b === c) return 1;
  const n = b + c, m = Math.min(b, c);
  let log = -n * Math.LN2, below = 0;
  for (let k = 0; k < m; k++) { below += Math.exp(log); log += Math.log((n - k) / (k + 1)); }
  return 2 * below + Math.exp(log);
}

// erfc(x) for x >= 0 to a relative 1.2e-7: Press et al., Numerical Recipes, erfcc.
function erfc(x) {
  const t = 1 / (1 + x / 2), terms = [0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368, -1.26551223];
  return t * Math.exp(-x * x + terms.reduce((sum, term) => sum * t + term, 0));
}

// Pearson's test of two shares of independent samples, with the factor (N - 1) / N.
function pearson(x, n, y, m) {
  const N = n + m, both = (x + y) / N;
  if (both === 0 || both === 1) return 1;
  return erfc(Math.sqrt((N - 1) / N * (y / m - x / n) ** 2 / (both * (1 - both) * (1 / n + 1 / m)) / 2));
}

// Holm's step-down correction for the number of tests.
function holm(p) {
  const order = p.map((_, i) => i).sort((i, j) => p[i] - p[j]), out = [];
  let highest = 0;
  order.forEach((i, rank) => { highest = Math.max(highest, Math.min(1, p[i] * (p.length - rank))); out[i] = highest; });
  return out;
}

const points = (x) => x.toFixed(2).replace(/^-(?=0\.00$)/, "");
const percent = (x) => (100 * x).toFixed(2) + "%";
const small = (p) => (p >= 0.001 ? p.toFixed(3) : p.toExponential(1));

function row(cells, tag = "td") {
  const tr = document.createElement("tr");
  for (const cell of cells) tr.appendChild(Object.assign(document.createElement(tag), { textContent: cell }));
  const name = tr.firstElementChild; // of a layer: a line may end behind its dots
  name.replaceChildren(...name.textContent.split(/(?<=\.)/).flatMap((part) => [document.createElement("wbr"), part]));
  return tr;
}

const choices = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
addEventListener("hashchange", () => { if (location.hash.includes("=")) location.reload(); });

function keep(name, value) {
  if (value === null) choices.delete(name); else choices.set(name, value);
  history.replaceState(null, "", String(choices) ? `#${choices}` : location.pathname + location.search);
}

// What a reader sees is kept, and not its number: it means the same where a later page has more runs.
const chosenText = (control) => (control.type === "checkbox" ? String(control.checked) : control.selectedOptions[0]?.text ?? "");

function restore(control) {
  const text = choices.get(control.name);
  if (text === null) return;
  if (control.type === "checkbox") control.checked = text === "true";
  else for (const option of control.options) if (option.text === text) control.value = option.value;
}

function options(select, entries, value) {
  const chosen = entries.some(([v]) => String(v) === String(value)) ? value : entries[entries.length - 1]?.[0];
  const first = select.options.length === 0;
  select.replaceChildren(...entries.map(([v, text]) => new Option(text, v, false, String(v) === String(chosen))));
  if (first) restore(select);
}

async function differences() {
  const runs = data.samples;
  if (runs.length === 0) { $("difference").hidden = true; return; }
  const kind = $("kind"), first = $("first"), second = $("second"), layer = $("against");
  const at = { first: $("first-at"), second: $("second-at") };
  const names = runs.map((run, i) => [i, data.names[run.run]]);
  options(first, names, 0);
  options(second, names, Math.min(1, runs.length - 1));
  const of = (select) => runs[Number(select.value)];
  const checkpoints = (run) => [...new Set(run.heads.map(([c]) => c))].map((c) => [c, data.checkpoints[c]]);
  if (runs.length === 1) {
    // A run does not differ from itself: its first checkpoint against its last, or one layer against the others.
    const known = checkpoints(runs[0]);
    options(at.first, known, known[0][0]);
    if (known.length === 1) kind.value = "layers";
  }
  restore(kind);
  const layers = (run, c) => run.heads.filter(([k]) => k === c).map(([, l]) => [l, data.layers[l]]);

  let shows = 0;
  async function show() {
    const turn = ++shows;
    const a = of(first), between = kind.value === "runs";
    const b = between ? of(second) : a;
    options(at.first, checkpoints(a), at.first.value || undefined);
    options(at.second, checkpoints(b), at.second.value || undefined);
    const ca = Number(at.first.value), cb = between ? Number(at.second.value) : ca;
    options(layer, layers(a, ca), layer.value || undefined);
    for (const el of document.querySelectorAll(".two-runs")) el.hidden = !between;
    for (const el of document.querySelectorAll(".two-layers")) el.hidden = between;
    const name = (run, c) => `${data.names[run.run]} at ${data.checkpoints[c]}`;
    const body = $("differences").tBodies[0], words = $("in-words");
    const [ha, hb] = [await heads(a), await heads(b)], chosen = Number(layer.value);
    if (turn !== shows) return; // another choice has been made meanwhile
    body.replaceChildren();
    const found = layers(a, ca).flatMap(([l, text]) => {
      const x = ha.get(`${ca},${between ? l : chosen}`), y = hb.get(`${cb},${l}`);
      if (!x || !y || (!between && l === chosen)) return [];
      const wrong = { text, x: a.n - right(x.row), y: b.n - right(y.row) };
      return [x.samples === y.samples ? { ...wrong, paired: true, b: only(x.row, y.row), c: only(y.row, x.row) }
        : { ...wrong, paired: false, known: a.n !== b.n || (x.samples >= 0 && y.samples >= 0), b: "", c: "" }];
    });
    const p = holm(found.map((f) => f.paired ? mcnemar(f.b, f.c) : pearson(f.x, a.n, f.y, b.n)));
    const alone = found.filter((f) => !f.paired);
    const which = between ? [name(a, ca), name(b, cb)] : [data.layers[chosen], "the other layer"];
    const apart = found.map((f, i) => [f, p[i]]).filter(([, q]) => q < 0.05);
    const layersOf = found.length === 1 ? "layer" : "layers";
    const rule = `${alone.length ? "Pearson's test" : "McNemar's mid-p"}, Holm over ${found.length} ${layersOf}, 5%`;
    const remark = alone.length === 0 ? ""
      : alone.some((f) => f.known) ? " They were tested on other samples, so they are compared as independent ones, not in pairs."
      : " Whether they were tested on the same samples cannot be known, since a run was written by a version that kept no fingerprint of them: they are compared as independent ones, not in pairs.";
    const subject = between ? `${which[0]} and ${which[1]}` : `In ${name(a, ca)}, ${which[0]}`;
    if (found.length === 0) words.textContent = `${subject}: no layer in common.`;
    else if (apart.length === 0)
      words.textContent = `${subject}: no difference shown ${between ? "at" : "against"} any of ${found.length} ${between ? "" : "other "}${layersOf} (${rule}).`;
    else words.textContent = `${subject} ${between ? "differ at" : "differs from"} ${apart.length} of ${found.length} `
      + `${between ? "" : "other "}${layersOf} (${rule}): `
      + apart.slice(0, 6).map(([f, q]) => `${f.text} (${percent(f.x / a.n)} against ${percent(f.y / b.n)}, p ${small(q)})`).join(", ")
      + (apart.length > 6 ? `, … (${apart.length - 6} more).` : ".");
    words.textContent += found.length ? remark : "";
    found.forEach((f, i) => body.appendChild(row([
      f.text, percent(f.x / a.n), percent(f.y / b.n), points(100 * (f.y / b.n - f.x / a.n)), f.b, f.c, small(p[i]),
      p[i] < 0.05 ? "differ" : "no difference shown",
    ])));
  }
  for (const el of [kind, first, second, layer, at.first, at.second]) el.addEventListener("change", () => { keep(el.name, chosenText(el)); show(); });
  await show();
}

// What the head of a run, a checkpoint and a layer answers by class, and where it looks: ready charts.
const ofHead = { run: $("head-run"), checkpoint: $("head-at"), layer: $("head-layer") };

function mapsOf(head) {
  return data.heads.maps.filter((map) => Object.keys(head).every((key) => map[key] === null || map[key] === head[key]));
}

let mapsShown = 0;
async function showHead() {
  const turn = ++mapsShown, maps = data.heads.maps, { run, checkpoint, layer } = ofHead;
  const known = (key, some) => [...new Set(some.map((map) => map[key]).filter((place) => place !== null))].sort((a, b) => a - b);
  const fill = (select, places, names, value) => options(select, places.map((place) => [place, names[place]]), select.value || value);
  fill(run, known("run", maps), data.names, maps[0].run);
  const own = maps.filter((map) => map.run === Number(run.value)), first = own.find((map) => map.kind === "confusion") ?? {};
  const all = (key) => own.find((map) => map[key] !== null)?.[key];
  fill(checkpoint, known("checkpoint", own), data.checkpoints, first.checkpoint ?? all("checkpoint"));
  fill(layer, known("layer", own), data.layers, first.layer ?? all("layer"));
  for (const select of [checkpoint, layer]) select.parentElement.hidden = select.options.length === 0;
  const chosen = mapsOf({ run: Number(run.value), checkpoint: Number(checkpoint.value), layer: Number(layer.value) });
  for (const figure of document.querySelectorAll("#head-maps figure")) {
    const map = chosen.find((one) => one.kind === figure.id);
    const spec = map && JSON.parse(new TextDecoder().decode(await inflate(map.spec)));
    if (turn !== mapsShown) return; // another choice has been made meanwhile
    figure.hidden = !map;
    if (map) await plot(figure.firstElementChild, { ...data.heads.look, ...spec }, { ...embed, renderer: "svg" });
  }
  $("no-head-map").textContent = chosen.length ? "" : "This page has no chart of this head.";
}

// The head of a point that is clicked, where the page has something of it.
function chooseHead(datum) {
  const places = { run: datum?.run, checkpoint: datum?.checkpoint, layer: data.layers.indexOf(datum?.layer_text) };
  if (!ofHead.run || Object.values(places).some((place) => place === undefined || place < 0) || !mapsOf(places).length) return;
  for (const [key, select] of Object.entries(ofHead)) {
    const place = String(places[key]);
    if (![...select.options].some((option) => option.value === place)) select.add(new Option("", place));
    select.value = place;
  }
  showHead().then(() => { for (const select of Object.values(ofHead)) keep(select.name, chosenText(select)); });
}

function sortable(table) {
  const value = (tr, i) => tr.cells[i].dataset.sort ?? tr.cells[i].textContent;
  const compare = (x, y) => (x === "" || y === "" ? (x === "") - (y === "") : isNaN(x) || isNaN(y) ? x.localeCompare(y, "en", { numeric: true }) : x - y);
  [...table.tHead.rows[0].cells].forEach((cell, i) => cell.querySelector("button")?.addEventListener("click", () => {
    const down = cell.ariaSort === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    cell.ariaSort = down ? "descending" : "ascending";
    const rows = [...table.tBodies[0].rows].sort((a, b) => (down ? -1 : 1) * compare(value(a, i), value(b, i)));
    table.tBodies[0].append(...rows);
  }));
}

const views = {};
const embed = { actions: false, logLevel: 1, renderer: data.renderer };

// A heat map's paper and letters follow the theme, its cells do not.
const night = matchMedia("screen and (prefers-color-scheme: dark)"), themed = new Map();
const paint = (dark) => { for (const view of themed.values()) view.signal("dark", dark).run(); };
night.addEventListener("change", () => paint(night.matches));

async function plot(place, spec, how = embed) {
  const params = spec.params?.map((param) => (param.name === "dark" ? { ...param, value: night.matches } : param));
  const { view } = await vegaEmbed(place, params ? { ...spec, params } : spec, how);
  if (params?.some((param) => param.name === "dark")) { place.classList.add("themed"); themed.set(place, view); }
  return view;
}

async function set(name, value, some = Object.keys(views)) {
  await Promise.all(some.map((view) => views[view].signal(name, value).runAsync()));
}

const valueOf = (control) => (control.type === "checkbox" ? control.checked : control.name === "layer" ? Number(control.value) : control.value);

async function draw(name) {
  const spec = { ...data.specs[name], datasets: { ...data.specs[name].datasets, ...data.datasets } };
  for (const control of $("pickers").elements) spec.params.find((param) => param.name === control.name).value = valueOf(control);
  const view = await plot($(name).firstElementChild.firstElementChild, spec);
  views[name] = view;
  view.addEventListener("pointerover", (_, item) => point(item?.datum?.run ?? -1));
  view.addEventListener("click", (_, item) => chooseHead(item?.datum));
  $(name).querySelector(".copy").addEventListener("click", (event) => copy(view, name, event.currentTarget));
}

async function copy(view, name, button) {
  paint(false); // on white, for papers and slides
  const canvas = await view.toCanvas(2);
  paint(night.matches);
  const picture = await new Promise((done) => canvas.toBlob(done));
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": picture })]);
    button.textContent = "copied";
  } catch { // a browser that gives a file no clipboard
    Object.assign(document.createElement("a"), { href: URL.createObjectURL(picture), download: `${name}.png` }).click();
    button.textContent = "saved as a file";
  }
  setTimeout(() => { button.textContent = "copy picture"; }, 2000);
}

// On paper each view is as wide as the page, so that its letters are as large as the others'.
const PAPER = 680;
addEventListener("beforeprint", () => { paint(false); for (const view of Object.values(views)) laidOut(view.width(PAPER)); });
addEventListener("afterprint", () => { paint(night.matches); dispatchEvent(new Event("resize")); });

// Names of layers that turn upright where it is narrow take another height: that is known after a first layout.
const laidOut = (view) => view.run().resize().run();
let resized;
addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(() => Object.values(views).forEach(laidOut), 100); });

// A run that the mouse is on, in a view or in the table, stands out in all views.
let pointed = -1;
function point(run) {
  if (run === pointed) return;
  pointed = run;
  set("pointed", run);
}

const ranges = (runs) => runs.reduce((parts, i) => {
  const last = parts.at(-1);
  if (last && last[1] === i - 1) last[1] = i; else parts.push([i, i]);
  return parts;
}, []).map(([a, b]) => (a === b ? `${a}` : `${a}-${b}`)).join("_");
const within = (text, i) => text.split("_").some((part) => { const [a, b] = part.split("-").map(Number); return i >= a && i <= (b ?? a); });

// The table's boxes and the brush choose runs: the brushed view shows those of the boxes, the others what is in both.
async function chooser() {
  const boxes = [...document.querySelectorAll("#runs tbody input")], others = Object.keys(views).filter((name) => name !== "best_layer");
  const list = (runs) => (runs.length === boxes.length ? [] : runs.length ? runs : [-1]);
  let inside = () => true, waiting;
  const choose = () => {
    const on = boxes.filter((box) => box.checked).map((box) => Number(box.value)), both = on.filter((i) => inside(i));
    for (const box of boxes) box.closest("tr").classList.toggle("outside", !inside(Number(box.value)));
    keep("chosen", both.length === boxes.length ? null : ranges(both));
    return Promise.all([set("chosen", list(on), views.best_layer ? ["best_layer"] : []), set("chosen", list(both), others)]);
  };
  for (const box of boxes) {
    box.checked = !choices.has("chosen") || within(choices.get("chosen"), Number(box.value));
    box.addEventListener("change", choose);
    box.closest("tr").addEventListener("pointerenter", () => point(Number(box.value)));
  }
  $("runs").addEventListener("pointerleave", () => point(-1));
  $("all-runs").addEventListener("change", (event) => { for (const box of boxes) box.checked = event.target.checked; choose(); });
  // The store, not the signal: that is one movement of the mouse behind.
  views.best_layer?.addDataListener("brush_store", (_, store) => {
    const [x, y] = store[0]?.values ?? [], places = data.places[views.best_layer.signal("swept")];
    inside = (i) => !x || (places[i] >= Math.min(...x) && places[i] <= Math.max(...x) && data.best[i] >= Math.min(...y) && data.best[i] <= Math.max(...y));
    clearTimeout(waiting);
    waiting = setTimeout(choose, 30);
  });
  if (choices.has("chosen")) await choose();
}

function pickers() {
  for (const control of $("pickers").elements) {
    restore(control);
    control.addEventListener("change", () => { keep(control.name, chosenText(control)); set(control.name, valueOf(control)); });
  }
  const failed = $("failed-too");
  if (!failed) return;
  const show = () => { for (const tr of document.querySelectorAll("#runs tr.failed")) tr.hidden = !failed.checked; };
  restore(failed);
  failed.addEventListener("change", () => { keep(failed.name, chosenText(failed)); show(); });
  show();
}

(async () => {
  sortable($("runs"));
  pickers();
  for (const name of Object.keys(data.specs)) { // one after another: the first can be read while the others are drawn
    await draw(name);
    await new Promise((drawn) => setTimeout(drawn));
  }
  await chooser();
  await differences();
  if (ofHead.run) {
    for (const select of Object.values(ofHead)) select.addEventListener("change", () => { keep(select.name, chosenText(select)); showHead(); });
    await showHead();
  }
  for (const [i, transfer] of data.transfers.entries()) await plot($(`transfer-${i}`), transfer);
  for (const [i, animation] of data.animations.entries()) await vegaEmbed(`#animation-${i}`, animation, { ...embed, renderer: "canvas" });
  window.report = { views, set, mcnemar, holm, pearson };
  document.documentElement.dataset.ready = Math.round(performance.now());
})();
