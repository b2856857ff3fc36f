// The view of tokens: a text and its tokens, the model's next-token probabilities, and forks at any token.

import { post } from "./api.js";
import { element, notice, oneLine, plural } from "./dom.js";
import { model } from "./settings.js";

const WAIT_MS = 350; // after the last key before the server is asked
const TOP = 10;

export function tokensView(page, about) {
  const text = element("textarea", { id: "text", rows: 4, maxLength: 20000, value: "The news of the day is that" });
  const summary = element("p", { className: "note", role: "status" });
  const pieces = element("div", { className: "pieces", role: "group", "aria-label": "Tokens" });
  const choices = element("div", { className: "choices-of-token" });
  let timer = null;
  let asked = null;
  let tokens = []; // { id, text, logprob, top: [[text, logprob]] } of the text
  let next = []; // what may follow the text, as [text, logprob]

  const read = async () => {
    asked?.abort();
    asked = new AbortController();
    const { signal } = asked;
    try {
      if (!text.value) return empty();
      const body = { model: model(), prompt: text.value, add_special_tokens: false, return_token_strs: true };
      const found = await post("/tokenize", body, signal);
      // One more token, whichever: what is likely in its place is what may come next.
      const prompt = [...found.tokens, found.tokens[0]];
      const scored = await post("/v1/completions", { model: model(), prompt, max_tokens: 0, echo: true, logprobs: TOP }, signal);
      const { token_logprobs, top_logprobs } = scored.choices[0].logprobs;
      tokens = found.tokens.map((id, n) => ({ id, text: found.token_strs[n], logprob: token_logprobs[n], top: sorted(top_logprobs[n]) }));
      next = sorted(top_logprobs[found.tokens.length]);
      const characters = Array.from(text.value).length;
      summary.textContent = `${plural(tokens.length, "token")}, ${(characters / tokens.length).toFixed(1)} characters per token; the context has room for ${found.max_model_len}.`;
      draw();
      show(tokens.length);
    } catch (error) {
      if (error.name !== "AbortError") empty(error);
    }
  };
  const empty = (error = null) => {
    tokens = [];
    pieces.replaceChildren();
    choices.replaceChildren(...(error ? [notice(error)] : []));
    summary.textContent = "";
  };
  const draw = () => {
    const chips = tokens.map((token, n) => {
      const known = token.logprob === null || token.logprob === undefined ? "" : `, probability ${percent(token.logprob)}`;
      const chip = element("button", { type: "button", className: `piece p${n % 5}`, "aria-label": `Token ${n + 1}: ${visible(token.text)}, id ${token.id}${known}` });
      chip.append(element("span", { textContent: visible(token.text) }), element("small", { textContent: token.id }));
      chip.addEventListener("click", () => show(n));
      return chip;
    });
    const end = element("button", { type: "button", className: "piece next", textContent: "next?" });
    end.addEventListener("click", () => show(tokens.length));
    pieces.replaceChildren(...chips, end);
  };
  // What the model would have said in the place of token n.
  const show = (n) => {
    [...pieces.children].forEach((chip, at) => chip.setAttribute("aria-pressed", String(at === n)));
    const before = tokens.slice(0, n).map((token) => token.text).join("");
    const top = n < tokens.length ? tokens[n].top : next;
    const title = n < tokens.length ? `In the place of token ${n + 1}, after “${oneLine(before.slice(-30))}”` : "What may come next";
    const list = top.map(([piece, logprob]) => {
      const bar = element("span", { className: "bar", "aria-hidden": "true" });
      bar.style.width = `${Math.max(0.5, 100 * Math.exp(logprob))}%`;
      const pick = element("button", { type: "button", className: "pick" });
      pick.append(element("code", { textContent: visible(piece) }), element("span", { className: "track-bar" }, bar), element("span", { className: "many", textContent: percent(logprob) }));
      pick.disabled = piece.startsWith("bytes:");
      pick.addEventListener("click", () => {
        text.value = before + piece;
        text.focus();
        read();
      });
      return element("li", {}, pick);
    });
    const note = top.length ? "Choose one to go on from there." : "The first token has no probability: nothing comes before it.";
    choices.replaceChildren(element("h3", { textContent: title }), element("p", { className: "note", textContent: note }), element("ol", { className: "picks" }, ...list));
  };
  text.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(read, WAIT_MS);
  });
  page.append(
    element("h2", { textContent: "Tokens" }),
    element("p", { className: "lead", textContent: "How the served tokenizer cuts a text, and what the model finds likely at each place. The text is continued as it stands, without chat template and sources." }),
    element("label", { htmlFor: "text", textContent: "Text" }),
    text,
    summary,
    pieces,
    choices,
  );
  read();
  return () => {
    clearTimeout(timer);
    asked?.abort();
  };
}

const sorted = (top) => Object.entries(top ?? {}).toSorted((a, b) => b[1] - a[1]).slice(0, TOP);
const percent = (logprob) => `${(100 * Math.exp(logprob)).toFixed(1)} %`;
const SHOWN = { " ": "␣", "\n": "⏎", "\t": "⇥" };
const visible = (piece) =>
  piece.replace(/[\u0000-\u0020\u007f-\u009f]/g, (sign) => SHOWN[sign] ?? `\\x${sign.charCodeAt(0).toString(16).padStart(2, "0")}`) || "∅";
