/** The settings of an edit: the form's fields, and options of a recipe that have no field. */

import { button, element, input } from "./dom.js";

/** @import { Model, Option, Recipe } from "./types.js" */

/** Options with a field of their own, or none that makes sense here: pictures and their number. */
const FIELDS = ["t0", "steps", "seed", "size", "label", "guidance", "images"];

/** It dispatches `change` when people changed something. */
export class Settings extends EventTarget {
  #form = element("settings", HTMLFormElement);
  #size = element("size", HTMLSelectElement);
  #prompt = element("prompt", HTMLTextAreaElement);
  /** @type {Model | null} */ #model = null;
  /** @type {Record<string, Option>} */ #extra = {};

  constructor() {
    super();
    for (const id of ["t0", "steps", "seed", "size", "label", "guidance", "prompt"]) {
      element(id, HTMLElement).addEventListener("change", () => this.#changed());
    }
    input("t0").addEventListener("input", () => this.#show());
    button("dice").addEventListener("click", () => this.roll());
    button("extra-clear").addEventListener("click", () => {
      this.#extra = {};
      this.#changed();
    });
  }

  /** Show what a model takes. @param {Model} model */
  fit(model) {
    this.#model = model;
    input("steps").max = String(model.levels);
    input("label").max = String(Math.max(0, model.classes - 1));
    element("label-fields", HTMLElement).hidden = !model.classes;
    element("guidance-field", HTMLElement).hidden = !model.guidance;
    element("prompt-field", HTMLElement).hidden = !model.text;
    this.#size.replaceChildren(...sizesOf(model).map(([value, text]) => new Option(text, value)));
    this.#show();
  }

  /** Whether all fields have values that are accepted; if not, the browser points at the first that has none. */
  check() {
    return this.#form.reportValidity();
  }

  /**
   * The options of an edit.
   * @param {boolean} masked
   * @returns {Record<string, Option>}
   */
  options(masked) {
    const model = this.#model;
    return {
      ...this.#extra,
      t0: input("t0").value,
      steps: input("steps").value,
      seed: input("seed").value,
      size: this.#size.value || (masked || !model ? null : automaticSize(model)),
      ...(model?.classes && input("label").value !== "" && { label: input("label").value }),
      ...(model?.guidance && { guidance: input("guidance").value }),
      ...(model?.text && { prompt: this.#prompt.value }),
    };
  }

  /** Take another seed. */
  roll() {
    this.newSeed();
    this.#changed();
  }

  /** Take another seed, without an edit. */
  newSeed() {
    input("seed").value = String(crypto.getRandomValues(new Uint32Array(1))[0]);
  }

  /** @param {number} steps Steps of the slider of t0. */
  free(steps) {
    if (steps > 0) input("t0").stepUp(steps);
    else input("t0").stepDown(-steps);
    this.#changed();
  }

  /**
   * Set everything as a recipe says. What has no field is kept as an extra option.
   * @param {Recipe} recipe
   */
  take(recipe) {
    for (const name of ["t0", "steps", "seed", "label", "guidance"]) {
      if (recipe[name] !== undefined) input(name).value = String(recipe[name] ?? "");
    }
    if (typeof recipe.prompt === "string") this.#prompt.value = recipe.prompt;
    this.#takeSize(recipe.size ?? (recipe.mask ? "" : "native"));
    if (!recipe.mask && this.#model && this.#size.value === automaticSize(this.#model)) this.#size.value = "";
    const defaults = this.#model?.defaults ?? {};
    const names = Object.keys(defaults).filter((name) => !FIELDS.includes(name) && name in recipe);
    const kept = names.filter((name) => recipe[name] !== defaults[name] && (name !== "eta" || recipe.sampler === "ddim"));
    this.#extra = Object.fromEntries(kept.map((name) => [name, recipe[name]]));
    this.#show();
  }

  /** All fields, for autosave. @returns {Recipe} */
  save() {
    const fields = Object.fromEntries(["t0", "steps", "seed", "label", "guidance"].map((id) => [id, input(id).value]));
    return { ...fields, size: this.#size.value, prompt: this.#prompt.value, extra: this.#extra };
  }

  /** The inverse of `save`. @param {Recipe} saved */
  load(saved) {
    for (const id of ["t0", "steps", "seed", "label", "guidance"]) input(id).value = saved[id] ?? "";
    this.#prompt.value = saved.prompt ?? "";
    this.#takeSize(saved.size ?? "");
    this.#extra = saved.extra ?? {};
    this.#show();
  }

  /** @param {string | number} size */
  #takeSize(size) {
    const value = String(size);
    if (![...this.#size.options].some((option) => option.value === value)) this.#size.append(new Option(value, value));
    this.#size.value = value;
  }

  #show() {
    input("t0").setAttribute("aria-valuetext", `t0 ${input("t0").value}`);
    element("t0-out", HTMLOutputElement).value = Number(input("t0").value).toFixed(2);
    const extra = Object.entries(this.#extra);
    element("extra", HTMLElement).hidden = !extra.length;
    element("extra-text", HTMLElement).textContent = `Also: ${extra.map(([name, value]) => `${name} ${value}`).join(", ")}.`;
  }

  #changed() {
    this.#show();
    this.dispatchEvent(new Event("change"));
  }
}

/**
 * The sizes to choose from: [value of the option, text]. A number is the longer side in pixels.
 * @param {Model} model
 * @returns {[string, string][]}
 */
function sizesOf(model) {
  const { height, width } = model.native;
  const factors = [2, 3, 4].filter((factor) => model.free && factor * factor * height * width <= model.max_pixels);
  const longer = factors.map((factor) => String(factor * Math.max(height, width)));
  return [
    ["", "Automatic"],
    ["native", `${Math.max(height, width)} (native)`],
    ...longer.map((side) => /** @type {[string, string]} */ ([side, side])),
  ];
}

/**
 * The size where people chose none: twice the native one, which shows more and is still quick.
 * @param {Model} model
 */
function automaticSize({ free, native, max_pixels }) {
  const fits = free && 4 * native.height * native.width <= max_pixels;
  return fits ? String(2 * Math.max(native.height, native.width)) : "native";
}
