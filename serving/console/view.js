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

// Server offsets count code points, as Python does; JavaScript strings count UTF-16 units.
const codePoints = (text) => Array.from(text);

export function userMessage(text) {
  return element("article", { className: "message user" }, element("p", { textContent: text }));
}

let answers = 0;

// One answer: streamed text, then clickable markers, sources and a row of actions.
export class AnswerView {
  constructor(label = "") {
    this.id = `answer-${++answers}`;
    this.text = element("div", { className: "text", "aria-busy": "true" });
    this.text.append(element("span", { className: "thinking", role: "status", "aria-label": "Working on it" }));
    this.sources = element("ol", { className: "sources", hidden: true, "aria-label": "Sources" });
    this.actions = element("div", { className: "actions" });
    this.root = element("article", { className: "message assistant", "aria-label": label || "Answer" });
    if (label) this.root.append(element("h3", { textContent: label }));
    this.root.append(this.text, this.sources, this.actions);
  }

  grow(text) {
    this.text.textContent = text;
  }

  finish({ text, citations }) {
    this.text.removeAttribute("aria-busy");
    this.text.replaceChildren(...this.withMarkers(text, citations));
    const groups = Map.groupBy(citations, (citation) => citation.index);
    this.sources.replaceChildren(...[...groups].map(([index, group]) => this.sourceCard(index, group)));
    this.sources.hidden = groups.size === 0;
  }

  fail(message, partial = "") {
    this.text.removeAttribute("aria-busy");
    this.text.replaceChildren(partial, element("p", { className: "error", role: "alert", textContent: message }));
  }

  withMarkers(text, citations) {
    const characters = codePoints(text);
    const nodes = [];
    let position = 0;
    for (const { index, title, marker_start, marker_end } of citations) {
      nodes.push(characters.slice(position, marker_start).join("").replace(/ $/, "\u00a0"));
      const marker = element("button", {
        type: "button",
        className: "marker",
        textContent: `${index}`,
        title,
        "aria-label": `Source ${index}: ${title}`,
      });
      marker.addEventListener("click", () => this.showSource(index));
      nodes.push(marker);
      position = marker_end;
    }
    nodes.push(characters.slice(position).join(""));
    return nodes;
  }

  showSource(index) {
    const card = document.getElementById(`${this.id}-source-${index}`);
    card.querySelector("details").open = true;
    for (const other of document.querySelectorAll(".source.current")) other.classList.remove("current");
    card.classList.add("current");
    card.scrollIntoView({ behavior: "smooth", block: "nearest" });
    card.querySelector("summary").focus({ preventScroll: true });
  }

  sourceCard(index, group) {
    const { title, url } = group[0];
    const address = webAddress(url);
    const name = title || url || "Untitled document";
    const link = address
      ? element("a", { href: address.href, target: "_blank", rel: "noopener noreferrer", textContent: name })
      : element("span", { textContent: name });
    const quotes = [...Map.groupBy(group, (citation) => citation.quote_start).values()].map(quotation);
    return element(
      "li",
      { className: "source", id: `${this.id}-source-${index}` },
      element("span", { className: "number", "aria-hidden": "true", textContent: `${index}` }),
      element(
        "div",
        { className: "body" },
        element("div", { className: "title" }, link),
        element("div", { className: "host", textContent: address ? address.hostname.replace(/^www\./, "") : url }),
        element("details", {}, element("summary", { textContent: "Passage" }), ...quotes),
      ),
    );
  }
}

// Allows only http(s) links: no javascript:, data: or file:.
function webAddress(url) {
  try {
    const address = new URL(url);
    return ["http:", "https:"].includes(address.protocol) ? address : null;
  } catch {
    return null;
  }
}

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

export function actionButton(label, onClick, className = "quiet") {
  const button = element("button", { type: "button", className, textContent: label });
  button.addEventListener("click", onClick);
  return button;
}

// Asks which of the answers is better: `onRanks(ranks, reason)` saves it, and an error it throws is shown.
export function judgement(letters, onRanks) {
  const reason = element("input", { className: "reason", maxLength: 2000, placeholder: "Why? (optional)", "aria-label": "Why" });
  const message = element("p", { className: "note", role: "status" });
  const choose = async (ranks) => {
    for (const button of buttons) button.disabled = true;
    message.className = "note";
    message.textContent = "";
    try {
      await onRanks(ranks, reason.value.trim());
    } catch (error) {
      for (const button of buttons) button.disabled = false;
      message.className = "error";
      message.textContent = error.message;
      return;
    }
    form.replaceChildren(message);
    message.textContent = "Saved. Thank you.";
  };
  const better = letters.map((letter, n) =>
    actionButton(`${letter} is better`, () => choose(letters.map((_, other) => (other === n ? 1 : 2))), "primary"),
  );
  const tie = actionButton("Equally good", () => choose(letters.map(() => 1)));
  const buttons = [better[0], tie, ...better.slice(1)];
  const form = element("div", { className: "judgement", role: "group", "aria-label": "Which answer is better?" }, ...buttons, reason, message);
  return form;
}
