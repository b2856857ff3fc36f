// One answer: streamed text, then clickable markers, source cards and a row of actions.

import { element, oneLine, webAddress, webLink } from "./dom.js";
import { markdown, plain, withMarkers } from "./markdown.js";

// Server offsets count code points, as Python does; JavaScript strings count UTF-16 units.
const codePoints = (text) => Array.from(text);

let answers = 0;

export class AnswerView {
  // `verbatim`: sentences of sources are shown as they stand, without Markdown.
  constructor(label = "", verbatim = false) {
    this.id = `answer-${++answers}`;
    this.verbatim = verbatim;
    this.text = element("div", { className: verbatim ? "text verbatim" : "text", "aria-busy": "true" });
    this.text.append(element("span", { className: "thinking", role: "status", "aria-label": "Working on it" }));
    this.sources = element("ol", { className: "sources", hidden: true, "aria-label": "Sources" });
    this.unread = element("p", { className: "note", hidden: true });
    this.actions = element("div", { className: "actions" });
    this.root = element("article", { className: "message assistant", "aria-label": label || "Answer" });
    if (label) this.root.append((this.heading = element("h3", { textContent: label })));
    this.root.append(this.text, this.sources, this.unread, this.actions);
  }

  grow(text) {
    this.partial = text;
    this.drawing ??= requestAnimationFrame(() => {
      this.drawing = null;
      if (this.text.hasAttribute("aria-busy")) this.text.replaceChildren(...this.body(this.partial, []));
    });
  }

  finish({ text, citations, unread = [] }) {
    this.text.removeAttribute("aria-busy");
    const empty = element("p", { className: "note", textContent: "The model said nothing." });
    this.text.replaceChildren(...(text.trim() ? this.body(text, citations) : [empty]));
    const groups = Map.groupBy(citations, (citation) => citation.index);
    this.sources.replaceChildren(...[...groups].map(([index, group]) => this.sourceCard(index, group)));
    this.sources.hidden = groups.size === 0;
    this.unread.textContent = unread.length ? `Not read: ${unread.map(oneFailure).join("; ")}` : "";
    this.unread.hidden = unread.length === 0;
  }

  fail(message, partial = "") {
    this.text.removeAttribute("aria-busy");
    const error = element("p", { className: "error", role: "alert", textContent: message });
    this.text.replaceChildren(...this.body(partial, []), error);
  }

  body(text, citations) {
    const marked = withMarkers(text, citations.map(({ marker_start, marker_end }) => [marker_start, marker_end]));
    const marker = (n) => this.marker(citations[n]);
    return this.verbatim ? plain(marked, marker) : markdown(marked, marker);
  }

  marker({ index, title }) {
    const name = oneLine(title);
    const button = element("button", {
      type: "button",
      className: "marker",
      textContent: `${index}`,
      title: name,
      "aria-label": `Source ${index}: ${name}`,
    });
    button.addEventListener("click", () => this.showSource(index));
    for (const kind of ["pointerenter", "focus"]) button.addEventListener(kind, () => this.highlight(index));
    for (const kind of ["pointerleave", "blur"]) button.addEventListener(kind, () => this.highlight(null));
    return button;
  }

  card(index) {
    return document.getElementById(`${this.id}-source-${index}`);
  }

  highlight(index) {
    for (const card of this.sources.children) card.classList.toggle("hinted", card === this.card(index));
  }

  showSource(index) {
    const card = this.card(index);
    card.querySelector("details").open = true;
    for (const other of document.querySelectorAll(".source.current")) other.classList.remove("current");
    card.classList.add("current");
    card.scrollIntoView({ behavior: "smooth", block: "nearest" });
    card.querySelector("summary").focus({ preventScroll: true });
  }

  sourceCard(index, group) {
    const { title, url, origin } = group[0];
    const address = webAddress(url);
    const name = oneLine(title || url) || "Untitled document";
    const quotes = [...Map.groupBy(group, (citation) => citation.quote_start).values()].map(quotation);
    return element(
      "li",
      { className: "source", id: `${this.id}-source-${index}` },
      element("span", { className: "number", "aria-hidden": "true", textContent: `${index}` }),
      element(
        "div",
        { className: "body" },
        element("div", { className: "title" }, address ? webLink(address, name) : element("span", { textContent: name })),
        element(
          "div",
          { className: "host" },
          address ? address.hostname.replace(/^www\./, "") : oneLine(url),
          ...(origin === "web" ? [" ", element("span", { className: "live", textContent: "live web" })] : []),
        ),
        element("details", {}, element("summary", { textContent: "Passage" }), ...quotes),
      ),
    );
  }
}

const oneFailure = ({ url, reason }) => `${oneLine(url) || "the search"} (${reason.replaceAll("_", " ")})`;

// A passage with the cited sentences highlighted.
function quotation(citations) {
  const { quote, quote_start } = citations[0];
  const characters = codePoints(quote);
  const quoted = element("blockquote");
  let position = 0;
  for (const { source_start, source_end } of citations.toSorted((a, b) => a.source_start - b.source_start)) {
    const [start, end] = [source_start - quote_start, source_end - quote_start];
    if (start < position) continue;
    quoted.append(characters.slice(position, start).join(""));
    quoted.append(element("mark", { textContent: characters.slice(start, end).join("") }));
    position = end;
  }
  quoted.append(characters.slice(position).join(""));
  return quoted;
}
