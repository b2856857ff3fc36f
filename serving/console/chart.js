// Line charts as inline SVG: a few series over steps, with axes, and the values under the pointer.

import { element, number, svg } from "./dom.js";

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT] = [560, 220, 52, 26, 12, 12];

// `series`: name → [[step, value], …]. Each has its own line; all share both axes.
export function chart(title, series) {
  const names = Object.keys(series);
  const points = Object.values(series).flat();
  const [first, last] = range(points.map(([step]) => step));
  const [low, high] = padded(range(points.map(([, value]) => value)));
  const x = (step) => LEFT + ((step - first) / (last - first || 1)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - ((value - low) / (high - low)) * (HEIGHT - BOTTOM - TOP);

  const ends = names.map((name) => `${name} ${number(series[name][0][1])} → ${number(series[name].at(-1)[1])}`).join("; ");
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}: ${ends}` });
  for (const value of ticks(low, high)) {
    drawing.append(
      svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
      label(LEFT - 6, y(value) + 4, number(value), "end"),
    );
  }
  drawing.append(label(LEFT, HEIGHT - 8, number(first), "start"), label(WIDTH - RIGHT, HEIGHT - 8, `step ${number(last)}`, "end"));
  names.forEach((name, n) => {
    const line = series[name].map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    drawing.append(svg("polyline", { class: `line c${n % 4}`, points: line }));
    const [step, value] = series[name].at(-1);
    drawing.append(svg("circle", { class: `dot c${n % 4}`, cx: x(step), cy: y(value), r: 3 }));
  });
  const cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  drawing.append(cursor);

  const values = names.map((name) => element("span", { className: "value", textContent: number(series[name].at(-1)[1]) }));
  const legend = names.map((name, n) =>
    element("li", {}, element("span", { className: `key c${n % 4}`, "aria-hidden": "true" }), `${name} `, values[n]),
  );
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * WIDTH;
    const step = first + ((at - LEFT) / (WIDTH - LEFT - RIGHT)) * (last - first);
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    cursor.setAttribute("visibility", "visible");
    names.forEach((name, n) => {
      const near = series[name].reduce((a, b) => (Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a));
      values[n].textContent = `${number(near[1])} at ${number(near[0])}`;
    });
  });
  drawing.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    names.forEach((name, n) => (values[n].textContent = number(series[name].at(-1)[1])));
  });
  return element("figure", { className: "chart" }, element("figcaption", { textContent: title }), drawing, element("ul", { className: "legend" }, ...legend));
}

function label(x, y, text, anchor) {
  return svg("text", { x, y, "text-anchor": anchor }, text);
}

function range(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

function padded([low, high]) {
  if (low === high) return [low - Math.max(1e-9, Math.abs(low) * 0.1), high + Math.max(1e-9, Math.abs(high) * 0.1)];
  return [low - (high - low) * 0.05, high + (high - low) * 0.05];
}

// Three to six round numbers between the two.
function ticks(low, high) {
  const raw = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}
