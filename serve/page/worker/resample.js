/** Pillow's Lanczos resize of 8-bit pictures (Image.resize with a box): the bytes of Pillow 13. */

/** @import { Picture } from "./pixels.js" */

const SUPPORT = 3;
const PRECISION = 22; // bits of a weight's fraction, as Pillow has them

/** @typedef {{start: number, taps: Int32Array}} Weights Weights of one new pixel: first old pixel, and the weight of each from there. */

/**
 * The part of a picture in `box`, resized.
 * @param {Picture} picture
 * @param {number} width
 * @param {number} height
 * @param {number[]} [box] left, top, right, bottom: fractions of pixels count.
 * @returns {Picture}
 */
export function resize(picture, width, height, box = [0, 0, picture.width, picture.height]) {
  const [left, top, right, bottom] = box.map(Math.fround);
  const across = (/** @type {Picture} */ { data, height, channels }) => ({
    width,
    height,
    channels,
    data: resampleAxis(data, height, picture.width, channels, weightsOf(picture.width, left, right, width)),
  });
  const down = (/** @type {Picture} */ { data, width, channels }) => ({
    width,
    height,
    channels,
    data: resampleAxis(data, 1, picture.height, width * channels, weightsOf(picture.height, top, bottom, height)),
  });
  const passes = [];
  if (width !== picture.width || left !== 0 || right !== width) passes.push(across);
  if (height !== picture.height || top !== 0 || bottom !== height) passes.push(down);
  if (downFirst(picture, width, height)) passes.reverse();
  return passes.reduce((result, pass) => pass(result), picture);
}

/**
 * Whether Pillow, from 13 on, resizes vertically first: where it reduces the height much more than the width.
 * @param {Picture} picture
 * @param {number} width
 * @param {number} height
 */
const downFirst = (picture, width, height) =>
  height < picture.height && picture.height - height > 2 * (picture.width - width);

/**
 * An array of shape [outer, old, inner], its middle axis resampled. Each value is rounded, and clamped to 0..255.
 * @param {Uint8ClampedArray} data
 * @param {number} outer
 * @param {number} old
 * @param {number} inner
 * @param {Weights[]} weights
 */
function resampleAxis(data, outer, old, inner, weights) {
  const out = new Uint8ClampedArray(outer * weights.length * inner);
  let at = 0;
  for (let o = 0; o < outer; o++) {
    for (const { start, taps } of weights) {
      const first = (o * old + start) * inner;
      for (let i = 0; i < inner; i++) {
        let sum = 1 << (PRECISION - 1);
        for (let tap = 0; tap < taps.length; tap++) sum += data[first + tap * inner + i] * taps[tap];
        out[at++] = sum >> PRECISION;
      }
    }
  }
  return out;
}

/**
 * The weights of each new pixel of an axis.
 * @param {number} old Length of the axis.
 * @param {number} from First end of the part that is resized.
 * @param {number} to
 * @param {number} count New length of that part.
 * @returns {Weights[]}
 */
function weightsOf(old, from, to, count) {
  const scale = Math.fround(to - from) / count;
  const filterScale = Math.max(scale, 1);
  const support = SUPPORT * filterScale;
  return Array.from({ length: count }, (_, i) => {
    const centre = from + (i + 0.5) * scale;
    const start = Math.max(Math.trunc(centre - support + 0.5), 0);
    const end = Math.min(Math.trunc(centre + support + 0.5), old);
    const values = Array.from({ length: end - start }, (_, x) => lanczos((x + start - centre + 0.5) / filterScale));
    const total = values.reduce((sum, value) => sum + value, 0);
    return { start, taps: Int32Array.from(values, (value) => roundAway((value / total) * 2 ** PRECISION)) };
  });
}

/** @param {number} value Halves are rounded away from 0. */
const roundAway = (value) => Math.trunc(value < 0 ? value - 0.5 : value + 0.5);

/** @param {number} x */
const lanczos = (x) => (x >= -SUPPORT && x < SUPPORT ? sinc(x) * sinc(x / SUPPORT) : 0);

/** @param {number} x */
const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));
