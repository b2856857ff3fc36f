// The view of keys and usage, for admins: list, add and revoke keys; requests and tokens by day. A key is shown once.

import { get, post, remove } from "./api.js";
import { actionButton, count, element, notice, table } from "./dom.js";

const PATH = "/console/api/keys";
const LIMITS = [["requests_per_minute", "Requests a minute"], ["tokens_per_minute", "Tokens a minute"], ["tokens_per_day", "Tokens a day"]];

export function keysView(page) {
  const told = element("div", { role: "status" });
  const lists = element("div");
  page.append(element("h2", { textContent: "Keys and usage" }), form(told, lists), told, lists);
  show(lists);
}

async function show(lists) {
  try {
    const { keys, usage } = await get(PATH);
    lists.replaceChildren(keyTable(keys, lists), usageTable(usage));
  } catch (error) {
    lists.replaceChildren(notice(error));
  }
}

function keyTable(keys, lists) {
  const rows = keys.map((key) => [key.id, key.name, key.roles.join(", "), key.limits.join(", "), key.yours ? "this is yours" : revokeButton(key, lists)]);
  return table("Keys", ["id", "name", "roles", "limits", "revoke"], rows);
}

// Two presses: the first asks.
function revokeButton(key, lists) {
  const button = actionButton("Revoke", async () => {
    if (button.dataset.asked !== "yes") {
      button.dataset.asked = "yes";
      button.textContent = `Revoke ${key.name || key.id}?`;
      return;
    }
    try {
      await remove(`${PATH}/${encodeURIComponent(key.id)}`);
      show(lists);
    } catch (error) {
      button.replaceWith(notice(error));
    }
  });
  button.setAttribute("aria-label", `Revoke the key ${key.id} ${key.name}`);
  return button;
}

function usageTable(usage) {
  const rows = usage.flatMap((each) => {
    const shares = Object.entries(each.models);
    const all = [each.day, each.name || each.id, shares.length === 1 ? shares[0][0] || "not recorded" : "all", count(each.requests), ...tokens(each)];
    if (shares.length < 2) return [all];
    return [all, ...shares.map(([model, share]) => [each.day, each.name || each.id, model || "not recorded", "", ...tokens(share)])];
  });
  if (!rows.length) return element("p", { className: "note", textContent: "No usage is recorded." });
  return table("Usage by day (UTC)", ["day", "key", "model", "requests", "prompt tokens", "completion tokens"], rows);
}

const tokens = (used) => [count(used.prompt_tokens), count(used.completion_tokens)];

function form(told, lists) {
  const name = element("input", { id: "key-name", required: true, maxLength: 64, pattern: "[A-Za-z0-9._@\\-]+", autocomplete: "off" });
  const roles = ["rank", "admin"].map((role) => element("input", { type: "checkbox", id: `role-${role}`, value: role }));
  const limits = LIMITS.map(([id]) => element("input", { type: "number", min: "0", step: "1", id: `key-${id}` }));
  const made = element(
    "form",
    { className: "pairs" },
    labelled("Name of a new key", name),
    ...roles.map((box) => element("label", { htmlFor: box.id }, box, ` may ${box.value === "rank" ? "rank answers" : "administer"}`)),
    ...LIMITS.map(([, label], n) => labelled(label, limits[n])),
    element("button", { className: "primary", textContent: "Make a key" }),
  );
  made.addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = { name: name.value, roles: roles.filter((box) => box.checked).map((box) => box.value) };
    LIMITS.forEach(([id], n) => limits[n].value && (body[id] = Number(limits[n].value)));
    try {
      const { key } = await post(PATH, body);
      told.replaceChildren(element("p", {}, `The key of ${name.value}, shown only now: `, element("code", { textContent: key })));
      made.reset();
      show(lists);
    } catch (error) {
      told.replaceChildren(notice(error));
    }
  });
  return made;
}

const labelled = (text, input) => element("div", {}, element("label", { htmlFor: input.id, textContent: text }), input);
