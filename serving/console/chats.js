// Chats in the browser's localStorage: a list of them, bounded in number and size.
// A chat is { id, title, updated, turns: [{ question, answer: { text, citations, verbatim, stopped, error } }] }.

const KEY = "headwater-chats";
export const MOST = 50; // chats kept; the oldest go first
export const CHARACTERS = 3_000_000; // of all of them as JSON: browsers allow some 5 million

let chats = read();

function read() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(found) ? found.filter((chat) => chat?.id && Array.isArray(chat.turns)) : [];
  } catch {
    return []; // not readable: another version's, or no storage at all
  }
}

function write() {
  chats = chats.toSorted((a, b) => b.updated - a.updated).slice(0, MOST);
  for (;;) {
    const text = JSON.stringify(chats);
    if (text.length <= CHARACTERS || chats.length === 1) {
      try {
        localStorage.setItem(KEY, text);
        return true;
      } catch {
        if (chats.length <= 1) return false; // no room, or no storage
      }
    }
    chats = chats.slice(0, -1);
  }
}

// Another tab may have written since.
const refreshed = () => {
  const known = read();
  const own = new Map(chats.map((chat) => [chat.id, chat]));
  for (const chat of known) if (!(own.get(chat.id)?.updated >= chat.updated)) own.set(chat.id, chat);
  const there = new Set(known.map((chat) => chat.id));
  chats = [...own.values()].filter((chat) => there.has(chat.id));
};

export function all() {
  return chats;
}

export function find(id) {
  return chats.find((chat) => chat.id === id) ?? null;
}

export function create() {
  return { id: crypto.randomUUID?.() ?? String(Math.random()).slice(2), title: "", updated: 0, turns: [] };
}

// Keeps a chat that has a question; false if the browser has no room for it.
export function save(chat) {
  if (!chat.turns.length) return true;
  refreshed();
  chat.updated = Date.now();
  chat.title ||= chat.turns[0].question.split("\n")[0].slice(0, 80);
  chats = [chat, ...chats.filter((other) => other.id !== chat.id)];
  return write();
}

export function remove(id) {
  refreshed();
  chats = chats.filter((chat) => chat.id !== id);
  if (chats.length) write();
  else localStorage.removeItem(KEY);
}
