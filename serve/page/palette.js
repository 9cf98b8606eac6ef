/** The palette: the model's materials, and one colour of your own. */

import { element } from "./dom.js";

/** @import { Material } from "./types.js" */
/** @import { Tools } from "./tools.js" */

/** For models that come without a palette. @type {Material[]} */
const PLAIN = [
  ["Black", "#101010"],
  ["Grey", "#808080"],
  ["White", "#f4f4f4"],
  ["Red", "#b03a2e"],
  ["Brown", "#7b5a3c"],
  ["Yellow", "#d9b44a"],
  ["Green", "#4b7a3a"],
  ["Blue", "#2f5f9e"],
].map(([name, colour]) => ({ name, colour }));

export class Palette {
  #root = element("palette", HTMLElement);
  #own = document.createElement("input");
  /** @type {Material[]} */ materials = [];

  /** @param {Tools} tools */
  constructor(tools) {
    this.tools = tools;
    this.#own.type = "color";
    this.#own.setAttribute("aria-label", "Your own colour");
    this.#own.addEventListener("input", () => (tools.colour = this.#own.value));
    tools.addEventListener("change", () => this.#show());
    this.#root.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Show a model's materials. @param {Material[] | null} materials */
  fit(materials) {
    this.materials = materials?.length ? materials : PLAIN;
    const own = swatch("Own", "#808080");
    own.append(this.#own);
    own.addEventListener("click", (event) => event.target !== this.#own && this.#own.click());
    const known = this.materials.map(({ name, colour }, i) => {
      const one = swatch(name, colour);
      one.title = i < 9 ? `${name} (${i + 1})` : name;
      one.addEventListener("click", () => this.choose(i));
      return one;
    });
    this.#root.replaceChildren(...known, own);
    this.#show();
  }

  /** @param {number} index */
  choose(index) {
    const material = this.materials[index];
    if (material) this.tools.colour = material.colour;
  }

  /** Arrow keys move among the swatches, as in any group of radio buttons. @param {KeyboardEvent} event */
  #key(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const swatches = /** @type {HTMLElement[]} */ ([...this.#root.children]);
    const at = swatches.indexOf(/** @type {HTMLElement} */ (event.target));
    if (!step || at < 0) return;
    event.preventDefault();
    const next = (at + step + swatches.length) % swatches.length;
    swatches[next].focus();
    this.choose(next);
  }

  #show() {
    const colour = this.tools.colour;
    const chosen = this.materials.findIndex((material) => material.colour === colour);
    const swatches = /** @type {HTMLElement[]} */ ([...this.#root.children]);
    swatches.forEach((one, i) => {
      const checked = chosen < 0 ? i === swatches.length - 1 : i === chosen;
      one.setAttribute("aria-checked", String(checked && this.tools.layer === "colour"));
      one.tabIndex = checked ? 0 : -1;
    });
    this.#own.value = colour;
    if (chosen < 0) paint(swatches[swatches.length - 1], colour);
  }
}

/**
 * @param {string} name
 * @param {string} colour
 */
function swatch(name, colour) {
  const one = document.createElement("button");
  one.type = "button";
  one.className = "swatch";
  one.setAttribute("role", "radio");
  one.append(document.createElement("i"), name);
  paint(one, colour);
  return one;
}

/**
 * @param {HTMLElement | undefined} one
 * @param {string} colour
 */
function paint(one, colour) {
  one?.querySelector("i")?.style.setProperty("background", colour);
}
