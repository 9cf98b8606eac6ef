/** The part of a photo that is edited, and pasting the result back: the twins of runtime/images/canvas.py. */

import { editedPixels, part, reduceMask, spans } from "./masks.js";
import { resize } from "./resample.js";

/** @import { Mask } from "./masks.js" */
/** @import { Picture } from "./pixels.js" */

/** @typedef {[number, number]} Size width, height */
/** @typedef {[number, number, number, number]} Box left, top, right, bottom in pixels of the photo */

/**
 * @typedef {Object} Canvas The picture that is edited, and where it lies in the photo.
 * @property {Picture} photo
 * @property {Box} box
 * @property {Picture} part `box` of the photo at a size that the network takes.
 * @property {Mask} mask At that size.
 * @property {Size} inner Size of the box in `part`; the rest is its reflection, which is cut off again.
 * @property {Uint8Array | null} change Over the photo, 1 where it may change; null: the result is the whole picture.
 */

/**
 * The photo cropped to the aspect of a size, or stretched, and brought to it; all of it may change.
 * @param {Picture} photo
 * @param {Size} size
 * @param {string} fit "crop" or "stretch".
 * @returns {Canvas}
 */
export function wholeCanvas(photo, size, fit) {
  const same = photo.width === size[0] && photo.height === size[1];
  const box = fit === "crop" ? centred(photo, size[0] / size[1]) : [0, 0, photo.width, photo.height];
  const fitted = same ? photo : resize(photo, size[0], size[1], box);
  return { photo: fitted, box: [0, 0, ...size], part: fitted, mask: white(...size), inner: size, change: null };
}

/**
 * The largest box of that aspect in the middle of a photo, as ImageOps.fit has it.
 * @param {Picture} photo
 * @param {number} aspect
 */
function centred({ width, height }, aspect) {
  const own = width / height;
  const cropWidth = own > aspect ? aspect * height : width;
  const cropHeight = own < aspect ? width / aspect : height;
  const [left, top] = [(width - cropWidth) * 0.5, (height - cropHeight) * 0.5];
  return [left, top, left + cropWidth, top + cropHeight];
}

/**
 * The photo as large as it is, reflected up to sides that are multiples; all of it may change.
 * @param {Picture} photo
 * @param {number} multipleOf
 * @returns {Canvas}
 */
export function ownSizeCanvas(photo, multipleOf) {
  const inner = /** @type {Size} */ ([photo.width, photo.height]);
  const enlarged = reflected(photo, multiples(inner, multipleOf));
  return { photo, box: [0, 0, ...inner], part: enlarged, mask: white(enlarged.width, enlarged.height), inner, change: null };
}

/**
 * The box around the pixels that the mask edits, with its margin and the aspect of a size, at that size.
 * @param {Picture} photo
 * @param {Mask} mask
 * @param {Size} size
 * @param {number} context
 * @param {number} threshold
 */
export function maskedCanvas(photo, mask, size, context, threshold) {
  const change = editedPixels(mask, threshold);
  const found = ends(change, mask);
  const wanted = found.map(([low, high], axis) => Math.max((high - low) * (1 + 2 * context), size[axis]));
  const scale = Math.max(...wanted.map((want, axis) => want / size[axis]));
  const box = boxOf(found, mask, (axis, limit) => Math.ceil(Math.min(size[axis] * scale, limit)));
  return cut(photo, mask, change, box, size);
}

/**
 * The box around the pixels that the mask edits, with its margin, at the photo's own scale; reduced above maxPixels.
 * @param {Picture} photo
 * @param {Mask} mask
 * @param {Size} least
 * @param {number} multipleOf
 * @param {number} maxPixels
 * @param {number} context
 * @param {number} threshold
 */
export function ownScaleCanvas(photo, mask, least, multipleOf, maxPixels, context, threshold) {
  const change = editedPixels(mask, threshold);
  const found = ends(change, mask);
  const box = boxOf(found, mask, (axis, limit) => {
    const [low, high] = found[axis];
    const wanted = Math.min(Math.max((high - low) * (1 + 2 * context), least[axis]), limit);
    return Math.min(Math.ceil(wanted / multipleOf) * multipleOf, limit);
  });
  const size = /** @type {Size} */ ([box[2] - box[0], box[3] - box[1]]);
  const padded = multiples(size, multipleOf);
  if (padded[0] * padded[1] > maxPixels) return cut(photo, mask, change, box, reducedSize(size, multipleOf, maxPixels));
  const canvas = cut(photo, mask, change, box, size);
  const small = canvas.mask;
  const grey = reflectedValues(small.values, small.width, small.height, 1, padded, (length) => new Float32Array(length));
  return { ...canvas, part: reflected(canvas.part, padded), mask: { width: padded[0], height: padded[1], values: grey } };
}

/**
 * The photo with the edited picture in its box: where the mask is if kept pixels are exact, else in all of it.
 * @param {Canvas} canvas
 * @param {Picture} picture As large as canvas.part.
 * @param {boolean} exact
 * @returns {Picture}
 */
