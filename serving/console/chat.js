// The chat view: conversations with history, stop, regenerate, edit, copy and the comparison of two answers.

import { ApiError, streamAnswer } from "./api.js";
import { AnswerView } from "./answer.js";
import * as chats from "./chats.js";
import { compare } from "./compare.js";
import { $, actionButton, element } from "./dom.js";
import { anotherSampling, model, retrieval, sampling, systemMessages, verbatim } from "./settings.js";

const SAVE_MS = 500; // how often an answer in progress is kept
const conversation = $("conversation");
const question = $("question");
const send = $("send");

let about = null;
let askForKey = () => {};
let chat = chats.create();
let running = null; // AbortController of the answer in progress
let waiting = ""; // a question sent before the server had described itself

export function setUp(known, onKeyNeeded) {
  about = known;
  askForKey = onKeyNeeded;
  $("examples").replaceChildren(
    ...(about.corpus?.examples ?? []).map((example) => element("li", {}, actionButton(example, () => ask(example), "example"))),
  );
  $("welcome-text").textContent = holdings();
}

// Asks what was sent before `setUp`.
export function askWaiting() {
  if (waiting) ask(waiting);
  waiting = "";
}

function holdings() {
  if (!about.retrieval && about.web) return "This server has no index: answers come from pages of the web.";
  if (!about.retrieval) return "This server has no index: answers come from the model alone.";
  const documents = about.corpus?.documents;
  const what = documents ? `${documents.toLocaleString("en")} documents` : "the documents";
  return `Answers come from ${what} of this server and link to them.`;
}

// -- the list of chats ------------------------------------------------------------------------------
function drawHistory() {
  $("chats").replaceChildren(...chats.all().map(historyItem));
}

function historyItem(each) {
  const link = element("a", { href: `#/chat/${each.id}`, textContent: each.title, title: each.title });
  if (each.id === chat.id) link.setAttribute("aria-current", "page");
  const rename = actionButton("✎", () => renaming(item, each), "icon");
  const drop = actionButton("✕", () => dropping(each), "icon");
  rename.setAttribute("aria-label", `Rename ${each.title}`);
  drop.setAttribute("aria-label", `Delete ${each.title}`);
  const item = element("li", {}, link, rename, drop);
  return item;
}

function renaming(item, each) {
  const input = element("input", { value: each.title, maxLength: 80, "aria-label": "Title of the chat" });
  const end = (keep) => {
    if (!input.isConnected) return;
    if (keep && input.value.trim()) {
      each.title = input.value.trim();
      chats.save(each);
    }
    drawHistory();
  };
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") end(true);
    if (event.key === "Escape") end(false);
  });
  input.addEventListener("blur", () => end(true));
  item.replaceChildren(input);
  input.select();
}

function dropping(each) {
  const dialog = $("confirm-dialog");
  $("confirm-title").textContent = "Delete this chat?";
  $("confirm-text").textContent = each.title;
  dialog.returnValue = "";
  dialog.showModal();
  dialog.onclose = () => {
    if (dialog.returnValue !== "ok") return;
    if (each.id === chat.id) newChat();
    chats.remove(each.id);
    drawHistory();
  };
}

// -- one chat -----------------------------------------------------------------------------------------
export function open(id) {
  if (id === chat.id && conversation.childElementCount) return;
  running?.abort();
  chat = chats.find(id) ?? chats.create();
  conversation.replaceChildren(...chat.turns.map((_, n) => turnView(n)));
  $("welcome").hidden = chat.turns.length > 0;
  drawHistory();
  closeHistory();
  if (chat.turns.length) scrollToEnd();
}

// Address of the chat that is open; empty if it has no question yet.
export const address = () => (chat.turns.length ? `#/chat/${chat.id}` : "");

export function newChat() {
  location.hash = "#/chat";
  open("");
  question.focus();
}

function keep() {
  if (!chats.save(chat)) showNotice("This browser has no room for the chat: it will be gone after a reload.");
  drawHistory();
}

// The messages before and with a turn's question; turns without an answer are left out.
function messagesOf(number) {
  const before = chat.turns.slice(0, number).filter((turn) => turn.answer?.text);
  return [
    ...systemMessages(),
    ...before.flatMap((turn) => [
      { role: "user", content: turn.question },
      { role: "assistant", content: turn.answer.text },
    ]),
    { role: "user", content: chat.turns[number].question },
  ];
}

function turnView(number) {
  const turn = chat.turns[number];
  const view = new AnswerView("", turn.answer?.verbatim);
  const root = element("section", { className: "turn" }, questionView(number), view.root);
  if (turn.answer) {
    if (turn.answer.error) view.fail(turn.answer.error, turn.answer.text);
    else view.finish(turn.answer);
    addActions(root, view, number);
  }
  return root;
}

function questionView(number) {
  const text = element("p", { textContent: chat.turns[number].question });
  const edit = actionButton("Edit", () => editing(root, number));
  edit.setAttribute("aria-label", "Edit this question");
  const root = element("article", { className: "message user", "aria-label": "Question" }, text, element("div", { className: "actions" }, edit));
  return root;
}

function editing(root, number) {
  const input = element("textarea", { value: chat.turns[number].question, maxLength: 20000, rows: 3, "aria-label": "Edit the question" });
  const cancel = () => root.replaceWith(questionView(number));
  const form = element(
    "form",
    { className: "edit" },
    input,
    element("div", { className: "row" }, actionButton("Cancel", cancel), element("button", { className: "primary", textContent: "Ask again" })),
  );
  const submit = () => {
    const text = input.value.trim();
    if (text) askFrom(number, text);
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") cancel();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit();
    }
  });
  root.replaceChildren(form);
  input.focus();
}

