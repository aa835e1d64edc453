// The table of sources: suspects first, then by the column that was chosen. A source that is opened shows its connections.

import { arrange, call, el, number, say, span } from "./dom.js";
import { chart, draw } from "./chart.js";

const columns = [
  { key: "source", title: "Source", text: true, kind: "name" },
  { key: "open", title: "Open" },
  { key: "history", title: "Last 2 min", spark: true, kind: "spark" },
  { key: "in_use", title: "In use", kind: "middle" },
  { key: "idle", title: "Idle", kind: "middle" },
  { key: "never_spoke", title: "Never spoke", kind: "wide" },
  { key: "opens_1m", title: "Opened/min", kind: "wide" },
  { key: "closes_1m", title: "Closed/min", kind: "wide" },
  { key: "commands_1m", title: "Commands/min", kind: "middle" },
  { key: "refused", title: "Refused", kind: "wide" },
  { key: "last", title: "Last command", text: true, kind: "wide" },
];
const slots = 24; // how many numbers a history has: two minutes
const most = 200; // connections that are shown of a source
const facts = [
  ["process", "Process"], ["command", "Command"], ["container", "Container"], ["addr", "Address"], ["user", "User"], ["name", "Name"],
  ["lib", "Library"], ["cert", "Certificate"], ["slope", "Grows a minute by"], ["peak_in_use", "Most in use, 10 min"],
  ["commands_per_connection", "Commands a connection"], ["subscribed", "Subscribed"], ["ages", "Younger than 1 min / 10 min / 1 h / 1 d / older"],
];

// State that outlives updates, and a reload of the page.
const state = { sort: "open", down: true, filter: "", open: [], ...remembered() };

function remembered() {
  try { return JSON.parse(sessionStorage.getItem("sources")) ?? {}; } catch { return {}; }
}

function remember() {
  try { sessionStorage.setItem("sources", JSON.stringify(state)); } catch { /* it is only forgotten */ }
}

const $ = (id) => document.getElementById(id);
const rows = new Map(); // by source
let sources = [], suspects = new Map(), mayChange = false, tell, ask;

// setUp makes the table. Told says an outcome, asked has something confirmed.
export function setUp(told, asked) {
  tell = told;
  ask = asked;
  const head = el("tr");
  for (const c of columns) {
    const th = el("th", { scope: "col", class: `${c.kind ?? ""} ${c.text || c.spark ? "" : "n"}` });
    th.append(c.spark ? c.title : el("button", { type: "button", onclick: () => sortBy(c) }, c.title));
    c.th = th;
    head.append(th);
  }
  $("sources").tHead.append(head);
  $("filter").value = state.filter;
  $("filter").addEventListener("input", () => { state.filter = $("filter").value; remember(); render(); });
  document.addEventListener("keydown", (e) => {
    if (e.key === "/" && !e.target.closest("input, dialog")) { e.preventDefault(); $("filter").focus(); }
  });
  setInterval(() => { if (!document.hidden) rows.forEach((row) => row.opened && loadClients(row)); }, 2000);
}

function sortBy(c) {
  state.down = state.sort === c.key ? !state.down : !c.text;
  state.sort = c.key;
  remember();
  render();
}

// update takes what is new; undefined is what it was.
export function update({ list = sources, suspected, may = mayChange }) {
  sources = list;
  if (suspected) suspects = new Map(suspected.map((s) => [s.source, s]));
  mayChange = may;
  render();
}

const searched = ["source", "addr", "process", "command", "container", "cert", "lib", "name", "user", "last"];

function render() {
  const all = new Map(sources.map((s) => [s.source, s]));
  for (const [name, s] of suspects) if (!all.has(name)) all.set(name, { ...s, history: "" });
  const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = [...all.values()].filter((s) => {
    const text = [...searched.map((k) => s[k] ?? ""), suspects.get(s.source)?.rule ?? ""].join(" ").toLowerCase();
    return words.every((w) => text.includes(w));
  });
  shown.sort((a, b) => suspects.has(b.source) - suspects.has(a.source) || compare(a, b) || (a.source < b.source ? -1 : 1));
  for (const name of rows.keys()) if (!all.has(name)) rows.delete(name);
  for (const c of columns) {
    if (c.key === state.sort) c.th.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    else c.th.removeAttribute("aria-sort");
  }
  arrange($("sources"), shown.map((s) => fill(s).body), $("sources").tHead);
  const named = shown.filter((s) => suspects.has(s.source)).length;
  say($("count"), `${number(shown.length)} of ${number(all.size)}${named ? `, ${named} suspected of a leak` : ""}`);
  $("none").hidden = shown.length > 0;
  say($("none"), all.size ? "No source matches the filter." : "Nobody is connected.");
}

