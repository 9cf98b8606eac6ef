/** The options of an edit, from the texts that the page sends. Mistakes are Errors for people. */

/** @import { Model, Option, Recipe } from "../types.js" */
/** @import { Sampler } from "./plan.js" */

/**
 * @typedef {Object} Settings Options as runtime/settings.py declares them.
 * @property {number} t0
 * @property {number} steps
 * @property {string} sampler
 * @property {number | null} eta
 * @property {string} keep
 * @property {number} repeats
 * @property {bigint} seed
 * @property {number} images
 * @property {number} clip
 * @property {string} fit
 * @property {number} context
 * @property {string | null} size
 * @property {number | null} max_pixels
 * @property {number} feather
 * @property {number | null} label
 * @property {number} guidance
 */

/** The range of each number: lowest, highest, whether it is an integer. */
const RANGES = /** @type {Record<string, [number, number, boolean]>} */ ({
  t0: [Number.MIN_VALUE, 1, false],
  steps: [1, 4096, true],
  eta: [0, 1, false],
  repeats: [1, 4096, true],
  images: [1, 2 ** 32, true],
  clip: [Number.MIN_VALUE, Infinity, false],
  context: [0, Number.MAX_VALUE, false],
  max_pixels: [1, 2 ** 31 - 1, true],
  feather: [0, 64, true],
  label: [0, 2 ** 31 - 1, true],
  guidance: [-Number.MAX_VALUE, Number.MAX_VALUE, false],
});

const CHOICES = /** @type {Record<string, string[]>} */ ({
  keep: ["fresh", "fixed", "paper", "official"],
  fit: ["crop", "stretch"],
});

/** Options that only a server has, and the one value that changes nothing. */
const ABSENT = /** @type {Record<string, Option>} */ ({ tile: null, mask_from: "brightness", prompt: null, negative: null });

const MOST_SEED = 2n ** 64n - 1n;

/**
 * @param {Model} model
 * @param {Record<string, Option>} options
 * @returns {Settings}
 */
export function readSettings(model, options) {
  const all = { ...model.defaults, ...options };
  for (const [name, only] of Object.entries(ABSENT)) {
    if (all[name] !== only) throw new Error(`${name} ${all[name]} needs sdedit serve: this page has only ${only ?? "none"}`);
  }
  for (const [name, accepted] of Object.entries(CHOICES)) {
    if (!accepted.includes(String(all[name]))) {
      throw new Error(`${name} ${all[name]} is not one of ${accepted.join(", ")}, which this page has`);
    }
  }
  const numbers = Object.fromEntries(Object.keys(RANGES).map((name) => [name, numberOf(name, all[name])]));
  const size = all.size === null ? null : String(all.size);
  const settings = { ...all, ...numbers, size, seed: seedOf(String(all.seed)) };
  return checkLabel(model, /** @type {Settings} */ (/** @type {unknown} */ (settings)));
}

/**
 * The options as a recipe has them.
 * @param {Settings} settings
 * @param {Record<string, Sampler>} samplers
 * @returns {Recipe}
 */
export function recipeOf(settings, samplers) {
  const eta = settings.eta ?? samplers[settings.sampler].eta;
  return { ...settings, eta, clip: Number.isFinite(settings.clip) ? settings.clip : "inf" };
}

/**
 * @param {string} name
 * @param {Option} value
 */
function numberOf(name, value) {
  if (value === null) return null;
  const number = value === "inf" ? Infinity : Number(value);
  const [low, high, integer] = RANGES[name];
  if (value === "" || !(number >= low && number <= high) || (integer && !Number.isInteger(number))) {
    throw new Error(`${name} ${value} is not ${integer ? "an integer" : "a number"} that an edit takes`);
  }
  return number;
}

/** @param {string} text */
function seedOf(text) {
  if (!/^[0-9]+$/.test(text) || BigInt(text) > MOST_SEED) throw new Error(`seed ${text} is not in 0..${MOST_SEED}`);
  return BigInt(text);
}

/**
 * The settings with the label that the network gets, if it takes one: Settings.label_for.
 * @param {Model} model
 * @param {Settings} settings
 */
function checkLabel({ id, classes, null_label }, settings) {
  const { label, guidance } = settings;
  if (guidance !== 1 && null_label === null) {
    throw new Error(`${id} has no "no class" label, so guidance must be 1 (it is ${guidance})`);
  }
  if (label === null) {
    if (classes && null_label === null) throw new Error(`a label is needed: ${id} takes 0..${classes - 1}`);
    if (guidance !== 1) throw new Error(`guidance ${guidance} needs a label: ${id} takes 0..${classes - 1}`);
  } else if (label >= classes) {
    throw new Error(`label ${label}: ${id} takes ${classes ? `0..${classes - 1}` : "none"}`);
  }
  return settings;
}
