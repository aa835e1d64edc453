// Lines over time, as SVG.

const ns = "http://www.w3.org/2000/svg";
const width = 100, height = 30;

// chart makes an empty one. Label says what it is to those who do not see it.
export function chart(label) {
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  return svg;
}

// draw has a chart show series of numbers; undefined is a gap at the beginning. The most is what the top stands for, at least.
// Slots is how many numbers there is room for: the last one is at the right.
export function draw(svg, series, { most = 1, slots }) {
  const top = Math.max(most, ...series.flat());
  const x = (i, n) => width - ((n - 1 - i) * width) / Math.max(slots - 1, 1);
  const y = (v) => height - 1 - (v / top) * (height - 3);
  series.forEach((values, k) => {
    const points = values.map((v, i) => `${x(i, values.length).toFixed(2)},${y(v).toFixed(2)}`).join("L");
    const line = points && `M${points}`;
    if (k === 0) path(svg, "area", line && `${line}L${width},${height}L${x(0, values.length).toFixed(2)},${height}Z`);
    path(svg, k === 0 ? "line" : "line second", line);
  });
}

function path(svg, kind, d) {
  let p = [...svg.children].find((c) => c.getAttribute("class") === kind);
  if (!p) {
    p = document.createElementNS(ns, "path");
    p.setAttribute("class", kind);
    svg.append(p);
  }
  if (p.getAttribute("d") !== d) p.setAttribute("d", d || "");
}

// follow calls at with the index of the number under the pointer, counted from the last one, and with null when it leaves.
export function follow(svg, slots, at) {
  svg.addEventListener("pointermove", (e) => {
    const box = svg.getBoundingClientRect();
    at(Math.round(((box.right - e.clientX) / box.width) * (slots - 1)));
  });
  svg.addEventListener("pointerleave", () => at(null));
}
