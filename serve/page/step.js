/**
 * begin and step in JavaScript: the twins of kernels/step_numpy.py for one image, with the same bits.
 *
 * A Float32Array rounds what is stored in it, as Math.fround does.
 */

import { normal } from "./noise.js";

/** @import { Row, Slot } from "./types.js" */

const f = Math.fround;

/**
 * Noise the guide where `row` is the first of a repeat: x = alpha0 g + sigma0 z. From the second repeat on, pixels that
 * the last one edited are the new guide.
 * @param {Slot} slot
 * @param {Row} row
 * @param {Row | null} before The row before, if there is one.
 */
export function begin(slot, row, before) {
  if (row.step !== 0) return;
  const { x, guide, mask } = slot;
  const z = normal(slot.seed, slot.image, row.repeat, 0, 0, x.length);
  for (let i = 0; i < x.length; i++) {
    if (row.repeat > 0 && before && mask[i % mask.length] >= before.threshold) guide[i] = x[i];
    x[i] = f(slot.alpha0 * guide[i]) + f(slot.sigma0 * z[i]);
  }
}

/**
 * Run one row: x and h become x' and h'.
 * @param {Slot} slot
 * @param {Row} row
 * @param {Float32Array} o The network's output at x.
 * @param {Float32Array | null} uncond Its output without a label, which the row's guidance mixes with o. null: no mix.
 */
export function step(slot, row, o, uncond) {
  const { x, h, guide, mask, seed, image } = slot;
  const z = normal(seed, image, row.repeat, row.step, 1, x.length);
  const zKeep = row.keep_noise ? normal(seed, image, row.repeat, 0, 0, x.length) : z;
  for (let i = 0; i < x.length; i++) {
    const m = mask[i % mask.length];
    const out = uncond ? f(uncond[i] + f(row.guidance * f(o[i] - uncond[i]))) : o[i];
    let x0 = f(f(row.a_x * x[i]) + f(row.a_o * out));
    if (x0 < -row.clip) x0 = -row.clip;
    if (x0 > row.clip) x0 = row.clip;
    const last = m >= row.h_threshold ? h[i] : x0;
    const edit = f(f(f(row.c_x * x[i]) + f(row.c_0 * x0)) + f(row.c_h * last)) + f(row.c_z * z[i]);
    const keep = f(row.k_g * guide[i]) + f(row.k_z * zKeep[i]);
    x[i] = m >= row.threshold ? edit : keep;
    h[i] = x0;
  }
}
