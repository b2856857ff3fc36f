// The page: a conversation, its sources, and the choice between two answers.

import { ApiError, firstModel, saveRanking, setKey, streamAnswer } from "./api.js";
import { actionButton, AnswerView, element, userMessage } from "./view.js";

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

// The second answer must differ to be worth comparing: sample it, at rising temperatures.
const SECOND_TEMPERATURES = [1.0, 1.5, 2.0];

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

// Fills `view` with an answer to `messages`; returns the answer, or null if there is none.
async function fill(view, messages, retrieval, sampling) {
  const controller = new AbortController();
  setRunning(controller);
  let partial = "";
  const onText = (text) => {
    const atEnd = window.innerHeight + window.scrollY >= document.body.scrollHeight - 80;
    view.grow((partial = text));
    if (atEnd) scrollToEnd();
  };
  try {
    const request = { model: state.model.id, messages, retrieval, sampling };
    const answer = await streamAnswer(request, onText, controller.signal);
    view.finish(answer);
    return answer;
  } catch (error) {
    if (error.name === "AbortError") {
      view.finish({ text: partial || "Stopped.", citations: [] });
      return null;
    }
    if (!(error instanceof ApiError)) throw error;
    view.fail(error.message, partial);
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
  const answer = await fill(view, messages, retrieval, {});
  if (answer === null || !answer.text) return;
  state.messages = [...messages, { role: "assistant", content: answer.text }];
  offerSecond(turn, view, messages, answer, retrieval);
  scrollToEnd();
}

function offerSecond(turn, view, messages, answer, retrieval) {
  const copy = actionButton("Copy", async () => {
    await navigator.clipboard.writeText(answer.text);
    copy.textContent = "Copied";
  });
  const another = actionButton("Another answer", () => compare(turn, view, messages, answer, retrieval, another));
  view.actions.append(copy, another);
  state.followUp = another;
}

async function compare(turn, firstView, messages, first, retrieval, button) {
  if (state.running) return;
  button.remove();
  const secondView = new AnswerView("Answer B");
  const heading = element("h3", { textContent: "Answer A" });
  firstView.root.prepend(heading);
  const pair = element("div", { className: "pair" });
  firstView.root.replaceWith(pair);
  pair.append(firstView.root, secondView.root);
  secondView.root.scrollIntoView({ behavior: "smooth", block: "nearest" });
  let second = null;
  for (const temperature of SECOND_TEMPERATURES) {
    const seed = crypto.getRandomValues(new Uint32Array(1))[0];
    second = await fill(secondView, messages, retrieval, { temperature, seed });
    if (second === null || second.text !== first.text) break;
  }
  if (second === null || !second.text) return;
  if (second.text === first.text) {
    secondView.actions.append(element("p", { className: "note", textContent: "The model gave the same answer again." }));
    return;
  }
  if (state.model.rankings) offerChoice(pair, messages, [firstView, first], [secondView, second]);
}

function offerChoice(pair, messages, one, other) {
  const buttons = [];
  for (const [[view, answer], [otherView, rejected]] of [[one, other], [other, one]]) {
    const button = actionButton("This one is better", async () => {
      for (const each of buttons) each.disabled = true;
      try {
        await saveRanking(messages, answer.text, rejected.text);
      } catch (error) {
        for (const each of buttons) each.disabled = false;
        view.actions.append(element("p", { className: "error", role: "alert", textContent: error.message }));
        return;
      }
      for (const each of buttons) each.remove();
      view.root.classList.add("chosen");
      otherView.root.classList.add("rejected");
      view.actions.append(element("p", { className: "note", role: "status", textContent: "Saved. Thank you." }));
      const last = state.messages.at(-1);
      if (state.messages.length === messages.length + 1) last.content = answer.text;
    }, "primary");
    buttons.push(button);
    view.actions.append(button);
  }
  pair.scrollIntoView({ behavior: "smooth", block: "nearest" });
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
