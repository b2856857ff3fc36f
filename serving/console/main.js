// The page: a conversation, its sources, and the comparison of two answers.

import { ApiError, firstModel, saveRanking, setKey, streamAnswers } from "./api.js";
import { actionButton, AnswerView, element, judgement, userMessage } from "./view.js";

const $ = (id) => document.getElementById(id);
const conversation = $("conversation");
const question = $("question");
const send = $("send");

const state = {
  model: null,
  messages: [], // the conversation, as API messages
  running: null, // AbortController of the answer in progress
  followUp: null, // button below the last answer
};

// Two answers must differ to be worth comparing: both are sampled, at rising temperatures.
const TEMPERATURES = [1.0, 1.5, 2.0];
const LETTERS = ["A", "B"];

async function loadModel() {
  try {
    state.model = await firstModel();
  } catch (error) {
    if (error.status === 401) return askForKey();
    return showNotice(error.message);
  }
  $("model").textContent = state.model.id;
  $("retrieval-switch").hidden = !state.model.retrieval;
  if (!state.model.retrieval) {
    $("retrieval").checked = false;
    $("welcome-text").textContent = "This server has no index: answers come from the model alone.";
  }
}

function askForKey() {
  const dialog = $("key-dialog");
  dialog.showModal();
  dialog.addEventListener(
    "close",
    () => {
      if (dialog.returnValue !== "ok") return;
      setKey($("key").value);
      $("key").value = "";
      loadModel();
    },
    { once: true },
  );
}

function showNotice(text) {
  conversation.append(element("p", { className: "error", role: "alert", textContent: text }));
}

function setRunning(controller) {
  state.running = controller;
  document.body.classList.toggle("running", controller !== null);
  send.setAttribute("aria-label", controller ? "Stop" : "Send");
}

function scrollToEnd() {
  window.scrollTo({ top: document.body.scrollHeight });
}

// Fills each view with an answer to `messages`; returns the answers in that order, or null if there are none.
async function fill(views, messages, retrieval, sampling) {
  const controller = new AbortController();
  setRunning(controller);
  const partial = views.map(() => "");
  const onText = (choice, text) => {
    const atEnd = window.innerHeight + window.scrollY >= document.body.scrollHeight - 80;
    views[choice].grow((partial[choice] = text));
    if (atEnd) scrollToEnd();
  };
  try {
    const request = { model: state.model.id, messages, retrieval, sampling };
    const answers = await streamAnswers(request, onText, controller.signal);
    for (const [n, view] of views.entries()) view.finish(answers[n]);
    return answers;
  } catch (error) {
    if (error.name === "AbortError") {
      for (const [n, view] of views.entries()) view.finish({ text: partial[n] || "Stopped.", citations: [] });
      return null;
    }
    if (!(error instanceof ApiError)) throw error;
    for (const [n, view] of views.entries()) view.fail(error.message, partial[n]);
    if (error.status === 401) askForKey();
    return null;
  } finally {
    setRunning(null);
  }
}

async function ask(text) {
  if (!state.model) await loadModel();
  if (!state.model) return;
  $("welcome").hidden = true;
  state.followUp?.remove();
  const retrieval = $("retrieval").checked;
  const messages = [...state.messages, { role: "user", content: text }];
  const view = new AnswerView();
  const turn = element("section", { className: "turn" }, userMessage(text), view.root);
  conversation.append(turn);
  scrollToEnd();
  const [answer] = (await fill([view], messages, retrieval, {})) ?? [];
  if (!answer?.text) return;
  state.messages = [...messages, { role: "assistant", content: answer.text }];
  offerComparison(view, messages, answer, retrieval);
  scrollToEnd();
}

function offerComparison(view, messages, answer, retrieval) {
  const copy = actionButton("Copy", async () => {
    await navigator.clipboard.writeText(answer.text);
    copy.textContent = "Copied";
  });
  view.actions.append(copy);
  if (!state.model.rankings) return;
  const button = actionButton("Compare two answers", () => compare(view, messages, retrieval));
  view.actions.append(button);
  state.followUp = button;
}

// Two new answers take the place of the first: sampled alike, in one request, and shown at random places.
async function compare(firstView, messages, retrieval) {
  if (state.running) return;
  const views = LETTERS.map((letter) => new AnswerView(`Answer ${letter}`));
  const pair = element("div", { className: "pair" }, ...views.map((view) => view.root));
  firstView.root.replaceWith(pair);
  pair.scrollIntoView({ behavior: "smooth", block: "nearest" });
  const [coin, ...seeds] = crypto.getRandomValues(new Uint32Array(1 + TEMPERATURES.length));
  const order = coin % 2 ? [1, 0] : [0, 1]; // the place of each answer of the request
  const placed = order.map((place) => views[place]);
  let sampling, answers;
  for (const [attempt, temperature] of TEMPERATURES.entries()) {
    sampling = { n: 2, temperature, seed: seeds[attempt] };
    answers = await fill(placed, messages, retrieval, sampling);
    if (answers === null || answers[0].text !== answers[1].text) break;
  }
  if (answers === null || answers.some((answer) => !answer.text)) return;
  const shown = order.map((choice) => ({
    ...answers[choice], temperature: sampling.temperature, seed: sampling.seed + choice,
  }));
  continueWith(messages, shown[0]);
  if (shown[0].text === shown[1].text) {
    pair.after(element("p", { className: "note", textContent: "The model gave the same answer twice." }));
    return;
  }
  pair.after(judgement(LETTERS, (ranks, reason) => rank(messages, views, shown, ranks, reason, retrieval)));
}

async function rank(messages, views, shown, ranks, reason, retrieval) {
  const answers = shown.map(({ text, token_ids, temperature, seed }) => ({ text, token_ids, temperature, seed }));
  await saveRanking({ messages, answers, ranks, reason, blind: true, ...(retrieval ? {} : { retrieval: false }) });
  const best = Math.min(...ranks);
  for (const [n, view] of views.entries()) view.root.classList.add(ranks[n] === best ? "chosen" : "rejected");
  continueWith(messages, shown[ranks.indexOf(best)]);
}

// The conversation goes on with this answer, unless it has gone on already.
function continueWith(messages, answer) {
  if (state.messages.length === messages.length + 1) state.messages.at(-1).content = answer.text;
}

function resize() {
  question.style.height = "auto";
  question.style.height = `${Math.min(question.scrollHeight, 200)}px`;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (state.running) return state.running.abort();
  const text = question.value.trim();
  if (!text) return;
  question.value = "";
  resize();
  ask(text);
});

question.addEventListener("input", resize);
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!state.running) $("composer").requestSubmit();
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && state.running) state.running.abort();
});

$("new-chat").addEventListener("click", () => {
  state.running?.abort();
  state.messages = [];
  state.followUp = null;
  conversation.replaceChildren();
  $("welcome").hidden = false;
  question.focus();
});

loadModel();
