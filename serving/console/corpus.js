// The view of the corpus: what cleaning removed, what is in it, and why a document was kept or dropped.

import { get } from "./api.js";
import { actionButton, count, element, notice, number, oneLine, plural, table, webAddress, webLink } from "./dom.js";

export function corpusView(page, about, [key]) {
  const heading = element("h2", { textContent: "Corpus" });
  page.append(heading);
  get("/console/api/corpora").then(
    ({ corpora }) => page.append(...draw(corpora, key)),
    (error) => page.append(notice(error)),
  );
}

function draw(corpora, key) {
  if (!corpora.length) return [element("p", { className: "note", textContent: "This store has no cleaned corpus." })];
  const chosen = corpora.find((each) => each.key === key) ?? corpora[0];
  const others = corpora.map((each) => {
    const link = element("a", { href: `#/corpus/${each.key}`, textContent: `${each.key.slice(0, 8)} of ${each.started.slice(0, 16).replace("T", " ")}` });
    if (each === chosen) link.setAttribute("aria-current", "page");
    return element("li", {}, link);
  });
  return [
    ...(corpora.length > 1 ? [element("ul", { className: "choices", "aria-label": "Corpora" }, ...others)] : []),
    search(chosen),
    ...funnel(chosen.steps),
    ...(chosen.card ? dataCard(chosen) : []),
  ];
}

const ROWS = 10; // of each table of the data card; the files have more

function dataCard({ card, files }) {
  const { first, last } = card.fetched;
  const when = first ? `, fetched from ${first.slice(0, 10)} to ${last.slice(0, 10)}` : "";
  const tables = [
    ["Languages", "language", card.languages, "not identified"],
    ["Licences that the pages name", "licence", card.licences, "none named"],
    ["Domains", "domain", card.domains, "no URL"],
  ].map(([caption, column, counts, unknown]) => {
    const rows = Object.entries(counts).sort(([, a], [, b]) => b - a).slice(0, ROWS);
    return table(caption, [column, "documents"], rows.map(([name, many]) => [oneLine(name) || unknown, count(many)]));
  });
  return [
    element("h3", { textContent: "Data card" }),
    element("p", { className: "lead", textContent: `${plural(card.documents, "document")} of ${plural(card.different_domains, "domain")}${when}.` }),
    ...tables,
    element("p", {}, ...Object.entries(files).map(([name, text]) => actionButton(`Download ${name}`, () => download(name, text)))),
  ];
}

function download(name, text) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text])), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}

function funnel(steps) {
  if (!steps.length) return [element("p", { className: "note", textContent: "This corpus has no funnel." })];
  const first = Math.max(1, steps[0].documents_in);
  const left = steps.at(-1).documents_out;
  const rows = steps.map((step) => {
    const bar = element("span", { className: "bar", "aria-hidden": "true" });
    bar.style.width = `${(100 * step.documents_out) / first}%`;
    const dropped = step.documents_in - step.documents_out;
    const reasons = Object.entries(step.reasons).map(([name, many]) => `${name.replaceAll("_", " ")} ${count(many)}`);
    const [shown, more] = [reasons.slice(0, 3), reasons.slice(3)];
    const why = element("span", { className: "why", textContent: shown.join(", ") });
    const rest = element("details", {}, element("summary", { textContent: `${more.length} more` }), more.join(", "));
    return element(
      "li",
      {},
      element("span", { className: "step", textContent: step.step }),
      element("span", { className: "track-bar" }, bar),
      element("span", { className: "many", textContent: count(step.documents_out) }),
      element("span", { className: "dropped", textContent: dropped ? `−${count(dropped)}` : "" }),
      element("div", { className: "reasons" }, why, ...(more.length ? [rest] : [])),
    );
  });
  return [
    element("h3", { textContent: "What cleaning removed" }),
    element("p", { className: "lead", textContent: `${count(left)} of ${count(first)} documents kept (${((100 * left) / first).toFixed(1)} %). Each row: what is left after the step, and why it dropped documents.` }),
    element("ol", { className: "funnel" }, ...rows),
  ];
}

function search(corpus) {
  const input = element("input", { type: "search", id: "find", maxLength: 2000, required: true, placeholder: "https://…, a part of a title, or an id" });
  const found = element("div", { className: "found", role: "status" });
  const form = element(
    "form",
    { className: "card", role: "search" },
    element("label", { htmlFor: "find", textContent: "Why was this page kept or dropped?" }),
    element("div", { className: "bar" }, input, element("button", { className: "primary", textContent: "Look up" })),
    found,
  );
  const look = async () => {
    try {
      const path = `/console/api/corpora/${corpus.key}/documents?text=${encodeURIComponent(input.value.trim())}`;
      const { documents, more } = await get(path);
      found.replaceChildren(...documents.map((each) => fate(each, ask)));
      if (!documents.length) found.replaceChildren(element("p", { textContent: "No document of this corpus has this URL, title or id." }));
      if (more) found.append(element("p", { className: "note", textContent: "There are more. Say more of it." }));
    } catch (error) {
      found.replaceChildren(notice(error));
    }
  };
  const ask = (text) => {
    input.value = text;
    look();
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    look();
  });
  return form;
}

function fate(document, ask) {
  const address = webAddress(document.url);
  const name = oneLine(document.title) || oneLine(document.url) || document.id;
  const body = element("div", { className: "body" }, element("div", { className: "title" }, address ? webLink(address, name) : name));
  body.append(element("div", { className: "host", textContent: oneLine(document.url) }));
  if (!document.kept) {
    const { step, reason, score, threshold } = document;
    const limit = score === null || score === undefined ? "" : `: ${number(score)}${threshold === null || threshold === undefined ? "" : `, the limit is ${number(threshold)}`}`;
    body.append(element("p", { textContent: `Dropped by ${step}: ${(reason ?? "").replaceAll("_", " ")}${limit}.` }));
  }
  if (document.duplicate_of) {
    const original = element("button", { type: "button", className: "linklike", textContent: document.duplicate_of });
    original.addEventListener("click", () => ask(document.duplicate_of));
    body.append(element("p", {}, "It is a duplicate of ", original, "."));
  }
  body.append(element("div", { className: "note", textContent: `id ${document.id} · ${document.file}` }));
  const state = element("span", { className: `badge ${document.kept ? "finished" : "failed"}`, textContent: document.kept ? "kept" : "dropped" });
  return element("article", { className: "source" }, state, body);
}
