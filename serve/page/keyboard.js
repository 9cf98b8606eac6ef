/** Keys for everything, and the dialog that lists them. */

import { button, element } from "./dom.js";

/** @typedef {{keys: string[], shown: string, text: string, act: () => void}} Binding Those without a text are not listed. */

/**
 * @param {Binding[]} bindings `keys`: as KeyboardEvent.key has them, in lower case, with Ctrl+ and Shift+ in front.
 */
export function bindKeys(bindings) {
  const dialog = element("help-dialog", HTMLDialogElement);
  const help = { keys: ["?", "shift+?"], shown: "?", text: "These keys", act: () => dialog.showModal() };
  const all = [...bindings, help];
  const byKey = new Map(all.flatMap(({ keys, act }) => keys.map((key) => [key, act])));
  button("help").addEventListener("click", help.act);
  element("keys", HTMLElement).replaceChildren(...all.filter(({ text }) => text).flatMap(describe));
  addEventListener("keydown", (event) => {
    const act = byKey.get(nameOf(event));
    if (!act || event.defaultPrevented || document.querySelector("dialog[open]") || isTyped(event)) return;
    event.preventDefault();
    act();
  });
}

/** @param {KeyboardEvent} event */
function nameOf(event) {
  const control = event.ctrlKey || event.metaKey ? "ctrl+" : "";
  return `${control}${event.shiftKey ? "shift+" : ""}${event.key.toLowerCase()}`;
}

/**
 * Whether the key belongs to the field or button that has the focus.
 * @param {KeyboardEvent} event
 */
function isTyped(event) {
  const { target } = event;
  if (event.ctrlKey || event.metaKey) return target instanceof HTMLTextAreaElement && event.key.toLowerCase() !== "s";
  if (target instanceof HTMLInputElement && ["range", "checkbox"].includes(target.type)) return event.key.length > 1;
  if (target instanceof HTMLInputElement || target instanceof HTMLTextAreaElement) return true;
  return ["Enter", " "].includes(event.key) && target instanceof HTMLButtonElement;
}

/** @param {Binding} binding */
function describe({ shown, text }) {
  const key = document.createElement("dt");
  const meaning = document.createElement("dd");
  key.textContent = shown;
  meaning.textContent = text;
  return [key, meaning];
}
