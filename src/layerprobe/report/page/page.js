// Draws the views, sorts the table of runs, and compares two runs or two layers sample by sample.

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
    found.set(run.heads[k].join(), row);
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

// Holm's step-down correction for the number of tests.
function holm(p) {
  const order = p.map((_, i) => i).sort((i, j) => p[i] - p[j]), out = [];
  let highest = 0;
  order.forEach((i, rank) => { highest = Math.max(highest, Math.min(1, p[i] * (p.length - rank))); out[i] = highest; });
  return out;
}

const percent = (x) => (100 * x).toFixed(2) + "%";
const small = (p) => (p >= 0.001 ? p.toFixed(3) : p.toExponential(1));

function row(cells, tag = "td") {
  const tr = document.createElement("tr");
  for (const cell of cells) tr.appendChild(Object.assign(document.createElement(tag), { textContent: cell }));
  return tr;
}

function options(select, entries, value) {
  const chosen = entries.some(([v]) => String(v) === String(value)) ? value : entries[entries.length - 1]?.[0];
  select.replaceChildren(...entries.map(([v, text]) => new Option(text, v, false, String(v) === String(chosen))));
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
  const layers = (run, c) => run.heads.filter(([k]) => k === c).map(([, l]) => [l, data.layers[l]]);

  async function show() {
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
    body.replaceChildren();
    if (a.split !== b.split) {
      words.textContent = `${name(a, ca)} and ${name(b, cb)} have other test samples, so they cannot be paired.`;
      return;
    }
    const [ha, hb] = [await heads(a), await heads(b)], chosen = Number(layer.value);
    const found = layers(a, ca).flatMap(([l, text]) => {
      const x = ha.get(`${ca},${between ? l : chosen}`), y = hb.get(`${cb},${l}`);
      return x && y && (between || l !== chosen) ? [{ text, x: right(x), y: right(y), b: only(x, y), c: only(y, x) }] : [];
    });
    const p = holm(found.map((f) => mcnemar(f.b, f.c)));
    const which = between ? [name(a, ca), name(b, cb)] : [data.layers[chosen], "the other layer"];
    const apart = found.map((f, i) => [f, p[i]]).filter(([, q]) => q < 0.05);
    const rule = `McNemar's mid-p, Holm over ${found.length} layers, 5%`;
    const subject = between ? `${which[0]} and ${which[1]}` : `In ${name(a, ca)}, ${which[0]}`;
    if (found.length === 0) words.textContent = `${subject}: no layer in common.`;
    else if (apart.length === 0)
      words.textContent = between ? `${subject} do not differ at any of ${found.length} layers (${rule}).`
        : `${subject} does not differ from any of ${found.length} other layers (${rule}).`;
    else words.textContent = `${subject} ${between ? "differ at" : "differs from"} ${apart.length} of ${found.length} `
      + `${between ? "" : "other "}layers (${rule}): `
      + apart.slice(0, 6).map(([f, q]) => `${f.text} (${percent(1 - f.x / a.n)} against ${percent(1 - f.y / a.n)}, p ${small(q)})`).join(", ")
      + (apart.length > 6 ? ` and ${apart.length - 6} more.` : ".");
    found.forEach((f, i) => body.appendChild(row([
      f.text, percent(1 - f.x / a.n), percent(1 - f.y / a.n), (100 * (f.x - f.y) / a.n).toFixed(2), f.b, f.c, small(p[i]),
      p[i] < 0.05 ? "differ" : "no difference shown",
    ])));
  }
  for (const el of [kind, first, second, layer, at.first, at.second]) el.addEventListener("change", show);
  await show();
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

function chooser(view) {
  const boxes = [...document.querySelectorAll("#runs tbody input")];
  const choose = () => {
    const on = boxes.filter((box) => box.checked).map((box) => Number(box.value));
    view.signal("chosen", on.length === boxes.length ? [] : on.length ? on : [-1]).runAsync();
  };
  for (const box of boxes) box.addEventListener("change", choose);
  $("all-runs")?.addEventListener("change", (event) => { for (const box of boxes) box.checked = event.target.checked; choose(); });
  // The store, not the signal: that is one movement of the mouse behind.
  if (boxes.length > 1) view.addDataListener("brush_store", (_, store) => {
    const [x, y] = store[0]?.values ?? [], places = data.places[view.signal("swept")];
    for (const box of boxes) {
      const i = Number(box.value), best = data.best[i];
      const inside = !x || (places[i] >= Math.min(...x) && places[i] <= Math.max(...x) && best >= Math.min(...y) && best <= Math.max(...y));
      box.closest("tr").classList.toggle("outside", !inside);
    }
  });
}

// A page that renews itself keeps what was chosen.
function remember(view) {
  const names = data.pickers, kept = JSON.parse(sessionStorage.getItem(document.title) ?? "{}");
  for (const name of names) {
    if (name in kept) try { view.signal(name, kept[name]); } catch { /* a picker that is gone */ }
    view.addSignalListener(name, (_, value) => { kept[name] = value; sessionStorage.setItem(document.title, JSON.stringify(kept)); });
  }
}

(async () => {
  sortable($("runs"));
  const embed = { actions: false, logLevel: 1 };
  const { view } = await vegaEmbed("#charts", data.spec, { ...embed, renderer: data.renderer });
  chooser(view);
  if (data.renewing) remember(view);
  await view.runAsync();
  await differences();
  for (const [i, film] of data.films.entries()) await vegaEmbed(`#film-${i}`, film, { ...embed, renderer: "canvas" });
  window.report = { view, mcnemar, holm };
  document.documentElement.dataset.ready = Math.round(performance.now());
})();
