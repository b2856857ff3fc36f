// Two to four new answers to the same messages, side by side: sampled alike, each with a seed of its own, and
// shown at random places. Then a person says which is better.

import { post, streamAnswer } from "./api.js";
import { AnswerView } from "./answer.js";
import { element } from "./dom.js";
import { judgement, placeName } from "./judgement.js";
import { rater } from "./rater.js";

// Answers must differ to be worth comparing: they are sampled, at rising temperatures.
const TEMPERATURES = [1.0, 1.5, 2.0];
export const LETTERS = ["A", "B", "C", "D"];

// `request`: { model, messages, retrieval, sampling, verbatim }. `run(work)` calls work(signal) and tells of
// its errors. Resolves to the answers as shown, or null; `onSaved(best, ranks)` and `onSkipped()` follow.
export async function compare(host, count, request, { run, onSaved, onSkipped = () => {} }) {
  const views = LETTERS.slice(0, count).map((letter) => new AnswerView(`Answer ${letter}`, request.verbatim));
  const group = element("div", { className: "pair" }, ...views.map((view) => view.root));
  host.replaceChildren(group);
  group.scrollIntoView({ behavior: "smooth", block: "nearest" });
  let shown = null;
  for (const temperature of TEMPERATURES) {
    shown = await run((signal) => sampled(views, request, temperature, signal), views);
    if (shown === null || distinct(shown).length === count) break;
  }
  if (shown === null) return null;
  const kept = distinct(shown); // numbers of the views whose answers differ
  for (const [n, view] of views.entries()) view.root.hidden = !kept.includes(n);
  const note = (text) => group.after(element("p", { className: "note", textContent: text }));
  if (kept.length < 2) {
    note(`The model ${kept.length ? "gave one answer only" : "said nothing"}: there is nothing to compare.`);
    return kept.length ? kept.map((n) => shown[n]) : null;
  }
  const [letters, answers, left] = [LETTERS, shown, views].map((all) => kept.map((n) => all[n]));
  const form = judgement(letters, {
    onPlaces: (ranks) => left.forEach((view, n) => (view.heading.dataset.place = placeName(ranks[n]))),
    onSkip: onSkipped,
    onRanks: async (ranks, reason) => {
      await save(request, answers, ranks, reason);
      const best = Math.min(...ranks);
      for (const [n, view] of left.entries()) view.root.classList.add(ranks[n] === best ? "chosen" : "rejected");
      onSaved(answers[ranks.indexOf(best)], ranks);
    },
  });
  group.after(form);
  if (kept.length < count) note("Answers that were empty, or equal to one before, are left out.");
  form.focus({ preventScroll: true });
  return shown;
}

// One answer for each view, in random order: which seed stands where is decided by chance.
async function sampled(views, request, temperature, signal) {
  const numbers = crypto.getRandomValues(new Uint32Array(2 * views.length));
  const seeds = [...numbers.slice(0, views.length)];
  const order = [...numbers.slice(views.length).entries()].toSorted((a, b) => a[1] - b[1]).map(([place]) => place);
  const answers = await Promise.all(
    order.map((place, n) => {
      const sampling = { ...request.sampling, temperature, seed: seeds[n] };
      return streamAnswer({ ...request, sampling }, (text) => views[place].grow(text), signal);
    }),
  );
  const shown = [];
  order.forEach((place, n) => (shown[place] = { ...answers[n], temperature, seed: seeds[n] }));
  for (const [n, view] of views.entries()) view.finish(shown[n]);
  return shown;
}

// Numbers of the answers that say something which none before them says.
function distinct(answers) {
  const texts = answers.map((answer) => answer.text.trim());
  return texts.map((_, n) => n).filter((n) => texts[n] && texts.indexOf(texts[n]) === n);
}

async function save({ model, messages, retrieval }, shown, ranks, reason) {
  const answers = shown.map(({ text, token_ids, temperature, seed, finish_reason, system_fingerprint }) => (
    { text, token_ids, temperature, seed, finish_reason, system_fingerprint }
  ));
  const who = rater() ? { rater: rater() } : {};
  await post("/v1/rankings", { model, messages, answers, ranks, reason, blind: true, ...who, ...(retrieval === true ? {} : { retrieval }) });
}
