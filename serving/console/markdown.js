// A small part of Markdown as DOM nodes: no HTML, no images; links only to http(s).
// Characters of MARKERS stand for the citation markers that `marker(n)` makes.

import { element, webAddress, webLink } from "./dom.js";

const FIRST = 0xe000;
const MARKERS = /[\ue000-\uf8ff]/g;
const INLINE =
  /(!\[[^\]\n]*\]\([^)\s]*\))|(`+)(.+?)\2(?!`)|\*\*(?=\S)(.+?)\*\*|(?<![\w*])\*(?=\S)([^*\n]+?)\*(?![\w*])|(?<![\w_])_(?=\S)([^_\n]+?)_(?![\w_])|(?<!!)\[([^\]\n]+)\]\((https?:\/\/[^\s)]+)\)|(https?:\/\/[^\s<>"')\]*`]+)|([\ue000-\uf8ff])/gs;
const LONGEST = 20_000; // characters of a paragraph that are looked through for marks

// The text with a character for each marker, given as [start, end) in code points, in order.
export function withMarkers(text, spans) {
  const characters = Array.from(text);
  const pieces = [];
  let position = 0;
  for (const [n, [start, end]] of spans.entries()) {
    pieces.push(characters.slice(position, start).join("").replace(MARKERS, "\ufffd").replace(/ $/, "\u00a0"));
    pieces.push(String.fromCharCode(FIRST + n));
    position = end;
  }
  pieces.push(characters.slice(position).join("").replace(MARKERS, "\ufffd"));
  return pieces.join("");
}

export function plain(text, marker) {
  return text
    .split(/([\ue000-\uf8ff])/)
    .filter(Boolean)
    .map((piece) => (isMarker(piece) ? marker(piece.charCodeAt(0) - FIRST) : piece));
}

const isMarker = (piece) => piece.length === 1 && piece >= "\ue000" && piece <= "\uf8ff";

export function markdown(text, marker = () => "") {
  const lines = text.split("\n");
  const nodes = [];
  const inline = (part) => inlineNodes(part, marker);
  for (let at = 0; at < lines.length; ) {
    const take = (fits) => {
      const start = at;
      while (at < lines.length && fits(lines[at], at - start)) at += 1;
      return lines.slice(start, at);
    };
    const line = lines[at];
    const fence = line.match(/^\s*(```+|~~~+)/);
    const heading = line.match(/^(#{1,6})\s+(.*)$/);
    if (fence) {
      at += 1;
      const code = take((each) => !each.trim().startsWith(fence[1]));
      at += 1;
      nodes.push(element("pre", { tabIndex: 0 }, element("code", { textContent: code.join("\n") })));
    } else if (heading) {
      at += 1;
      nodes.push(element(`h${Math.min(6, heading[1].length + 2)}`, {}, ...inline(heading[2])));
    } else if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(line)) {
      at += 1;
      nodes.push(element("hr"));
    } else if (isRow(line) && /^[\s|:-]+$/.test(lines[at + 1] ?? "") && (lines[at + 1] ?? "").includes("-")) {
      nodes.push(tableOf(take(isRow), inline));
    } else if (/^\s*>/.test(line)) {
      const quoted = take((each) => /^\s*>/.test(each)).map((each) => each.replace(/^\s*> ?/, ""));
      nodes.push(element("blockquote", {}, ...quoted.flatMap((each, n) => (n ? [element("br"), ...inline(each)] : inline(each)))));
    } else if (ITEM.test(line)) {
      nodes.push(listOf(take((each, n) => n === 0 || ITEM.test(each) || /^\s+\S/.test(each)), inline));
    } else if (line.trim()) {
      const paragraph = take((each, n) => n === 0 || (each.trim() && !/^(#{1,6}\s|\s*>|\s*```|\s*~~~)/.test(each) && !ITEM.test(each)));
      nodes.push(element("p", {}, ...inline(paragraph.join("\n"))));
    } else {
      at += 1;
    }
  }
  return nodes;
}

const ITEM = /^\s*([-*+]|\d{1,9}[.)])\s+/;
const isRow = (line) => /^\s*\|.*\|\s*$/.test(line);

function listOf(lines, inline) {
  const list = element(/^\s*\d/.test(lines[0]) ? "ol" : "ul");
  if (list.tagName === "OL") list.start = parseInt(lines[0], 10);
  for (const line of lines) {
    if (ITEM.test(line)) list.append(element("li", {}, ...inline(line.replace(ITEM, ""))));
    else list.lastChild.append(" ", ...inline(line.trim()));
  }
  return list;
}

function tableOf(lines, inline) {
  const cells = (line) => line.trim().slice(1, -1).split("|").map((cell) => cell.trim());
  const [head, , ...body] = lines.map(cells);
  const row = (tag, values) => element("tr", {}, ...values.map((value) => element(tag, {}, ...inline(value))));
  const made = element(
    "table",
    {},
    element("thead", {}, row("th", head)),
    element("tbody", {}, ...body.map((values) => row("td", values))),
  );
  return element("div", { className: "wide", tabIndex: 0, role: "region", "aria-label": "Table" }, made);
}

function inlineNodes(text, marker) {
  if (text.length > LONGEST) return plain(text, marker);
  const nodes = [];
  let position = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, image, , code, strong, star, underline, label, target, bare, cited] = match;
    if (match.index > position) nodes.push(text.slice(position, match.index));
    position = match.index + whole.length;
    if (cited) nodes.push(marker(cited.charCodeAt(0) - FIRST));
    else if (image) nodes.push(...plain(image, marker)); // no address of a page is loaded
    else if (code !== undefined) nodes.push(element("code", { textContent: code.replace(MARKERS, "") }));
    else if (strong !== undefined) nodes.push(element("strong", {}, ...inlineNodes(strong, marker)));
    else if (star !== undefined || underline !== undefined) nodes.push(element("em", {}, ...inlineNodes(star ?? underline, marker)));
    else nodes.push(...link(label ?? bare.replace(/[.,;:!?]+$/, ""), target ?? bare.replace(/[.,;:!?]+$/, ""), whole, marker));
    if (bare) nodes.push(bare.slice(bare.replace(/[.,;:!?]+$/, "").length));
  }
  if (position < text.length) nodes.push(text.slice(position));
  return nodes;
}

function link(label, target, whole, marker) {
  const address = webAddress(target.replace(MARKERS, ""));
  if (!address) return plain(whole, marker);
  const node = webLink(address, label.replace(MARKERS, ""));
  node.title = address.href;
  return [node, ...(label.match(MARKERS) ?? []).map((mark) => marker(mark.charCodeAt(0) - FIRST))];
}
