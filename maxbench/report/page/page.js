// The page of a report: tables that sort, plots that are drawn when they come into sight, and the gallery of samples.
// A page on disk may load nothing but scripts: every part of the data is a script that calls maxbench.put.
"use strict";

const build = document.documentElement.dataset.build;
const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

// --- data -------------------------------------------------------------------------------------------------------

const maxbench = (() => {
  const values = new Map(), promises = new Map();
  function script(file) {
    return new Promise((resolve, reject) => {
      const element = document.createElement("script");
      element.src = `${build}/${file}`;
      element.onload = () => { element.remove(); resolve(); };
      element.onerror = () => reject(new Error(`${element.src} is not there; make the report again.`));
      document.head.append(element);
    });
  }
  function once(name, file, then) {
    if (!promises.has(name)) promises.set(name, script(file).then(then));
    return promises.get(name);
  }
  return {
    put: (name, value) => values.set(name, value),
    data: (name) => once(name, `data/${name}.js`, () => values.get(name)),
    plots: () => once("plots", "plots.js", () => window.vegaEmbed),
    // the bundle is a module, which a page on disk may not import by its path
    tables: () => once("tables", "tables.js", async () => {
      const url = URL.createObjectURL(new Blob([values.get("tables")], { type: "text/javascript" }));
      values.delete("tables");
      try { return (await import(url)).default; } finally { URL.revokeObjectURL(url); }
    }),
  };
})();
window.maxbench = maxbench;

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((each) => each !== null && each !== undefined));
  return element;
}

function failed(error, place) {
  place.replaceChildren(make("p", { class: "note", role: "alert" }, error.message));
}

// --- tables and plots -------------------------------------------------------------------------------------------

async function sortable(table, filters = []) {
  const DataTable = await maxbench.tables();
  const rows = table.tBodies[0].rows.length;
  const grid = new DataTable(table, {
    order: [], paging: rows > 40, pageLength: 40, lengthChange: false, info: rows > 40, autoWidth: false,
    layout: { topStart: rows > 8 ? "search" : null, topEnd: null, bottomStart: "info", bottomEnd: rows > 40 ? "paging" : null },
    language: { search: "", searchPlaceholder: "find in this table" },
  });
  if (!filters.length) return;
  const chosen = make("div", { class: "chosen" });
  for (const place of filters) {
    const column = grid.column(place);
    const options = [...new Set(column.data().toArray().map(plain))].map((text) => make("option", { value: text }, text));
    const select = make("select", { onchange: () => {
      column.search(select.value ? (text) => [text, plain(text)].includes(select.value) : "").draw();
    } }, make("option", { value: "" }, "all"), ...options);
    chosen.append(make("label", {}, `${column.header().textContent} `, select));
  }
  table.closest(".scroll").before(chosen);
}

function plain(html) {
  return new DOMParser().parseFromString(String(html), "text/html").body.textContent;
}

function dataTable(value) {
  const head = make("tr", {}, ...value.headings.map((each) => make("th", { scope: "col" }, each)));
  const body = value.rows.map((row) => make("tr", {}, ...row.map(([text, order]) => {
    const cell = make("td", typeof order === "string" ? { class: "words" } : {}, text);
    if (typeof order !== "string") cell.dataset.order = order ?? "-1e308";
    return cell;
  })));
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
}

async function openTable(details) {
  if (!details.open || details.dataset.made) return;
  details.dataset.made = "yes";
  const key = details.closest("section").dataset.key;
  const place = make("div", { class: "scroll" }, "...");
  details.append(place);
  try {
    const value = await maxbench.data(`${key}/${details.dataset.table}`);
    const table = dataTable(value);
    place.replaceChildren(table);
    await sortable(table, value.filters);
  } catch (error) { failed(error, place); }
}

