/** The result frame: previews, the finished image beside what it was made from, variations, and the session's strip. */

import { button, element, input } from "./dom.js";
import { readRecipe } from "./png.js";

/** @import { Progress, Result } from "./types.js" */
/** @import { View } from "./view.js" */

/** Results that a session keeps; older ones are forgotten. */
const MOST_RESULTS = 40;

/** It dispatches `show` when another result is shown. */
export class Results extends EventTarget {
  #after = element("after", HTMLImageElement);
  #before = element("before", HTMLImageElement);
  #grid = element("grid", HTMLElement);
  #progress = element("progress", HTMLProgressElement);
  #split = input("split");
  #glass = element("result-glass", HTMLElement);
  /** @type {Result[]} */ #kept = [];
  /** @type {Result | null} */ current = null;
  #previewUrl = "";

  /** @param {View} view */
  constructor(view) {
    super();
    this.view = view;
    this.#split.addEventListener("input", () => this.#compare());
    element("stage", HTMLElement).addEventListener("view", () => this.#compare());
    for (const name of ["pointerdown", "pointermove"]) {
      this.#glass.addEventListener(name, (event) => this.#drag(/** @type {PointerEvent} */ (event)));
    }
  }

  /** An edit begins. @param {number} images */
  start(images) {
    this.#progress.hidden = false;
    this.#progress.value = 0;
    this.#grid.hidden = images === 1;
    this.#grid.replaceChildren(...Array.from({ length: images === 1 ? 0 : images }, (_, i) => variation(i)));
  }

  /** @param {Progress} progress */
  preview({ step, steps, image, png }) {
    this.#progress.value = step / steps;
    if (!png) return;
    URL.revokeObjectURL(this.#previewUrl);
    this.#previewUrl = URL.createObjectURL(png);
    const cells = this.#grid.querySelectorAll("img");
    const target = this.#grid.hidden ? this.#after : cells[image];
    target.src = this.#previewUrl;
    target.hidden = false;
    element("empty", HTMLElement).hidden = true;
    this.#before.hidden = element("handle", HTMLElement).hidden = true;
  }

  /** No edit runs any more; what was shown before a cancelled one comes back. */
  idle() {
    this.#progress.hidden = true;
    if (this.current && this.#grid.hidden) this.show(this.current);
    if (!this.#grid.querySelector("button[data-done]")) this.#grid.hidden = true;
  }

  /**
   * Keep the images of a finished edit and show the first, or all as variations.
   * @param {Blob[]} images
   * @param {Blob | null} guide
   * @returns {Promise<Result[]>}
   */
  async finish(images, guide) {
    const guideUrl = guide && URL.createObjectURL(guide);
    const results = await Promise.all(
      images.map(async (png) => {
        const recipe = (await readRecipe(png)) ?? {};
        return { png, url: URL.createObjectURL(png), recipe, guide, guideUrl };
      }),
    );
    this.#kept.unshift(...results);
    for (const old of this.#kept.splice(MOST_RESULTS)) URL.revokeObjectURL(old.url);
    const several = results.length > 1;
    this.show(results[0]);
    this.#grid.hidden = !several;
    if (several) this.#grid.replaceChildren(...results.map((result, i) => variation(i, result.url, () => this.show(result))));
    return results;
  }

  /** @param {Result} result */
  show(result) {
    this.current = result;
    this.#grid.hidden = true;
    this.#after.src = result.url;
    this.#after.alt = describe(result);
    this.#after.hidden = false;
    element("empty", HTMLElement).hidden = true;
    if (result.guideUrl) this.#before.src = result.guideUrl;
    this.#compare();
    this.#showStrip();
    this.dispatchEvent(new Event("show"));
  }

  /** Compare half and half, or show the result alone again. */
  toggleCompare() {
    this.#split.value = this.#split.value === "0" ? "50" : "0";
    this.#compare();
  }

  /** @param {PointerEvent} event */
  #drag(event) {
    if (!this.current?.guideUrl || !this.#grid.hidden || !(event.buttons & 1)) return;
    this.#split.value = String(Math.round(100 * this.view.inFrame(event, this.#glass).x));
    this.#compare();
  }

  /** Show what was before left of the split. */
  #compare() {
    const split = Number(this.#split.value);
    const known = Boolean(this.current?.guideUrl) && split > 0;
    this.#before.hidden = element("handle", HTMLElement).hidden = !known;
    this.#split.disabled = !this.current?.guideUrl;
    this.#glass.style.setProperty("--split", `${split}%`);
    this.#glass.style.setProperty("--split-in-sheet", `${100 * this.view.toPicture({ x: split / 100, y: 0 }).x}%`);
  }

  #showStrip() {
    element("strip", HTMLElement).replaceChildren(
      ...this.#kept.map((result) => {
        const one = imageButton(result.url, describe(result), () => this.show(result));
        one.setAttribute("aria-pressed", String(result === this.current));
        return one;
      }),
    );
    for (const id of ["save", "use"]) button(id).disabled = !this.current;
  }
}

/** @param {Result} result */
const describe = ({ recipe }) => `Result: t0 ${recipe.t0}, ${recipe.steps} steps, seed ${recipe.seed}, image ${recipe.image}`;

/**
 * @param {number} index
 * @param {string} [url] Without one it is not finished.
 * @param {() => void} [choose]
 */
function variation(index, url = "", choose = () => {}) {
  const one = imageButton(url, `Variation ${index + 1}`, choose);
  if (url) one.dataset.done = "";
  return one;
}

/**
 * @param {string} url
 * @param {string} text
 * @param {() => void} choose
 */
function imageButton(url, text, choose) {
  const one = document.createElement("button");
  const image = new Image();
  one.type = "button";
  one.title = text;
  image.alt = text;
  if (url) image.src = url;
  image.hidden = !url;
  one.append(image);
  one.addEventListener("click", choose);
  return one;
}