export function paste({ photo, box, inner, change }, picture, exact) {
  picture = crop(picture, [0, 0, ...inner]);
  if (!change) return picture;
  const [left, top, right, bottom] = box;
  const [width, height] = [right - left, bottom - top];
  if (picture.width !== width || picture.height !== height) picture = resize(picture, width, height);
  const { channels } = photo;
  const data = photo.data.slice();
  for (let i = 0; i < width * height; i++) {
    const at = (top + Math.floor(i / width)) * photo.width + left + (i % width);
    if (exact && !change[at]) continue;
    for (let c = 0; c < channels; c++) data[at * channels + c] = picture.data[i * channels + c];
  }
  return { ...photo, data };
}

/**
 * The size, each side rounded up to a multiple.
 * @param {Size} size
 * @param {number} multipleOf
 */
export const multiples = (size, multipleOf) =>
  /** @type {Size} */ (size.map((side) => Math.ceil(side / multipleOf) * multipleOf));

/**
 * The box of the photo and of the mask, brought to a size.
 * @param {Picture} photo
 * @param {Mask} mask
 * @param {Uint8Array} change
 * @param {Box} box
 * @param {Size} size
 * @returns {Canvas}
 */
function cut(photo, mask, change, box, size) {
  let picture = crop(photo, box);
  let small = part(mask, ...box);
  if (picture.width !== size[0] || picture.height !== size[1]) {
    picture = resize(picture, ...size);
    small = reduceMask(small, ...size);
  }
  return { photo, box, part: picture, mask: small, inner: size, change };
}

/**
 * @param {Picture} picture
 * @param {Box} box
 * @returns {Picture}
 */
function crop(picture, [left, top, right, bottom]) {
  const { channels } = picture;
  const width = right - left;
  const data = new Uint8ClampedArray(width * (bottom - top) * channels);
  for (let y = top; y < bottom; y++) {
    const row = y * picture.width;
    data.set(picture.data.subarray((row + left) * channels, (row + right) * channels), (y - top) * width * channels);
  }
  return { width, height: bottom - top, channels, data };
}

/**
 * The picture, enlarged on the right and below by its own reflection.
 * @param {Picture} picture
 * @param {Size} size
 * @returns {Picture}
 */
function reflected(picture, size) {
  const { width, height, channels } = picture;
  const make = (/** @type {number} */ length) => new Uint8ClampedArray(length);
  const data = reflectedValues(picture.data, width, height, channels, size, make);
  return { width: size[0], height: size[1], channels, data };
}

/**
 * @template {Uint8ClampedArray | Float32Array} Values
 * @param {Values} values [height, width, channels]
 * @param {number} width
 * @param {number} height
 * @param {number} channels
 * @param {Size} size
 * @param {(length: number) => Values} make
 * @returns {Values}
 */
function reflectedValues(values, width, height, channels, size, make) {
  const out = make(size[0] * size[1] * channels);
  for (let i = 0; i < out.length; i++) {
    const pixel = Math.floor(i / channels);
    const x = mirrored(pixel % size[0], width);
    const y = mirrored(Math.floor(pixel / size[0]), height);
    out[i] = values[(y * width + x) * channels + (i % channels)];
  }
  return out;
}

/**
 * The place within `length` that a place beyond it repeats, edges included.
 * @param {number} place
 * @param {number} length
 */
function mirrored(place, length) {
  const turn = place % (2 * length);
  return turn < length ? turn : 2 * length - 1 - turn;
}

/**
 * The largest size of that aspect, nearly, with sides that are multiples and no more pixels than that.
 * @param {Size} size
 * @param {number} multipleOf
 * @param {number} maxPixels
 * @returns {Size}
 */
function reducedSize(size, multipleOf, maxPixels) {
  const scale = Math.sqrt(maxPixels / (size[0] * size[1]));
  const short = Math.max(Math.floor((Math.min(...size) * scale) / multipleOf), 1) * multipleOf;
  const most = Math.min(Math.max(...size) * scale, maxPixels / short);
  const long = Math.max(Math.floor(most / multipleOf), 1) * multipleOf;
  return size[0] < size[1] ? [short, long] : [long, short];
}

/**
 * First column that changes and the one after the last, and the same of rows.
 * @param {Uint8Array} change
 * @param {Mask} mask
 */
function ends(change, { width }) {
  const found = spans(change, width, Boolean);
  if (!found) throw new Error("nothing changes");
  return [found.columns, found.rows];
}

/**
 * A box with the middle of what changes in its middle, moved into the photo.
 * @param {number[][]} found From `ends`.
 * @param {Mask} mask
 * @param {(axis: number, limit: number) => number} lengthOf Length of its sides, of which none exceeds `limit`.
 * @returns {Box}
 */
function boxOf(found, mask, lengthOf) {
  const [[left, right], [top, bottom]] = found.map(([low, high], axis) => {
    const limit = axis ? mask.height : mask.width;
    const length = lengthOf(axis, limit);
    const start = Math.min(Math.max(Math.floor((low + high - length) / 2), 0), limit - length);
    return [start, start + length];
  });
  return [left, top, right, bottom];
}

/**
 * A mask that lets everything change.
 * @param {number} width
 * @param {number} height
 * @returns {Mask}
 */
const white = (width, height) => ({ width, height, values: new Float32Array(width * height).fill(1) });
