// The page: what the proxy says of itself, once a second, and what is to be done to all clients.

import { arrange, call, el, micros, number, say, span } from "./dom.js";
import { chart, draw, follow } from "./chart.js";
import * as sources from "./sources.js";

const $ = (id) => document.getElementById(id);
const slots = 300; // seconds in the charts
let history = [], now, mayChange = false, busy = false;

// A tile has a figure, what else there is to say of it, and how it was in the last five minutes.
const tiles = [
  {
    title: "Clients", lines: [(p) => p.clients], full: (n) => n.stats.clients / n.stats.maxclients,
    big: (n) => [number(n.stats.clients), `of ${number(n.stats.maxclients)}`],
    sub: (n) => `commands in flight: ${number(n.stats.in_flight)}`, at: (p) => `${number(p.clients)} clients`,
  },
  {
    title: "Queue", lines: [(p) => p.queued],
    big: (n) => [number(n.stats.queued), "waiting"],
    sub: (n) => (n.queue.length ? `longest for ${span(Math.max(...n.queue.map((w) => w.waiting_s)))}` : "nobody waits to be let in"),
    at: (p) => `${number(p.queued)} waiting`,
  },
  {
    title: "Refusals", lines: [(p) => p.refused_per_s],
    big: (n, p) => [number(p?.refused_per_s ?? 0), "a second"],
    sub: (n) => `${number(n.stats.refused)} since the start`, at: (p) => `${number(p.refused_per_s)} a second`,
  },
  {
    title: "Upstream", keys: ["all", "pins"], lines: [(p) => p.upstream, (p) => p.pins], full: (n) => n.stats.upstream / n.stats.pool_size,
    big: (n) => [number(n.stats.upstream), `of ${number(n.stats.pool_size)}`],
    sub: (n) => `pins: ${n.stats.pins} in use, ${n.stats.idle_pins} idle; lanes: ${n.stats.lanes}; waiting: ${n.stats.waiting}`,
    at: (p) => `${p.upstream} open, ${p.pins} pins`,
  },
  {
    title: "Commands", lines: [(p) => p.commands_per_s],
    big: (n, p) => [number(p?.commands_per_s ?? 0), "a second"],
    sub: (n) => `${number(n.stats.commands)} since the start`, at: (p) => `${number(p.commands_per_s)} a second`,
  },
  {
    title: "Latency", keys: ["p99", "p50"], lines: [(p) => p.p99_us, (p) => p.p50_us],
    big: (n) => (n.latency[0].measured ? [micros(n.latency[0].p99_us), "p99, 10 s"] : ["-", "p99, 10 s"]),
    sub: (n) => `p50 ${micros(n.latency[0].p50_us)}, p90 ${micros(n.latency[0].p90_us)}, p99.9 ${micros(n.latency[0].p999_us)}`,
    at: (p) => `p50 ${micros(p.p50_us)}, p99 ${micros(p.p99_us)}`,
  },
];

function makeTiles() {
  for (const t of tiles) {
    t.figure = el("span");
    t.unit = el("small");
    t.meter = el("i");
    t.bar = el("div", { class: `meter ${t.full ? "" : "no"}` }, t.meter);
    t.under = el("div", { class: "sub" });
    t.chart = chart(`${t.title}, last five minutes`);
    follow(t.chart, slots, (back) => { t.back = back; renderTile(t); });
    const keys = t.keys && el("span", {}, ...t.keys.map((k, i) => el("span", { class: i ? "key second" : "key" }, k)));
    $("tiles").append(el("article", { class: "tile" }, el("h3", {}, t.title, keys), el("div", { class: "big" }, t.figure, " ", t.unit), t.bar, t.under, t.chart));
  }
}

function renderTile(t) {
  if (!now) return;
  const last = history.at(-1);
  const [figure, unit] = t.big(now, last);
  say(t.figure, figure);
  say(t.unit, unit);
  const then = t.back != null && history.at(-1 - t.back);
  say(t.under, then ? `${new Date(then.time_ms).toLocaleTimeString()}: ${t.at(then)}` : t.sub(now));
  if (t.full) {
    const full = t.full(now);
    t.meter.style.width = `${Math.min(100, 100 * full)}%`;
    t.bar.className = `meter ${full >= 0.95 ? "bad" : full >= 0.8 ? "warn" : ""}`;
  }
  draw(t.chart, t.lines.map((f) => history.map(f)), { slots });
}

const stateLooks = { serving: "good", pausing: "warn", paused: "warn", resuming: "warn", draining: "warn", stopping: "bad" };

function render() {
  const { state, pause_left_s: left, upstream, upstream_addr: addr } = now.pool;
  document.title = state === "serving" ? "redbouncer" : `${state} - redbouncer`;
  say($("version"), now.version);
  say($("state"), state);
  $("state").className = `pill ${stateLooks[state] ?? ""}`;
  say($("upstream"), `upstream ${addr || "not known"} ${upstream}`);
  const trouble = [];
  if (left > 0) trouble.push(`Commands are held back: ${state}, for ${span(left)} more at most.`);
  if (state === "draining") trouble.push("Nobody is let in, and clients are closed as they fall idle. Resume undoes it for those who are left.");
  if (upstream === "down") trouble.push(`The upstream has been gone for ${span(now.pool.upstream_down_s)}: ${now.pool.upstream_error}`);
  $("banner").hidden = trouble.length === 0;
  $("banner").classList.toggle("bad", upstream === "down");
  say($("banner"), trouble.join(" "));
  tiles.forEach(renderTile);
  renderActions(state);
  renderLimits();
}

const possible = { pause: ["serving", "paused"], resume: ["pausing", "paused", "draining"], reconnect: ["serving"], drain: ["serving"] };

