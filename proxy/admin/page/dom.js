// What others have said (names of clients, processes, errors) becomes text nodes here, and never HTML.

// el makes an element; text is a string, null or another element.
export function el(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
    else if (value === true) e.setAttribute(name, "");
    else if (value !== false && value != null) e.setAttribute(name, value);
  }
  e.append(...children.filter((c) => c != null));
  return e;
}

// say sets an element's text, if it is another one: what stays as it is does not flicker, and stays selected.
export function say(e, text) {
  if (e.textContent !== String(text)) e.textContent = text;
}

// arrange has children be a parent's last ones, in this order. Those that are where they belong are not touched, and the focus
// stays where it is.
export function arrange(parent, children, after) {
  const focused = document.activeElement;
  const wanted = new Set(children);
  let at = after ? after.nextSibling : parent.firstChild;
  for (const child of children) {
    while (at && !wanted.has(at)) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
    if (at === child) at = at.nextSibling;
    else parent.insertBefore(child, at);
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });

// number writes a number: small ones with a digit or two behind the point.
export const number = (n) => (Math.abs(n) < 10 && !Number.isInteger(n) ? fine : whole).format(n);

// micros writes a time in microseconds.
export function micros(us) {
  if (us < 1000) return `${us} µs`;
  return us < 1e6 ? `${fine.format(us / 1e3)} ms` : `${fine.format(us / 1e6)} s`;
}

// span writes a time in seconds.
export function span(s) {
  if (s < 60) return `${number(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  return s < 86400 ? `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min` : `${Math.floor(s / 86400)} d`;
}

// call asks the API. It throws what the API says is wrong.
export async function call(path, args) {
  const request = args === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ args }),
  };
  const reply = await fetch(`api/${path}`, request);
  const body = await reply.json().catch(() => ({ error: `the proxy answers ${reply.status}` }));
  if (!reply.ok) throw new Error(body.error);
  return { body, rows: Number(reply.headers.get("Redbouncer-Rows")) };
}