async function drawPlot(place) {
  const key = place.closest("section").dataset.key;
  try {
    const [embed, specs] = await Promise.all([maxbench.plots(), maxbench.data(`${key}/charts`)]);
    await embed(place, specs[Number(place.dataset.plot)], {
      renderer: "svg", actions: { export: true, source: false, compiled: false, editor: false },
    });
  } catch (error) { failed(error, place); }
}

const inSight = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    inSight.unobserve(target);
    if (target.matches("table")) sortable(target).catch((error) => console.error(error));
    else drawPlot(target);
  }
}, { rootMargin: "300px" });

// --- where we are: #run/sample/view?rule=...&baseline=... ----------------------------------------------------------

const VIEWS = ["list", "sample", "compare"];
const KEPT = ["metric", "rule", "baseline", "order", "filter", "replicate", "left", "right", "page"];
const PER_PAGE = 24;
let state = null;  // of the gallery; null where the report is shown
let run = null;    // what is known of the run that the gallery shows
let scrolled = 0;

function decoded(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

function read(hash) {
  const [path, query = ""] = hash.replace(/^#/, "").split("?");
  const [anchor, sample, view] = path.split("/").map(decoded);
  if (sample === undefined) return { anchor };
  const asked = { anchor, sample, view: VIEWS.includes(view) ? view : sample ? "sample" : "list" };
  for (const [name, value] of new URLSearchParams(query)) if (KEPT.includes(name)) asked[name] = value;
  return asked;
}

function written({ anchor, sample, view, ...rest }) {
  const query = new URLSearchParams();
  for (const name of KEPT) {
    const value = rest[name];
    if (value !== undefined && value !== "" && String(value) !== String(run.first[name] ?? "")) query.set(name, value);
  }
  const path = [anchor, sample ?? "", view].map(encodeURIComponent).join("/");
  return `#${path}${query.size ? `?${query}` : ""}`;
}

function go(changes, push = false) {
  const next = written({ ...state, ...changes });
  if (push) { history.pushState(null, "", next); } else { history.replaceState(null, "", next); }
  return route();
}

let turn = 0;
async function route() {
  const mine = ++turn;
  const asked = read(location.hash);
  const section = $$("section.run").find((each) => each.dataset.anchor === asked.anchor);
  const gallery = $("#gallery"), report = $("#report");
  if (asked.sample === undefined || !section) {
    const back = state !== null;
    state = null;
    gallery.hidden = true;
    report.hidden = false;
    if (back && !asked.anchor) scrollTo(0, scrolled); else if (section) section.scrollIntoView();
    return;
  }
  if (state === null) scrolled = scrollY;
  try {
    const known = await opened(section);
    if (mine !== turn) return;
    run = known;
    state = { ...run.first, ...asked };
    settle();
    await ordered();
    if (mine !== turn) return;
    report.hidden = true;
    gallery.hidden = false;
    await render(mine);
  } catch (error) {
    report.hidden = true;
    gallery.hidden = false;
    gallery.replaceChildren(make("p", {}, make("a", { href: `#${encodeURIComponent(asked.anchor)}` }, "Report")));
    gallery.append(make("p", { class: "note", role: "alert" }, error.message));
  }
}

const galleries = new Map();
async function opened(section) {
  const key = section.dataset.key;
  if (!galleries.has(key)) {
    const [about, samples] = await Promise.all([maxbench.data(`${key}/run`), maxbench.data(`${key}/samples`)]);
    galleries.set(key, {
      key, about, samples, words: samples.map(([id, prompt]) => `${id} ${prompt}`.toLowerCase()),
      places: new Map(samples.map(([id], place) => [id, place])),
      rows: new Map(about.rows.map(({ name }, place) => [name, place])),
      first: { metric: "0", rule: about.rule, baseline: about.baseline, order: "gain", filter: "", replicate: "0",
               left: about.rule, right: about.baseline, page: "0" },
      maps: true, lines: true,
    });
  }
  return galleries.get(key);
}

// A link may name what is not there any more: it falls back on what is shown first.
function settle() {
  for (const name of ["rule", "baseline", "left", "right"]) if (!run.rows.has(state[name])) state[name] = run.first[name];
  if (!run.about.metrics[state.metric]) state.metric = "0";
  if (!["gain", "loss", "run"].includes(state.order)) state.order = "gain";
  const replicate = Number(state.replicate);
  if (!(replicate >= 0 && replicate < run.about.replicates && Number.isInteger(replicate))) state.replicate = "0";
  state.unknown = state.sample && !run.places.has(state.sample) ? state.sample : "";
  if (state.unknown) state.view = "list";
}

// --- the order of samples -----------------------------------------------------------------------------------------

let order = { key: "", places: [], changes: [] };

async function ordered() {
  const key = [run.key, state.metric, state.rule, state.baseline, state.order, state.filter].join("\n");
  if (order.key === key) return;
  const { metrics, replicates } = run.about;
  const count = run.samples.length;
  const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  let places = [...run.samples.keys()].filter((place) => words.every((word) => run.words[place].includes(word)));
  let changes = new Array(count).fill(null);
  if (metrics.length) {
    const values = await maxbench.data(`${run.key}/values-${state.metric}`);
    const ours = values[run.rows.get(state.rule)], theirs = values[run.rows.get(state.baseline)];
    changes = changes.map((_, place) => {
      let sum = 0;
      for (let at = place * replicates; at < (place + 1) * replicates; at++) {
        if (ours[at] === null || theirs[at] === null) return null;
        sum += ours[at] - theirs[at];
      }
      return sum / replicates;
    });
    if (state.order !== "run") {
      const sign = (metrics[state.metric].higher ? 1 : -1) * (state.order === "gain" ? -1 : 1);
      places.sort((one, other) => (changes[one] === null) - (changes[other] === null)
        || sign * (changes[one] - changes[other]) || one - other);
    }
  }
  order = { key, places, changes };
}

// --- what is drawn --------------------------------------------------------------------------------------------------

async function part(place) {
  const { part: size } = run.about;
  return (await maxbench.data(`${run.key}/part-${Math.floor(place / size)}`))[place % size];
}

function number(value, digits, signed = false) {
  if (value === null || value === undefined) return "-";
  return (signed && value >= 0 ? "+" : "") + value.toFixed(digits);
}

function change(place) {
  const metric = run.about.metrics[state.metric];
  return metric ? number(order.changes[place], metric.digits, true) : "-";
}

async function render(mine) {
  const gallery = $("#gallery");
  const typing = document.activeElement?.id === "filter" ? document.activeElement.selectionStart : null;
  const focused = document.activeElement?.closest?.("#gallery") ? document.activeElement.id : "";
  const view = state.view === "list" || !order.places.length && !state.sample ? await list() : await sampleView();
  if (mine !== turn) return;
  gallery.replaceChildren(bar(), choices(), ...view);
  if (state.view !== "list") ahead();
  if (typing !== null) { $("#filter").focus(); $("#filter").setSelectionRange(typing, typing); }
  else if (focused) document.getElementById(focused)?.focus();
}

function bar() {
  const { about } = run;
  const at = order.places.indexOf(run.places.get(state.sample));
  const pages = Math.max(1, Math.ceil(order.places.length / PER_PAGE));
  const where = state.view === "list"
    ? `page ${page() + 1} of ${pages}, ${order.places.length.toLocaleString("en")} of ${run.samples.length.toLocaleString("en")} samples`
    : at < 0 ? "not among those that are chosen" : `${(at + 1).toLocaleString("en")} of ${order.places.length.toLocaleString("en")}`;
  const button = (id, words, action, pressed) => make("button", {
    id, type: "button", onclick: action, ...(pressed === undefined ? {} : { "aria-pressed": String(pressed) }),
  }, words);
  return make("div", { class: "bar" },
    make("a", { href: `#${encodeURIComponent(state.anchor)}`, id: "back" }, "Report"),
    make("span", { class: "faint title" }, about.title),
    make("span", { class: "grow" }),
    button("previous", "\u2190", () => step(-1)), make("span", { id: "where" }, where), button("next", "\u2192", () => step(1)),
    make("span", { class: "grow" }),
    ...VIEWS.map((name) => button(`view-${name}`, name, () => show(name), state.view === name)),
    about.replicates > 1 ? button("replicate", `noise ${Number(state.replicate) + 1} of ${about.replicates}`, nextReplicate) : null,
    state.view === "sample" ? button("maps", "maps", () => toggle("maps"), run.maps) : null,
    about.outlines && state.view !== "list" ? button("lines", "outlines", () => toggle("lines"), run.lines) : null,
    button("help", "?", keys),
  );
}

function select(id, label, options, value, action) {
  const field = make("select", { id, onchange: () => action(field.value) },
    ...options.map(([key, words]) => make("option", { value: key, selected: String(key) === String(value) }, words)));
  return make("label", {}, label, field);
}

function choices() {
  const rows = run.about.rows.map(({ name, label }) => [name, label]);
  const orders = [["gain", `where ${state.rule} wins most`], ["loss", `where ${state.rule} loses most`], ["run", "as in the run"]];
  const filter = make("input", { type: "search", id: "filter", placeholder: "words of the prompt", value: state.filter,
    "aria-label": "Filter by words of the prompt", oninput: () => go({ filter: filter.value, page: "0" }) });
  const sides = state.view === "compare"
    ? [select("left", "left", rows, state.left, (left) => go({ left })), select("right", "right", rows, state.right, (right) => go({ right }))]
    : [];
  const metric = run.about.metrics[state.metric];
  const said = `${orders.find(([key]) => key === state.order)[1]}, against ${state.baseline}${metric ? `, by ${metric.plain}` : ""}`;
  return make("details", { class: "choosing", open: choosing, ontoggle: (event) => { choosing = event.target.open; } },
    make("summary", {}, `sorted: ${said}`), make("div", { class: "choices" },
    select("order", "sorted", orders, state.order, (value) => go({ order: value, page: "0" })),
    select("rule", "rule", rows, state.rule, (rule) => go({ rule, page: "0" })),
    select("baseline", "against", rows, state.baseline, (baseline) => go({ baseline, page: "0" })),
    run.about.metrics.length
      ? select("metric", "by", run.about.metrics.map(({ name }, place) => [place, name]), state.metric, (metric) => go({ metric, page: "0" }))
      : null,
    filter, ...sides));
}
let choosing = matchMedia("(min-width: 700px)").matches;

function page() {
  const last = Math.max(0, Math.ceil(order.places.length / PER_PAGE) - 1);
  return Math.min(Math.max(0, Math.floor(Number(state.page)) || 0), last);
}

async function list() {
  const { about } = run;
  const shown = order.places.slice(page() * PER_PAGE, (page() + 1) * PER_PAGE);
  const parts = await Promise.all(shown.map(part));
  const cells = about.sources + about.rows.length;
  const thumb = (strip, cell, title) => {
    const element = make("span", { class: "thumb", role: "img", "aria-label": title, title });
    if (strip) {
      element.style.backgroundImage = `url("${strip}")`;
      element.style.backgroundSize = `${100 * cells}% 100%`;
      element.style.backgroundPosition = `${cells > 1 ? 100 * cell / (cells - 1) : 0}% 0`;
    }
    return element;
  };
  const entries = shown.map((place, at) => {
    const [id, prompt] = run.samples[place];
    const strip = parts[at].strips[state.replicate];
    const sources = [...Array(about.sources).keys()].map((cell) => thumb(strip, cell, "source picture"));
    const rows = [state.rule, state.baseline].map((name) => thumb(strip, about.sources + run.rows.get(name), name));
    return make("button", { class: "entry", type: "button", "data-sample": id, onclick: () => go({ sample: id, view: "sample" }, true) },
      make("span", { class: "thumbs" }, ...sources, ...rows),
      make("span", {}, make("b", {}, change(place)), ` ${id}`),
      make("span", { class: "words" }, prompt));
  });
  const metric = about.metrics[state.metric];
  const lead = metric
    ? `Source picture, ${state.rule}, ${state.baseline}; the number is ${metric.plain} of ${state.rule} minus that of ${state.baseline}.`
    : `Source picture, ${state.rule}, ${state.baseline}.`;
  const lost = state.unknown ? make("p", { class: "note", role: "alert" }, `There is no sample ${state.unknown} in this run.`) : null;
  const none = entries.length ? null : make("p", {}, "No prompt has all of these words.");
  return [make("div", {}, lost, make("p", { class: "note" }, lead), none, make("div", { class: "list" }, ...entries),
    make("p", { class: "note" }, about.note))];
}

async function sampleView() {
  const place = run.places.get(state.sample) ?? order.places[0];
  if (run.samples[place][0] !== state.sample) {
    state.sample = run.samples[place][0];
    history.replaceState(null, "", written(state));
  }
  const found = await part(place);
  const [id, prompt, group, conflict] = run.samples[place];
  const about = [id, group === id ? null : `group ${group}`, conflict === null ? null : `conflict ${number(conflict, 2)}`];
  const head = make("div", {}, make("p", { class: "prompt" }, prompt),
    make("p", { class: "note" }, about.filter(Boolean).join(", "), ". ", winner(found), ` ${state.rule} minus ${state.baseline}: ${change(place)}.`));
  return state.view === "compare" ? [head, comparison(found)] : [head, given(found), methods(found), make("p", { class: "note" }, run.about.note)];
}

function metricOf(name, condition = "") {
  return run.about.metrics.findIndex((each) => each.metric === name && each.condition === condition);
}

function value(found, metric, row) {
  return metric < 0 ? null : found.values[metric][row][state.replicate];
}

// The rows with the largest joint score of this picture, among the rules that may satisfy all conditions.
function best(found) {
  const joint = metricOf("joint");
  const scores = run.about.rows.map(({ role }, row) => ["fusion", "entered"].includes(role) ? value(found, joint, row) : null);
  const most = Math.max(...scores.map((each) => each ?? -Infinity));
  return most === -Infinity ? [] : [...scores.keys()].filter((row) => scores[row] === most);
}

function winner(found) {
  const rows = best(found);
  if (!rows.length) return "No joint score was measured.";
  const joint = metricOf("joint");
  return `Best joint score here: ${rows.map((row) => run.about.rows[row].name).join(", ")} with ${number(value(found, joint, rows[0]), 2)}.`;
}

function picture(file, words, found, broken = "missing", action = null) {
  const frame = make(action ? "button" : "span", { class: "frame", ...(action ? { type: "button", onclick: action, title: `${words}: compare` } : {}) });
  const said = (why) => make("span", { class: "missing" }, why);
  const content = file
    ? [make("img", { src: file, alt: words, decoding: "async", onerror: () => frame.replaceChildren(said("damaged")) }), run.lines && found.outline ? make("img", { class: "lines", src: found.outline, alt: "" }) : null]
    : [said(broken)];
  frame.append(...content.filter(Boolean));
  return frame;
}

function given(found) {
  return make("div", { class: "row given" }, ...found.given.map(({ of, file, source }) => {
    const words = source ? (run.about.sources > 1 ? `picture of ${of.join(", ")}` : "source picture") : `${of[0]}, given`;
    return make("figure", {}, picture(file, words, found), make("figcaption", {}, words));
  }));
}

function methods(found) {
  const winners = best(found);
  const { conditions } = run.about;
  return make("div", { class: "row methods" }, ...run.about.rows.map(({ name, label }, row) => {
    const file = found.pictures[state.replicate][row];
    const broken = found.damaged[state.replicate][row] ? "damaged" : "missing";
    const joint = metricOf("joint");
    const scores = [["joint", joint], ...conditions.map((each) => [`q ${each}`, metricOf("q", each)])]
      .filter(([, metric]) => metric >= 0)
      .map(([words, metric]) => `${words} ${number(value(found, metric, row), 2)}`);
    const frame = picture(file, label, found, broken, () => go({ view: "compare", left: name, right: name === state.baseline ? state.rule : state.baseline }, true));
    return make("figure", { class: winners.includes(row) ? "best" : "", "data-row": name }, frame,
      make("figcaption", {}, make("span", { class: "name" }, label), make("br"), scores.join(", ")),
      run.maps && found.seen ? seenMaps(found, row) : null);
  }));
}

function seenMaps(found, row) {
  const own = found.seen[state.replicate][row];
  if (!own.some(Boolean)) return null;
  return make("div", { class: "maps" }, ...run.about.conditions.flatMap((condition, place) => {
    if (!own[place]) return [];
    const metric = run.about.metrics.findIndex((each) => each.condition === condition && each.metric !== "q");
    const said = metric < 0 ? condition
      : `${run.about.metrics[metric].name} ${number(value(found, metric, row), run.about.metrics[metric].digits)}`;
    return [picture(own[place][0], `${condition} re-estimated`, found), picture(own[place][1], `error of ${condition}`, found),
      make("span", { class: "said" }, said)];
  }));
}

let edge = 50;
function comparison(found) {
  const files = found.pictures[state.replicate];
  const [left, right] = [state.left, state.right].map((name) => run.rows.get(name));
  const over = picture(files[left], run.about.rows[left].label, found), under = picture(files[right], run.about.rows[right].label, found);
  const top = make("div", {}, over), line = make("div", { class: "edge" });
  Object.assign(top.style, { position: "absolute", inset: "0" });
  const slider = make("input", { type: "range", id: "slider", min: "0", max: "100", step: "0.5", value: String(edge),
    "aria-label": "How much of the left picture is shown", oninput: () => move(Number(slider.value)) });
  function move(to) {
    edge = Math.min(100, Math.max(0, to));
    slider.value = String(edge);
    top.style.clipPath = `inset(0 ${100 - edge}% 0 0)`;
    line.style.left = `${edge}%`;
  }
  const frame = make("div", { class: "frame" }, under, top, line);
  const drag = (event) => {
    if (event.type !== "pointerdown" && !event.buttons) return;
    const box = frame.getBoundingClientRect();
    move(100 * (event.clientX - box.left) / box.width);
  };
  frame.addEventListener("pointerdown", drag);
  frame.addEventListener("pointermove", drag);
  frame.addEventListener("dragstart", (event) => event.preventDefault());
  move(edge);
  moveEdge = move;
  const scores = (row) => {
    const said = [["joint", metricOf("joint")], ...run.about.conditions.map((each) => [`q ${each}`, metricOf("q", each)])];
    return said.filter(([, metric]) => metric >= 0).map(([words, metric]) => `${words} ${number(value(found, metric, row), 2)}`).join(", ");
  };
  const side = (row) => make("span", {}, make("b", {}, run.about.rows[row].label), make("br"), scores(row));
  return make("div", { class: "compare" }, make("div", { class: "sides" }, side(left), side(right)), frame, slider);
}
let moveEdge = () => {};

// The pictures of the samples before and after this one, so that they are there when they are asked for.
async function ahead() {
  const at = order.places.indexOf(run.places.get(state.sample));
  for (const place of [order.places[at + 1], order.places[at - 1]]) {
    if (at < 0 || place === undefined) continue;
    const found = await part(place);
    for (const file of [...found.given.map((each) => each.file), ...found.pictures[state.replicate]]) if (file) new Image().src = file;
  }
}

// --- moving ---------------------------------------------------------------------------------------------------------

function step(by) {
  if (state.view === "list") return go({ sample: "", page: String(Math.min(Math.max(0, page() + by), Math.ceil(order.places.length / PER_PAGE) - 1)) });
  const at = order.places.indexOf(run.places.get(state.sample));
  const to = at < 0 ? 0 : Math.min(Math.max(0, at + by), order.places.length - 1);
  if (to !== at && order.places.length) go({ sample: run.samples[order.places[to]][0] });
}

function jump(last) {
  if (state.view === "list") return go({ page: last ? String(Math.ceil(order.places.length / PER_PAGE) - 1) : "0" });
  const place = order.places.at(last ? -1 : 0);
  if (place !== undefined) go({ sample: run.samples[place][0] });
}

function show(view) {
  if (view === state.view) return;
  const first = order.places[page() * PER_PAGE];
  if (view === "list") {
    const at = order.places.indexOf(run.places.get(state.sample));
    return go({ sample: "", view, page: String(Math.max(0, Math.floor(at / PER_PAGE))) }, true);
  }
  const sample = state.sample || (first === undefined ? "" : run.samples[first][0]);
  if (sample) go({ sample, view, ...(view === "compare" ? { left: state.rule, right: state.baseline } : {}) }, true);
}

function nextReplicate() {
  go({ replicate: String((Number(state.replicate) + 1) % run.about.replicates) });
}

function toggle(what) {
  run[what] = !run[what];
  render(turn);
}

function up() {
  if (state.view === "compare") show("sample");
  else if (state.view === "sample") show("list");
  else location.hash = encodeURIComponent(state.anchor);
}

const KEYS = [
  ["\u2190 \u2192", "the sample before, the next one; in the list the page", (key) => step(key === "ArrowLeft" ? -1 : 1), ["ArrowLeft", "ArrowRight"]],
  ["Home End", "the first, the last", (key) => jump(key === "End"), ["Home", "End"]],
  ["s", "one sample", () => show("sample"), ["s"]],
  ["c", "compare two methods with a slider", () => show("compare"), ["c"]],
  ["l", "the list", () => show("list"), ["l"]],
  ["[ ]", "move the slider", (key) => moveEdge(edge + (key === "[" ? -5 : 5)), ["[", "]"]],
  ["x", "exchange rule and baseline, or the two sides of the slider",
    () => state.view === "compare" ? go({ left: state.right, right: state.left }) : go({ rule: state.baseline, baseline: state.rule, page: "0" }), ["x"]],
  ["m", "re-estimated maps and their errors", () => toggle("maps"), ["m"]],
  ["o", "outlines of what is controlled", () => toggle("lines"), ["o"]],
  ["r", "the next noise, where a sample has several", () => run.about.replicates > 1 && nextReplicate(), ["r"]],
  ["/", "filter by words of the prompt", () => { $(".choosing").open = true; $("#filter").focus(); }, ["/"]],
  ["Esc", "back", up, ["Escape"]],
  ["?", "these keys", () => keys(), ["?"]],
];

function keys() {
  const dialog = $("#keys");
  const rows = KEYS.flatMap(([key, words]) => [make("dt", {}, key), make("dd", {}, words)]);
  dialog.replaceChildren(make("dl", {}, ...rows), make("button", { type: "button", onclick: () => dialog.close() }, "close"));
  dialog.showModal();
}

document.addEventListener("keydown", (event) => {
  if (!state || $("#keys").open || event.ctrlKey || event.metaKey || event.altKey) return;
  const { target } = event;
  if (target.matches("input[type=search]")) {
    if (event.key === "Escape" || event.key === "Enter") { target.blur(); event.preventDefault(); }
    return;
  }
  if (target.matches("select, input[type=range]") && /^(Arrow|Home|End)/.test(event.key)) return;
  if (target.matches("select") && event.key.length === 1) return;
  const found = KEYS.find(([, , , names]) => names.includes(event.key));
  if (!found) return;
  event.preventDefault();
  found[2](event.key);
});

addEventListener("hashchange", route);
addEventListener("popstate", route);
for (const table of $$("table.sortable")) inSight.observe(table);
for (const place of $$("[data-plot]")) inSight.observe(place);
for (const details of $$("details.data")) details.addEventListener("toggle", () => openTable(details));
route();
