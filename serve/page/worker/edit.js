/** A whole edit in the browser, as the Editor makes it: place, plan, loop, paste, and a PNG with its recipe. */

import { begin, step } from "../step.js";
import { paste } from "./canvas.js";
import { encodePng } from "./encode.js";
import { decodePixels, toPicture, toState } from "./pixels.js";
import { place } from "./place.js";
import { makePlan } from "./plan.js";
import { readSettings, recipeOf } from "./settings.js";

/** @import { EditRequest, Progress, Recipe, Row, Slot } from "../types.js" */
/** @import { Canvas } from "./canvas.js" */
/** @import { LoadedModel } from "./model.js" */
/** @import { Plan } from "./plan.js" */
/** @import { Settings } from "./settings.js" */

/** Previews take no more than this share of the time: one on a large photo takes as long as some evaluations. */
const PREVIEW_SHARE = 0.2;

/**
 * @typedef {Object} Watch
 * @property {() => Promise<boolean>} wanted Lets messages in; false if the edit was cancelled meanwhile.
 * @property {(progress: Progress) => void} onPreview
 */

/**
 * @typedef {Object} Job
 * @property {LoadedModel} model
 * @property {Settings} settings
 * @property {Plan} plan
 * @property {Canvas} canvas
 * @property {Watch} watch
 * @property {number} nextPreview Time from which on the next preview may be made.
 */

/**
 * The finished images; null if the edit was cancelled.
 * @param {LoadedModel} model
 * @param {EditRequest} request
 * @param {Watch} watch
 * @returns {Promise<Blob[] | null>}
 */
export async function makeEdit(model, request, watch) {
  const { about } = model;
  const settings = readSettings(about.model, request.options);
  const plan = makePlan(model.schedule, settings);
  const guide = await decodePixels(request.guide, about.model.channels);
  const mask = request.mask && (await decodePixels(request.mask, 1));
  const threshold = Math.min(...plan.rows.map((row) => row.threshold));
  const canvas = place(guide, mask, settings, about.model, threshold);
  const shared = {
    ...about.recipe,
    ...recipeOf(settings, model.schedule.samplers),
    guide: await identity(request.guide),
    mask: request.mask && (await identity(request.mask)),
    base: null,
  };
  /** @type {Job} */
  const job = { model, settings, plan, canvas, watch, nextPreview: 0 };
  const images = [];
  for (let image = 0; image < settings.images; image++) {
    const state = await denoise(job, image);
    if (!state) return null;
    const picture = toPicture(state, canvas.part.width, canvas.part.height);
    images.push(await encodePng(paste(canvas, picture, plan.keepsExactly), textOf({ ...shared, image })));
  }
  return images;
}

/**
 * The state after the plan's last row; null if the edit was cancelled.
 * @param {Job} job
 * @param {number} image
 */
async function denoise(job, image) {
  const { plan, canvas, settings, watch } = job;
  const guide = toState(canvas.part);
  /** @type {Slot} */
  const slot = {
    x: new Float32Array(guide.length),
    h: new Float32Array(guide.length),
    guide,
    mask: canvas.mask.values,
    seed: settings.seed,
    image,
    alpha0: plan.alpha0,
    sigma0: plan.sigma0,
  };
  const steps = plan.rows.length * settings.images;
  for (const [at, row] of plan.rows.entries()) {
    begin(slot, row, at ? plan.rows[at - 1] : null);
    const [o, uncond] = await evaluate(job, slot, row);
    step(slot, row, o, uncond);
    const png = at + 1 < plan.rows.length ? await preview(job, slot) : null;
    watch.onPreview({ step: image * plan.rows.length + at + 1, steps, image, png });
    if (!(await watch.wanted())) return null;
  }
  if (!slot.x.every(Number.isFinite)) {
    throw new Error("the network returned values that are not finite; the result is not an image");
  }
  return slot.x;
}

/**
 * The network's output, and that without a label if it has a label of no class: a copy where guidance is 1.
 * @param {Job} job
 * @param {Slot} slot
 * @param {Row} row
 * @returns {Promise<[Float32Array, Float32Array | null]>}
 */
async function evaluate({ model, canvas, settings }, { x }, row) {
  const { channels, null_label } = model.about.model;
  const shape = [1, channels, canvas.part.height, canvas.part.width];
  const o = await model.evaluate(x, shape, row.time, settings.label ?? null_label);
  if (null_label === null) return [o, null];
  return [o, row.guidance === 1 ? o : await model.evaluate(x, shape, row.time, null_label)];
}

/**
 * The picture that the image would be if it ended now; null if it is too soon for one.
 * @param {Job} job
 * @param {Slot} slot
 */
async function preview(job, { h }) {
  const began = performance.now();
  if (began < job.nextPreview) return null;
  const { canvas } = job;
  const png = await encodePng(paste(canvas, toPicture(h, canvas.part.width, canvas.part.height), true));
  const ended = performance.now();
  job.nextPreview = ended + (ended - began) / PREVIEW_SHARE;
  return png;
}

/**
 * A recipe's entry for a picture. Browsers have the hash only in secure contexts: https, or localhost.
 * @param {Blob} file
 */
async function identity(file) {
  if (!globalThis.crypto?.subtle) return { name: null, sha256: null };
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
  return { name: null, sha256: Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("") };
}

/** The recipe as JSON, its seed as a number of up to 64 bits. @param {Recipe} recipe */
function textOf(recipe) {
  const seed = String(recipe.seed);
  return JSON.stringify({ ...recipe, seed }).replace(`"seed":"${seed}"`, `"seed":${seed}`);
}
