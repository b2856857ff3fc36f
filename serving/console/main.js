// The page: which view is shown, the server's description, and the API key.

import { get, setKey } from "./api.js";
import * as chat from "./chat.js";
import { corpusView } from "./corpus.js";
import { $, element, notice } from "./dom.js";
import { keysView } from "./keys.js";
import { lineageView } from "./lineage.js";
import { rankView } from "./rank.js";
import { askFor } from "./rater.js";
import { runsView } from "./runs.js";
import * as settings from "./settings.js";
import { tokensView } from "./tokens.js";

// Each is called with (page, about, parts of the address) and may return what ends it.
const VIEWS = { rank: rankView, runs: runsView, corpus: corpusView, tokens: tokensView, lineage: lineageView, keys: keysView };

let about = null;
let end = null; // of the view that is shown

async function load() {
  try {
    about = await get("/console/api/about");
  } catch (error) {
    if (error.status === 401) return askForKey();
    return $("conversation").replaceChildren(notice(error));
  }
  for (const link of document.querySelectorAll("nav [data-needs]")) link.hidden = !about[link.dataset.needs];
  settings.setUp(about);
  askFor(about.rater === null);
  chat.setUp(about, askForKey);
  route();
  chat.askWaiting();
}

function askForKey() {
  const dialog = $("key-dialog");
  if (dialog.open) return;
  dialog.returnValue = "";
  dialog.showModal();
  dialog.onclose = () => {
    if (dialog.returnValue !== "ok") return;
    setKey($("key").value);
    $("key").value = "";
    load();
  };
}

function route() {
  if (location.hash && !location.hash.startsWith("#/")) return; // a place in the page
  const [name, ...parts] = location.hash.slice(2).split("/").map(decoded);
  const view = VIEWS[name];
  end?.();
  end = null;
  if (!view && !parts[0] && !$("page").hidden && chat.address()) return location.replace(chat.address());
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${view ? name : "chat"}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  $("chat").hidden = Boolean(view);
  $("page").hidden = !view;
  $("page").replaceChildren();
  document.title = view ? `${name[0].toUpperCase()}${name.slice(1)} · Headwater` : "Headwater";
  if (!view) return chat.open(parts[0] ?? "");
  if (!about) return;
  const inner = element("div", { className: `view ${name}` });
  $("page").append(inner);
  end = view(inner, about, parts) ?? null;
  window.scrollTo({ top: 0 });
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

window.addEventListener("hashchange", route);
load();
