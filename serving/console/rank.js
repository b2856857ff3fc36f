// The view for ranking: a question, two to four answers, and how people's rankings stand.

import { get } from "./api.js";
import { compare } from "./compare.js";
import { actionButton, count, element, notice, plural } from "./dom.js";
import { PATTERN, rater, setRater } from "./rater.js";
import { model, retrieval, sampling, systemMessages, verbatim } from "./settings.js";

export function rankView(page, about) {
  let running = null;
  let next = 0;
  const examples = about.corpus?.examples ?? [];

  const standing = element("p", { className: "note", role: "status" });
  const question = element("textarea", { rows: 2, maxLength: 20000, id: "rank-question", required: true });
  const number = element("select", { id: "rank-count" }, ...[2, 3, 4].map((n) => element("option", { value: n, textContent: n })));
  const host = element("div", { className: "ranked" });
  const go = element("button", { className: "primary", textContent: "Get answers" });
  const name = element("input", { id: "rater", pattern: PATTERN, maxLength: 64, value: rater(), placeholder: "local" });
  name.addEventListener("change", () => {
    if (!name.reportValidity()) return;
    setRater(name.value);
    tell();
  });

  const suggest = () => {
    if (!examples.length) return;
    question.value = examples[next++ % examples.length];
  };
  const tell = async () => {
    try {
      const query = rater() ? `?rater=${encodeURIComponent(rater())}` : "";
      standing.textContent = sentence(await get(`/console/api/rankings${query}`));
    } catch (error) {
      standing.replaceChildren(notice(error));
    }
  };
  const run = async (work, views) => {
    running = new AbortController();
    go.textContent = "Stop";
    try {
      return await work(running.signal);
    } catch (error) {
      const text = error.name === "AbortError" ? "Stopped." : error.message;
      for (const view of views) view.fail(text);
      return null;
    } finally {
      running = null;
      go.textContent = "Get answers";
    }
  };
  const form = element(
    "form",
    { className: "card" },
    element("label", { htmlFor: "rank-question", textContent: "Question" }),
    question,
    element(
      "div",
      { className: "bar" },
      element("span", {}, element("label", { htmlFor: "rank-count", textContent: "Answers" }), " ", number),
      ...(about.rater === null
        ? [element("span", {}, element("label", { htmlFor: "rater", textContent: "Your name" }), " ", name)]
        : []),
      ...(examples.length ? [actionButton("Another question", suggest)] : []),
      go,
    ),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (running) return running.abort();
    const request = {
      model: model(),
      messages: [...systemMessages(), { role: "user", content: question.value.trim() }],
      retrieval: retrieval(),
      sampling: sampling(),
      verbatim: verbatim(),
    };
    await compare(host, Number(number.value), request, {
      run,
      onSaved: () => {
        suggest();
        tell();
      },
      onSkipped: suggest,
    });
  });
  suggest();
  tell();
  page.append(
    element("h2", { textContent: "Rank answers" }),
    element("p", {
      className: "lead",
      textContent: "The answers are sampled alike and stand at random places. What you choose becomes training data of the reward model.",
    }),
    standing,
    form,
    host,
  );
  return () => running?.abort();
}

function sentence({ rankings, raters, own, own_agreement: [same, shared], shared_items, alpha }) {
  const parts = [`${plural(rankings, "ranking")} by ${count(raters)} ${raters === 1 ? "person" : "people"}`, `${count(own)} by you`];
  if (alpha !== null) parts.push(`agreement ${alpha.toFixed(2)} on ${plural(shared_items, "shared pair")} (Krippendorff's alpha: 1 is perfect, 0 chance)`);
  else parts.push("agreement not known: no two people have judged the same answers");
  if (shared) parts.push(`you agree with the others on ${same} of ${shared}`);
  return `${parts.join(" · ")}.`;
}