function renderActions(state) {
  $("actions").hidden = !mayChange;
  for (const b of $("actions").children) b.disabled = busy || !possible[b.dataset.verb].includes(state);
}

const limitRows = new Map();

function renderLimits() {
  $("rules").hidden = now.limits.length === 0;
  const here = new Set();
  const lines = now.limits.map((l) => {
    const key = `${l.head}\n${l.value}`;
    here.add(key);
    let line = limitRows.get(key);
    if (!line) {
      line = el("tr", {}, ...["rule", "middle", "n", "n middle", "n"].map((c) => el("td", { class: c })),
        el("td", { class: "n" }, el("button", { type: "button", "aria-label": `Remove the limit ${l.head}`, onclick: () => unset(l.head) }, "Remove")));
      limitRows.set(key, line);
    }
    [l.rule, l.value || "-", l.max ? `${number(l.open)} of ${number(l.max)}` : number(l.open), number(l.waiting), number(l.refused)]
      .forEach((v, i) => say(line.cells[i], v));
    line.lastChild.firstChild.hidden = !mayChange || l.rule === "total"; // which is maxclients
    return line;
  });
  for (const key of limitRows.keys()) if (!here.has(key)) limitRows.delete(key);
  arrange($("limits"), lines);
}

async function unset(head) {
  if (await ask({ title: "Remove this limit?", text: `${head} - at once, and until the next start or PROXY CONFIG REWRITE.`, yes: "Remove" })) {
    await carryOut("unset-limit", head.split(/\s+/), () => `Not in force any more: ${head}`);
  }
}

// ask has something confirmed. It returns false, or true, or what was put into the field.
function ask({ title, text, yes, field }) {
  const d = $("confirm");
  say($("confirm-title"), title);
  say($("confirm-text"), text);
  say($("confirm-yes"), yes);
  $("confirm-field").hidden = !field;
  say($("confirm-label"), field ?? "");
  $("confirm-input").value = "";
  d.returnValue = "";
  d.showModal();
  return new Promise((done) => d.addEventListener("close", () => done(d.returnValue === "yes" && (field ? { value: $("confirm-input").value } : true)), { once: true }));
}

let outcomeTimer;

function outcome(text) {
  clearTimeout(outcomeTimer);
  say($("outcome"), text);
  outcomeTimer = setTimeout(() => say($("outcome"), ""), 9000);
}

// carryOut has the proxy do something, and says what came of it.
async function carryOut(path, args, told) {
  busy = true;
  if (now) renderActions(now.pool.state);
  try {
    const { body } = await call(path, args);
    outcome(told(body.answer));
  } catch (err) {
    outcome(`Not done: ${err.message}`);
  } finally {
    busy = false;
    if (now) renderActions(now.pool.state);
  }
}

const verbs = {
  pause: {
    title: "Pause all clients?", yes: "Pause", field: "For at most, in seconds (empty: pause-timeout)",
    text: "Commands are held back until you resume, so that Redis can be restarted. Nobody is disconnected. It ends by itself.",
    args: ({ value }) => (value ? [String(Math.round(Number(value) * 1000))] : []),
    told: (answer) => `${answer}: nothing is in flight.`,
  },
  resume: { title: "Resume?", yes: "Resume", text: "Clients go on once the upstream answers.", told: () => "Clients go on." },
  reconnect: {
    title: "Replace all upstream connections?", yes: "Reconnect", told: () => "Every upstream connection is replaced as soon as it is idle.",
    text: "Each is replaced by a new one as soon as it is idle. No client notices.",
  },
  drain: {
    title: "Drain the proxy?", yes: "Drain", told: () => "Nobody is let in any more.",
    text: "The listeners are closed, and clients are closed as they fall idle. Resume undoes it for those who are left.",
  },
};

$("actions").addEventListener("click", async (e) => {
  const name = e.target.dataset.verb, v = verbs[name];
  if (!v) return;
  const said = await ask(v);
  if (said) await carryOut(name, v.args ? v.args(said) : [], v.told);
});

// What comes from the proxy. If it falls silent, it is asked anew; the browser does so only when a connection breaks.
const silence = 6000;
let events, silent, retry = 1000;

function connect() {
  events?.close();
  events = new EventSource("api/events");
  const on = (name, f) => events.addEventListener(name, (e) => { heard(); f(JSON.parse(e.data)); });
  on("you", (you) => { mayChange = you.may_change; sources.update({ may: mayChange }); });
  on("history", (all) => { history = all; });
  on("second", ([p]) => { if (p && p.time_ms !== history.at(-1)?.time_ms) history = [...history, p].slice(-slots); if (now) tiles.forEach(renderTile); });
  on("now", (n) => { now = n; render(); sources.update({ suspected: n.suspects }); });
  on("sources", (list) => sources.update({ list }));
  on("trouble", (t) => live(false, t.error));
  events.onerror = () => again("the connection broke; trying again");
  listen();
}

function listen() {
  clearTimeout(silent);
  silent = setTimeout(() => again("the proxy has fallen silent; trying again"), silence);
}

function heard() {
  retry = 1000;
  live(true, "live");
  listen();
}

function again(why) {
  events.close();
  clearTimeout(silent);
  live(false, why);
  call("version").catch((err) => { if (!(err instanceof TypeError)) live(false, err.message); }); // no stream says why not
  silent = setTimeout(connect, retry);
  retry = Math.min(2 * retry, 10000);
}

function live(on, text) {
  $("live").classList.toggle("on", on);
  say($("live"), text);
}

sources.setUp(carryOut, ask);
makeTiles();
connect();
