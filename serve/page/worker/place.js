/** Where an edit takes place: the twin of runtime/editor/placing.py. Mistakes are Errors for people. */

import { maskedCanvas, multiples, ownScaleCanvas, ownSizeCanvas, wholeCanvas } from "./canvas.js";
import { feathered } from "./masks.js";

/** @import { Model } from "../types.js" */
/** @import { Size } from "./canvas.js" */
/** @import { Picture } from "./pixels.js" */
/** @import { Settings } from "./settings.js" */

/**
 * The canvas of an edit.
 * @param {Picture} guide
 * @param {Picture | null} mask Grey: white may change.
 * @param {Settings} settings
 * @param {Model} model
 * @param {number} threshold Smallest mask value that edits a pixel, float32.
 */
export function place(guide, mask, settings, model, threshold) {
  const { size, fit, context } = settings;
  const wanted = size === null && mask && model.free ? "guide" : (size ?? "native");
  if (!mask) {
    const target = check(wantedSize(wanted, model, guide), settings, model);
    return wanted === "guide" ? ownSizeCanvas(guide, model.multiple_of) : wholeCanvas(guide, target, fit);
  }
  if (mask.width !== guide.width || mask.height !== guide.height) {
    throw new Error(`mask is ${mask.width}x${mask.height} pixels, the guide ${guide.width}x${guide.height}: they must be equal`);
  }
  const values = Float32Array.from(mask.data, (value) => value / 255);
  const soft = feathered({ width: mask.width, height: mask.height, values }, settings.feather, threshold);
  if (wanted !== "guide") {
    return maskedCanvas(guide, soft, check(wantedSize(wanted, model, guide), settings, model), context, threshold);
  }
  const least = /** @type {Size} */ ([model.native.width, model.native.height]);
  const most = settings.max_pixels ?? model.max_pixels;
  const canvas = ownScaleCanvas(guide, soft, least, model.multiple_of, most, context, threshold);
  check([canvas.part.width, canvas.part.height], settings, model);
  return canvas;
}

/**
 * Width and height of the option `size`.
 * @param {string} text
 * @param {Model} model
 * @param {Picture} guide
 * @returns {Size}
 */
function wantedSize(text, { native, multiple_of }, guide) {
  if (text === "native") return [native.width, native.height];
  if (text === "guide") return multiples([guide.width, guide.height], multiple_of);
  if (!/^[1-9][0-9]{0,5}(x[1-9][0-9]{0,5})?$/.test(text)) {
    throw new Error(`size ${text} is not native, guide, LONGER_SIDE or HEIGHTxWIDTH`);
  }
  const sides = text.split("x").map(Number);
  if (sides.some((side) => side % multiple_of)) throw new Error(`size ${text}: sides must be multiples of ${multiple_of}`);
  if (sides.length === 2) return [sides[1], sides[0]];
  const [longer] = sides;
  const cells = ((longer * Math.min(guide.width, guide.height)) / Math.max(guide.width, guide.height)) / multiple_of;
  const shorter = Math.max(roundHalfEven(cells), 1) * multiple_of;
  return guide.width >= guide.height ? [longer, shorter] : [shorter, longer];
}

/**
 * The size, if the network takes it.
 * @param {Size} size
 * @param {Settings} settings
 * @param {Model} model
 */
function check(size, { max_pixels }, { free, native, max_pixels: own }) {
  const [width, height] = size;
  if (!free && (width !== native.width || height !== native.height)) {
    throw new Error(`size ${height}x${width}: the network takes ${native.height}x${native.width} only`);
  }
  const most = Math.max(max_pixels ?? own, native.height * native.width);
  if (width * height > most) {
    throw new Error(
      `size ${height}x${width} has ${width * height} pixels, more than the ${most} that are edited at once`,
    );
  }
  return size;
}

/** @param {number} value At least 0. */
function roundHalfEven(value) {
  const low = Math.floor(value);
  const rest = value - low;
  return rest > 0.5 || (rest === 0.5 && low % 2) ? low + 1 : low;
}
