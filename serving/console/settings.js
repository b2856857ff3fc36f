// Settings of answers, kept in the browser, and the dialog that changes them.

import { $, element } from "./dom.js";

const KEY = "headwater-settings";
const OWN = "own text";
const AGAIN = 0.7; // temperature of a further answer, unless one is set
const kept = { model: null, retrieval: true, web: null, temperature: null, maxTokens: null, system: "", ...stored() };
let about = null;

function stored() {
  try {
    return JSON.parse(localStorage.getItem(KEY) ?? "{}");
  } catch {
    return {};
  }
}

function keep(changes) {
  Object.assign(kept, changes);
  try {
    localStorage.setItem(KEY, JSON.stringify(kept));
  } catch {
    // no storage: the settings last as long as the page
  }
  document.dispatchEvent(new Event("settings"));
}

// The chosen model, while the server has it.
export const model = () => (about.models.includes(kept.model) ? kept.model : about.model);

const web = () => Boolean(about?.web) && (kept.web ?? about.web.by_default);

// What requests say: false, true (the index), or whether pages of the live web count, too.
export function retrieval() {
  if (!kept.retrieval || !(about?.retrieval || web())) return false;
  return about.web ? { web: web() } : true;
}

// Whether answers are sentences of the sources, word for word.
export const verbatim = () => Boolean(retrieval()) && about.answer === "quote";

export function sampling() {
  return {
    ...(kept.temperature === null ? {} : { temperature: kept.temperature }),
    ...(kept.maxTokens === null ? {} : { max_tokens: kept.maxTokens }),
  };
}

// For another answer to the same question: at temperature 0 it would be the same one.
export const anotherSampling = () => ({
  ...sampling(),
  temperature: kept.temperature ?? Math.max(about.temperature, AGAIN),
  seed: crypto.getRandomValues(new Uint32Array(1))[0],
});

export const systemMessages = () => (kept.system.trim() ? [{ role: "system", content: kept.system.trim() }] : []);

export function setUp(known) {
  about = known;
  $("model-choice").hidden = about.models.length < 2;
  const others = about.models.length < 2 ? [] : about.models;
  $("chosen-model").replaceChildren(...others.map((name) => element("option", { value: name, textContent: name })));
  $("retrieval-switch").hidden = !about.retrieval && !about.web;
  $("retrieval").checked = kept.retrieval;
  $("web-switch").hidden = !about.web;
  $("web-name").textContent = about.web?.search ? "Search the web" : "Read linked pages";
  $("web").checked = web();
  $("web").disabled = !kept.retrieval;
  $("temperature").placeholder = about.temperature;
  $("max-tokens").placeholder = about.max_tokens;
  const names = ["none", ...about.presets.map((preset) => preset.name), OWN];
  $("preset").replaceChildren(...names.map((name) => element("option", { value: name, textContent: name })));
  show();
}

function show() {
  $("chosen-model").value = model();
  $("temperature").value = kept.temperature ?? "";
  $("max-tokens").value = kept.maxTokens ?? "";
  $("system").value = kept.system;
  $("preset").value = nameOf(kept.system);
  notes();
}

const nameOf = (text) => (text.trim() ? (about.presets.find((preset) => preset.text === text)?.name ?? OWN) : "none");

function notes() {
  $("model").textContent = model();
  const quotes = verbatim();
  $("temperature-note").textContent = quotes
    ? "With sources this server quotes: answers are sentences of the sources. The temperature then only moves which are chosen."
    : "";
  $("system-note").textContent = quotes
    ? "With sources this server quotes: a system prompt writes no word of an answer, and the figures below do not apply. Switch “Use sources” off to let the model write."
    : "Sent before every conversation. Presets are those that “headwater bias” measures.";
  const preset = about.presets.find((each) => each.text === $("system").value);
  $("effects").replaceChildren(...(preset ? effectsOf(preset) : []));
  const changed = model() !== about.model || kept.system.trim() || kept.temperature !== null || kept.maxTokens !== null;
  $("open-settings").textContent = changed ? "Settings •" : "Settings";
  $("open-settings").setAttribute("aria-label", changed ? "Settings, changed" : "Settings");
}

function effectsOf(preset) {
  if (!preset.effects.length) {
    return [element("p", { className: "note", textContent: "Its effect has not been measured in this store: headwater bias, headwater probe." })];
  }
  const percent = ({ value, low, high }) =>
    value === null ? "not known" : `${(100 * value).toFixed(0)} % (${(100 * low).toFixed(0)} to ${(100 * high).toFixed(0)})`;
  const rows = preset.effects.map((effect) =>
    element(
      "tr",
      {},
      element("th", { scope: "row", textContent: effect.what }),
      element("td", { textContent: percent(effect.without) }),
      element("td", { textContent: percent(effect.with) }),
    ),
  );
  const head = element("tr", {}, ...["measure", "without", `with “${preset.name}”`].map((name) => element("th", { scope: "col", textContent: name })));
  const models = [...new Set(preset.effects.map((effect) => `${effect.artifact} of ${effect.model}`))].join(", ");
  const caption = element("caption", { textContent: `Measured, with 95 % intervals: ${models}` });
  return [element("table", {}, caption, element("thead", {}, head), element("tbody", {}, ...rows))];
}

const given = (input) => (input.value === "" || !input.checkValidity() ? null : input.valueAsNumber);

$("retrieval").addEventListener("change", (event) => {
  keep({ retrieval: event.target.checked });
  $("web").disabled = !kept.retrieval;
  notes();
});
$("web").addEventListener("change", (event) => {
  keep({ web: event.target.checked });
  notes();
});
$("open-settings").addEventListener("click", () => $("settings-dialog").showModal());
$("chosen-model").addEventListener("change", (event) => {
  keep({ model: event.target.value });
  notes();
});
$("temperature").addEventListener("change", (event) => keep({ temperature: given(event.target) }));
$("max-tokens").addEventListener("change", (event) => keep({ maxTokens: given(event.target) }));
$("preset").addEventListener("change", (event) => {
  const preset = about.presets.find((each) => each.name === event.target.value);
  if (event.target.value !== OWN) keep({ system: preset?.text ?? "" });
  show();
  if (event.target.value === OWN) $("system").focus();
});
$("system").addEventListener("input", (event) => {
  keep({ system: event.target.value });
  $("preset").value = nameOf(kept.system);
  notes();
});
$("reset-settings").addEventListener("click", () => {
  keep({ model: null, temperature: null, maxTokens: null, system: "" });
  show();
});
$("settings-dialog").addEventListener("close", notes);