function compare(a, b) {
  const x = a[state.sort] ?? "", y = b[state.sort] ?? "";
  const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
  return state.down ? -order : order;
}

// fill brings a source's row up to date, and makes it if there is none.
function fill(s) {
  let row = rows.get(s.source);
  if (!row) rows.set(s.source, (row = makeRow(s.source)));
  row.source = s;
  const suspect = suspects.get(s.source);
  row.body.classList.toggle("suspect", !!suspect);
  row.badge.hidden = !suspect;
  row.why.hidden = !suspect;
  if (suspect) {
    say(row.badge, suspect.rule);
    say(row.reason, `${suspect.reason}. Suspected for ${span(suspect.since_s)}.`);
    say(row.advice, suspect.advice);
  }
  for (const [key, cell] of row.cells) say(cell, typeof s[key] === "number" ? number(s[key]) : s[key] || "-");
  const history = s.history ? s.history.split("/").map(Number) : [];
  draw(row.chart, [[...history.slice(1 - slots), s.open]], { slots });
  row.chart.setAttribute("aria-label", `Connections in the last two minutes: now ${s.open}, at most ${Math.max(s.open, ...history)}`);
  if (row.opened) fillDetail(row);
  return row;
}

function makeRow(name) {
  const row = { name, cells: new Map(), chart: chart(""), opened: false };
  const id = `source-${rows.size}-${Math.random().toString(36).slice(2)}`;
  row.button = el("button", { type: "button", class: "open", "aria-expanded": "false", "aria-controls": id, onclick: () => toggle(row) }, name);
  row.badge = el("span", { class: "badge", hidden: true });
  const main = el("tr");
  for (const c of columns) {
    const cell = el("td", { class: `${c.kind ?? ""} ${c.text || c.spark ? "" : "n"}` });
    if (c.key === "source") cell.append(row.button, row.badge);
    else if (c.spark) cell.append(row.chart);
    else row.cells.set(c.key, cell);
    main.append(cell);
  }
  row.reason = el("p");
  row.advice = el("p", { class: "advice" });
  row.why = el("tr", { class: "why", hidden: true }, el("td", { colspan: columns.length }, row.reason, row.advice));
  row.place = el("td", { colspan: columns.length });
  row.detail = el("tr", { class: "detail", id, hidden: true }, row.place);
  row.body = el("tbody", {}, main, row.why, row.detail);
  if (state.open.includes(name)) queueMicrotask(() => open(row));
  return row;
}

function toggle(row) {
  if (row.opened) {
    row.opened = false;
    row.detail.hidden = true;
    row.button.setAttribute("aria-expanded", "false");
  } else open(row);
  state.open = [...rows.values()].filter((r) => r.opened).map((r) => r.name);
  remember();
}

function open(row) {
  row.opened = true;
  row.detail.hidden = false;
  row.button.setAttribute("aria-expanded", "true");
  if (!row.list) makeDetail(row);
  fillDetail(row);
  loadClients(row);
}

const clientColumns = [
  ["id", "Id", true], ["addr", "Address"], ["user", "User"], ["name", "Name"], ["state", "State"], ["pin", "Pin"], ["age_s", "Age", true],
  ["idle_s", "Idle", true], ["commands", "Commands", true], ["in_flight", "In flight", true], ["last", "Last"],
];

