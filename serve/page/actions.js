/** What people can do with a button or a key, and the keys. */

import { button, download, element, input, messageOf, say } from "./dom.js";
import { decode } from "./files.js";
import { readRecipe } from "./png.js";

/** @import { Binding } from "./keyboard.js" */

/**
 * @typedef {Object} Parts
 * @property {import("./painting.js").Painting} painting
 * @property {import("./tools.js").Tools} tools
 * @property {import("./palette.js").Palette} palette
 * @property {import("./settings.js").Settings} settings
 * @property {import("./results.js").Results} results
 * @property {import("./editing.js").Editing} editing
 * @property {import("./view.js").View} view
 */

export class Actions {
  /** @param {Parts} parts */
  constructor(parts) {
    this.parts = parts;
    const { painting, settings } = parts;
    painting.addEventListener("change", (event) => {
      if (/** @type {CustomEvent} */ (event).detail !== "photo") this.live();
    });
    settings.addEventListener("change", () => this.live());
    element("settings", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      this.edit();
    });
    /** @type {Record<string, () => void>} */
    const clicks = {
      undo: () => this.undo(),
      redo: () => this.redo(),
      new: () => this.renew(),
      save: () => this.save(),
      four: () => this.four(),
      use: () => this.use(),
      swap: () => this.swap(),
      "clear-mask": () => painting.clearMask(),
    };
    for (const [id, act] of Object.entries(clicks)) button(id).addEventListener("click", act);
    input("live").addEventListener("change", () => (input("live").checked ? this.live() : this.parts.editing.cancel()));
  }

  /** Make an edit soon, if edits are live. */
  live() {
    if (input("live").checked) this.parts.editing.soon();
  }

  /** Make an edit, or stop the one that runs. */
  edit() {
    if (this.parts.editing.busy) this.stop();
    else this.parts.editing.run(1);
  }

  stop() {
    if (this.parts.editing.busy) say("Stopped.");
    this.parts.editing.cancel();
  }

  four() {
    this.parts.editing.run(4);
  }

  undo() {
    if (!this.parts.painting.history.undo()) say("There is nothing to undo.");
  }

  redo() {
    if (!this.parts.painting.history.redo()) say("There is nothing to redo.");
  }

  /** A new painting of the chosen colour. */
  renew() {
    const { painting, tools } = this.parts;
    painting.renew(512, 512, tools.colour);
  }

  /** Save the result as it came, with its recipe. */
  save() {
    const { current } = this.parts.results;
    if (!current) return say("There is no result to save yet.");
    download(current.url, `sdedit-${current.recipe.seed}-${current.recipe.image}.png`);
  }

  /** Save the strokes that the result was made from: `sdedit replay` needs them. */
  saveStrokes() {
    const { current } = this.parts.results;
    if (!current?.guideUrl) return say("The strokes of this result are not known.");
    download(current.guideUrl, `sdedit-${current.recipe.seed}-strokes.png`);
  }

  /** Paint on the result. A seed that made it would sharpen it too much, so there is a new one. */
  async use() {
    const { painting, results, settings } = this.parts;
    if (!results.current) return say("There is no result to use yet.");
    const { picture, width, height } = await decode(results.current.png);
    const scale = Math.max(1, Math.max(painting.width, painting.height) / Math.max(width, height));
    this.parts.editing.cancel();
    painting.place(picture, Math.round(scale * width), Math.round(scale * height));
    settings.newSeed();
    this.#show("strokes");
    say("The result is under your brush, with a new seed.");
  }

  /**
   * Open a result with its recipe, or a photo.
   * @param {Blob} file
   */
  async open(file) {
    try {
      const recipe = await readRecipe(file);
      if (recipe) await this.#openResult(file, recipe);
      else await this.#openPhoto(file);
    } catch (error) {
      say(messageOf(error), "error");
    }
  }

  /** Show the other frame large, where one is an inset. */
  swap() {
    this.#show(element("stage", HTMLElement).dataset.show === "strokes" ? "result" : "strokes");
  }

  /** @returns {Binding[]} */
  bindings() {
    const { tools, palette, settings, results, view, painting } = this.parts;
    const digits = Array.from({ length: 9 }, (_, i) => String(i + 1));
    return [
      { keys: ["b"], shown: "B", text: "Brush", act: () => tools.choose("brush") },
      { keys: ["e"], shown: "E", text: "Eraser", act: () => tools.choose("eraser") },
      { keys: ["g"], shown: "G", text: "Fill", act: () => tools.choose("fill") },
      { keys: ["i"], shown: "I, or Alt and click", text: "Eyedropper", act: () => tools.choose("pick") },
      { keys: ["h"], shown: "H, or the middle button", text: "Move the view", act: () => tools.choose("hand") },
      { keys: ["m"], shown: "M", text: "Paint the mask, or colours again", act: () => tools.toggleMask() },
      { keys: ["shift+m"], shown: "Shift M", text: "Remove the mask", act: () => painting.clearMask() },
      ...digits.map((key, i) => ({
        keys: [key],
        shown: "1 to 9",
        text: i ? "" : "Material",
        act: () => palette.choose(i),
      })),
      { keys: ["["], shown: "[", text: "Narrower brush", act: () => tools.widen(-1) },
      { keys: ["]"], shown: "]", text: "Wider brush", act: () => tools.widen(1) },
      { keys: ["enter"], shown: "Enter", text: "Make the edit, or stop it", act: () => this.edit() },
      { keys: ["escape"], shown: "Escape", text: "Stop the edit", act: () => this.stop() },
      { keys: ["v"], shown: "V", text: "Four variations", act: () => this.four() },
      { keys: ["r"], shown: "R", text: "Another seed", act: () => settings.roll() },
      { keys: [","], shown: ",", text: "Closer to the strokes", act: () => settings.free(-1) },
      { keys: ["."], shown: ".", text: "Freer", act: () => settings.free(1) },
      { keys: ["l"], shown: "L", text: "Live on or off", act: () => input("live").click() },
      { keys: ["u"], shown: "U", text: "Paint on the result", act: () => this.use() },
      { keys: ["c"], shown: "C", text: "Compare before and after", act: () => results.toggleCompare() },
      { keys: ["x"], shown: "X", text: "Show the other frame, on small screens", act: () => this.swap() },
      { keys: ["ctrl+z"], shown: "Ctrl Z", text: "Undo", act: () => this.undo() },
      { keys: ["ctrl+shift+z", "ctrl+y"], shown: "Ctrl Shift Z", text: "Redo", act: () => this.redo() },
      { keys: ["n"], shown: "N", text: "New painting of the chosen colour", act: () => this.renew() },
      { keys: ["o"], shown: "O", text: "Open a photo, or a result with its recipe", act: () => input("file").click() },
      { keys: ["ctrl+s"], shown: "Ctrl S", text: "Save the result with its recipe", act: () => this.save() },
      { keys: ["ctrl+shift+s"], shown: "Ctrl Shift S", text: "Save its strokes", act: () => this.saveStrokes() },
      { keys: ["+", "=", "shift++"], shown: "+", text: "Zoom in", act: () => view.zoomBy(1.4) },
      { keys: ["-"], shown: "-", text: "Zoom out", act: () => view.zoomBy(1 / 1.4) },
      { keys: ["0"], shown: "0", text: "Whole picture", act: () => view.reset() },
    ];
  }

  /**
   * @param {Blob} file
   * @param {import("./types.js").Recipe} recipe
   */
  async #openResult(file, recipe) {
    const { results, settings } = this.parts;
    settings.take(recipe);
    await results.finish([file], null);
    say(`The recipe is back: t0 ${recipe.t0}, ${recipe.steps} steps, seed ${recipe.seed}. "Use the result" paints on it.`);
  }

  /** @param {Blob} file */
  async #openPhoto(file) {
    const { picture, width, height, reduced } = await decode(file);
    this.parts.editing.cancel();
    this.parts.painting.place(picture, width, height);
    this.#show("strokes");
    say(`${width} x ${height} pixels${reduced ? ", reduced" : ""}. Paint on it, or mark with the mask what may change.`);
  }

  /** @param {"strokes" | "result"} frame */
  #show(frame) {
    element("stage", HTMLElement).dataset.show = frame;
    const other = frame === "strokes" ? "result" : "strokes";
    button("swap").setAttribute("aria-label", `Show the ${other} large`);
  }
}