function addActions(root, view, number) {
  const { answer } = chat.turns[number];
  const copy = actionButton("Copy", async () => {
    try {
      await navigator.clipboard.writeText(chat.turns[number].answer.text);
      copy.textContent = "Copied";
    } catch {
      copy.textContent = "Not copied: the browser refuses it";
    }
  });
  view.actions.replaceChildren(...(answer.text ? [copy] : []));
  if (number !== chat.turns.length - 1) return;
  for (const old of conversation.querySelectorAll(".last-only")) old.remove();
  const again = actionButton("Regenerate", () => askFrom(number, chat.turns[number].question, anotherSampling()), "quiet last-only");
  view.actions.append(again);
  if (!about?.rankings || !answer.text) return;
  view.actions.append(actionButton("Compare two answers", () => comparing(root, view, number), "quiet last-only"));
}

// -- asking -------------------------------------------------------------------------------------------
export function ask(text) {
  return askFrom(chat.turns.length, text);
}

// The chat goes on from this turn with this question; later turns are gone.
async function askFrom(number, text, how = sampling()) {
  if (!about || running) return;
  chat.turns = [...chat.turns.slice(0, number), { question: text, answer: null }];
  while (conversation.children.length > number) conversation.lastChild.remove();
  $("welcome").hidden = true;
  const turn = chat.turns[number];
  const root = element("section", { className: "turn" });
  const view = new AnswerView("", verbatim());
  root.append(questionView(number), view.root);
  conversation.append(root);
  scrollToEnd();
  keep();
  if (location.hash !== `#/chat/${chat.id}`) history.replaceState(null, "", `#/chat/${chat.id}`);
  const request = { model: model(), messages: messagesOf(number), retrieval: retrieval(), sampling: how };
  const asked = chat;
  let saved = 0;
  turn.answer = { text: "", citations: [], verbatim: verbatim(), stopped: true };
  const onText = (soFar) => {
    turn.answer.text = soFar;
    const atEnd = window.innerHeight + window.scrollY >= document.body.scrollHeight - 80;
    view.grow(soFar);
    if (atEnd) requestAnimationFrame(scrollToEnd);
    if (Date.now() - saved > SAVE_MS && (saved = Date.now())) chats.save(asked);
  };
  await run(async (signal) => {
    const { text: whole, citations, unread } = await streamAnswer(request, onText, signal);
    turn.answer = { text: whole, citations, unread, verbatim: turn.answer.verbatim };
    view.finish(turn.answer);
    return turn.answer;
  }, [view], turn);
  chats.save(asked);
  if (asked !== chat) return;
  drawHistory();
  addActions(root, view, number);
}

// Runs `work(signal)` with the Stop button; what goes wrong is shown in the views. Null without a result.
async function run(work, views, turn = null) {
  const controller = new AbortController();
  setRunning(controller);
  try {
    return await work(controller.signal);
  } catch (error) {
    if (error.name === "AbortError") {
      for (const view of views) view.finish({ text: turn?.answer.text || "Stopped.", citations: [] });
      return null;
    }
    if (!(error instanceof ApiError)) throw error;
    if (turn) turn.answer.error = error.message;
    for (const view of views) view.fail(error.message, turn?.answer.text);
    if (error.status === 401) askForKey();
    return null;
  } finally {
    if (running === controller) setRunning(null);
  }
}

// Two new answers take the place of this one; the better goes on.
async function comparing(root, view, number) {
  if (running) return;
  const request = {
    model: model(), messages: messagesOf(number), retrieval: retrieval(), sampling: sampling(), verbatim: verbatim(),
  };
  const asked = chat;
  const goOn = ({ text, citations, unread }) => {
    if (asked.turns.length !== number + 1) return; // the chat has gone on already
    asked.turns[number].answer = { text, citations, unread, verbatim: request.verbatim };
    chats.save(asked);
  };
  const host = element("div");
  view.root.replaceWith(host);
  const shown = await compare(host, 2, request, { run, onSaved: goOn, onSkipped: () => redraw(number) });
  if (shown) return goOn(shown[0]);
  const failed = host.querySelector(".error, .pair ~ .note");
  redraw(number); // the answer before is still there
  if (failed) conversation.children[number]?.append(failed);
}

function redraw(number) {
  if (conversation.children[number]) conversation.children[number].replaceWith(turnView(number));
}

function setRunning(controller) {
  running = controller;
  document.body.classList.toggle("running", controller !== null);
  send.setAttribute("aria-label", controller ? "Stop" : "Send");
}

function showNotice(text) {
  conversation.append(element("p", { className: "error", role: "alert", textContent: text }));
}

function scrollToEnd() {
  window.scrollTo({ top: document.body.scrollHeight });
}

// -- the composer -------------------------------------------------------------------------------------
function resize() {
  question.style.height = "auto";
  question.style.height = `${Math.min(question.scrollHeight, 200)}px`;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) return running.abort();
  const text = question.value.trim();
  if (!text) return;
  question.value = "";
  resize();
  if (about) ask(text);
  else waiting = text;
});

question.addEventListener("input", resize);
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!running) $("composer").requestSubmit();
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running && !document.querySelector("dialog[open]")) running.abort();
});

window.addEventListener("pagehide", () => chats.save(chat));
window.addEventListener("storage", drawHistory);

$("new-chat").addEventListener("click", newChat);

function closeHistory() {
  $("chat").classList.remove("listing");
  $("show-history").setAttribute("aria-expanded", "false");
}

$("show-history").addEventListener("click", () => {
  const open = $("chat").classList.toggle("listing");
  $("show-history").setAttribute("aria-expanded", String(open));
  if (open) $("history").querySelector("button, a").focus();
});
