// Asks which of two to four answers is better: buttons and keys (1-4, t for a tie, s to skip).

import { actionButton, element } from "./dom.js";

const KEYS = "Keys: a number takes an answer, t a tie, s skips.";
const PLACES = ["best", "second", "third", "fourth"];

// `onRanks(ranks, reason)` saves the judgement, and an error it throws is shown; `onSkip` ends it without.
// `onPlaces(ranks)` is told of each choice; of answers not yet chosen the rank is 0.
export function judgement(letters, { onRanks, onSkip, onPlaces = () => {} }) {
  const several = letters.length > 2;
  let groups = []; // answers from the best to the worst; those of one group are a tie
  let joins = false; // the next one chosen shares the rank of the last
  const chosen = () => groups.flat();
  const ranksNow = () => {
    const ranks = letters.map(() => 0);
    groups.forEach((group, n) => group.forEach((answer) => (ranks[answer] = n + 1)));
    return ranks;
  };

  const reason = element("input", { className: "reason", maxLength: 2000, placeholder: "Why? (optional)", "aria-label": "Why" });
  const message = element("p", { className: "note", role: "status" });
  const take = (answer) => {
    if (chosen().includes(answer)) return;
    if (joins && groups.length) groups.at(-1).push(answer);
    else groups.push([answer]);
    joins = false;
    const rest = letters.map((_, n) => n).filter((n) => !chosen().includes(n));
    if (rest.length === 1 && !several) groups.push(rest);
    draw();
    if (!several) save();
  };
  const tie = () => {
    if (!groups.length) {
      groups = [letters.map((_, n) => n)];
      draw();
      if (!several) save();
    } else if (chosen().length < letters.length) {
      joins = true;
      draw();
    }
  };
  const undo = () => {
    if (joins) joins = false;
    else if (groups.length) {
      groups.at(-1).pop();
      groups = groups.filter((group) => group.length);
    }
    draw();
  };
  const save = async () => {
    if (chosen().length < letters.length) return;
    for (const button of buttons) button.disabled = true;
    message.className = "note";
    try {
      await onRanks(ranksNow(), reason.value.trim());
    } catch (error) {
      groups = several ? groups : [];
      draw();
      message.className = "error";
      message.textContent = error.message;
      return;
    }
    end("Saved. Thank you.");
  };
  const skip = () => {
    end("Skipped.");
    onSkip();
  };
  const end = (text) => {
    document.removeEventListener("keydown", press);
    form.replaceChildren(message);
    message.textContent = text;
  };

  const letterButtons = letters.map((letter, n) =>
    actionButton(several ? letter : `${letter} is better`, () => take(n), several ? "quiet letter" : "primary"),
  );
  const tieButton = actionButton(several ? "Tie" : "Equally good", tie);
  const saveButton = actionButton("Save", save, "primary");
  const undoButton = actionButton("Undo", undo);
  const skipButton = actionButton("Skip", skip);
  const buttons = several
    ? [...letterButtons, tieButton, undoButton, skipButton, saveButton]
    : [letterButtons[0], tieButton, ...letterButtons.slice(1), skipButton];

  const draw = () => {
    const done = chosen().length === letters.length;
    letterButtons.forEach((button, n) => (button.disabled = chosen().includes(n)));
    tieButton.disabled = done || joins;
    undoButton.disabled = !groups.length;
    saveButton.disabled = !done;
    skipButton.disabled = false;
    const order = groups.map((group) => group.map((n) => letters[n]).join(" = ")).join(", then ");
    message.className = "note";
    if (done) message.textContent = several ? `${order}. Save with Enter.` : "";
    else if (groups.length) message.textContent = `${order}${joins ? " = …" : ", then …"}`;
    else message.textContent = several ? `Choose from the best to the worst. ${KEYS}` : KEYS;
    onPlaces(ranksNow());
    if (done && several) saveButton.focus({ preventScroll: true });
  };
  const press = (event) => {
    if (!form.isConnected) return document.removeEventListener("keydown", press);
    const typing = event.target.closest?.("input, textarea, select, dialog");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !form.checkVisibility()) return;
    const answer = Number(event.key) - 1;
    if (answer >= 0 && answer < letters.length) take(answer);
    else if (event.key === "t") tie();
    else if (event.key === "s") skip();
    else if (event.key === "Backspace" && several) undo();
    else return;
    event.preventDefault();
  };
  document.addEventListener("keydown", press);

  const form = element(
    "div",
    { className: "judgement", role: "group", tabIndex: -1, "aria-label": "Which answer is better?" },
    ...buttons,
    reason,
    message,
  );
  draw();
  return form;
}

export const placeName = (rank) => PLACES[rank - 1] ?? "";
