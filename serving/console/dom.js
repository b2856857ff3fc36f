// Builds DOM elements. Text of models and sources becomes text nodes, never markup.

export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export const $ = (id) => document.getElementById(id);

export function actionButton(label, onClick, className = "quiet") {
  const button = element("button", { type: "button", className, textContent: label });
  button.addEventListener("click", onClick);
  return button;
}

export function notice(error) {
  return element("p", { className: "error", role: "alert", textContent: error.message ?? String(error) });
}

// Titles and addresses of sources without controls that turn the direction of the text around them.
export const oneLine = (text) => (text ?? "").replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "");

// Allows only http(s) links: no javascript:, data: or file:.
export function webAddress(url) {
  try {
    const address = new URL(url);
    return ["http:", "https:"].includes(address.protocol) ? address : null;
  } catch {
    return null;
  }
}

export function webLink(address, text) {
  return element("a", { href: address.href, target: "_blank", rel: "noopener noreferrer", textContent: text });
}

export const count = (value) => Number(value).toLocaleString("en");
export const plural = (many, noun) => `${count(many)} ${noun}${many === 1 ? "" : "s"}`;

export function number(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) ? count(value) : String(Number(value.toPrecision(4)));
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 100) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

// A table whose first column names the row. Cells are texts or nodes.
export function table(caption, columns, rows) {
  const cell = (tag, value, scope) => {
    const node = element(tag, scope ? { scope } : {});
    node.append(value ?? "");
    return node;
  };
  const body = rows.map((row) =>
    element("tr", {}, ...row.map((value, n) => (n ? cell("td", value) : cell("th", value, "row")))),
  );
  const head = element("tr", {}, ...columns.map((name) => cell("th", name, "col")));
  const made = element(
    "table",
    {},
    element("caption", { textContent: caption }),
    element("thead", {}, head),
    element("tbody", {}, ...body),
  );
  return element("div", { className: "wide data", tabIndex: 0, role: "region", "aria-label": caption }, made);
}
