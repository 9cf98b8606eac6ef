/** The dialog that asks for the server's key. */

import { element, input } from "./dom.js";

/**
 * The key that people enter. Rejects if they close the dialog.
 * @returns {Promise<string>}
 */
export function askKey() {
  const dialog = element("key-dialog", HTMLDialogElement);
  const field = input("key");
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve, reject) => {
    const closed = () => {
      if (dialog.returnValue === "use" && field.value) resolve(field.value);
      else reject(new Error("the server needs a key: reload the page to enter it"));
    };
    dialog.addEventListener("close", closed, { once: true });
  });
}