function makeDetail(row) {
  row.facts = el("dl", { class: "facts" });
  row.said = el("p", { class: "dim" });
  row.list = el("tbody");
  row.clients = new Map();
  const head = el("tr", {}, ...clientColumns.map(([, title, n]) => el("th", { scope: "col", class: n ? "n" : "" }, title)),
    el("th", { scope: "col" }, el("span", { class: "unseen" }, "Close")));
  row.rule = el("input", { type: "text", "aria-label": "A rule that limits this source", autocomplete: "off", spellcheck: "false", value: ruleFor(row.source) });
  row.doing = el("div", { class: "do" },
    el("button", { type: "button", class: "danger", onclick: () => killAll(row) }, "Close all its connections"),
    el("form", { onsubmit: (e) => { e.preventDefault(); setLimit(row); } }, row.rule, el("button", { type: "submit" }, "Set limit")));
  row.place.append(row.facts, row.doing, row.said,
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Connections of ${row.name}` },
      el("table", { class: "clients" }, el("thead", {}, head), row.list)));
}

function fillDetail(row) {
  row.doing.hidden = !mayChange;
  const shown = facts.filter(([key]) => row.source[key] || row.source[key] === 0).map(([key, title]) => {
    const v = row.source[key];
    return [title, typeof v === "number" ? number(v) : v];
  });
  const now = JSON.stringify(shown);
  if (row.factsAre === now) return;
  row.factsAre = now;
  row.facts.replaceChildren(...shown.map(([title, v]) => el("div", {}, el("dt", {}, title), el("dd", {}, v))));
}

// ruleFor proposes a rule: by the name it goes by if it has one that a rule can say, else by its process or address. Twice of what
// was in use at most is room enough.
function ruleFor(s) {
  const kind = ["name", "process", "addr"].find((k) => s[k] && !/[\s*]/.test(s[k])) ?? "addr";
  return `${kind} ${s[kind] || "each"} maxclients ${Math.max(10, 2 * (s.peak_in_use || 0))}`;
}

async function loadClients(row) {
  if (row.loading) return;
  row.loading = true;
  try {
    const { body, rows: n } = await call(`clients?most=${most}&source=${encodeURIComponent(row.name)}`);
    fillClients(row, body);
    say(row.said, `${number(n)} connected${n > body.length ? `; the first ${body.length} of them are shown` : ""}.`);
  } catch (err) {
    say(row.said, `Its connections are not known: ${err.message}`);
  } finally {
    row.loading = false;
  }
}

function fillClients(row, list) {
  const here = new Set(list.map((c) => c.id));
  for (const id of row.clients.keys()) if (!here.has(id)) row.clients.delete(id);
  arrange(row.list, list.map((c) => {
    let line = row.clients.get(c.id);
    if (!line) {
      line = el("tr", {}, ...clientColumns.map(([, , n]) => el("td", { class: n ? "n" : "" })), el("td", {},
        el("button", { type: "button", class: "danger", "aria-label": `Close connection ${c.id}`, onclick: () => kill(row, c) }, "Close")));
      row.clients.set(c.id, line);
    }
    clientColumns.forEach(([key], i) => say(line.cells[i], key.endsWith("_s") ? span(c[key]) : c[key] === "" ? "-" : c[key]));
    line.lastChild.hidden = !mayChange;
    return line;
  }));
}

async function kill(row, c) {
  if (await ask({ title: `Close connection ${c.id}?`, text: `${c.addr} is disconnected. Its program may connect again at once.`, yes: "Close" })) {
    await tell("kill", ["id", String(c.id)], (n) => (n ? `Connection ${c.id} is closed.` : `Connection ${c.id} had gone already.`));
    loadClients(row);
  }
}

async function killAll(row) {
  if (await ask({ title: "Close all its connections?", text: `All connections of ${row.name} (${number(row.source.open)} now) are closed. The program may connect again at once: set a limit first if it should not.`, yes: "Close all" })) {
    await tell("kill", ["source", row.name], (n) => `${number(n)} connections of ${row.name} are closed.`);
    loadClients(row);
  }
}

async function setLimit(row) {
  const rule = row.rule.value.trim();
  if (await ask({ title: "Set this limit?", text: `${rule} - at once, and until the next start or PROXY CONFIG REWRITE. Those who are connected stay.`, yes: "Set limit" })) {
    await tell("set-limit", rule.split(/\s+/), () => `In force: ${rule}`);
  }
}
