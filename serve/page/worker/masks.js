/** Masks: the twins of runtime/images/masks.py, with the same bits. A mask is float32 [height, width] in [0, 1]. */

/** @typedef {{width: number, height: number, values: Float32Array}} Mask */

const f = Math.fround;

/**
 * The pixels that an edit changes: 1 where the mask reaches the threshold, else 0.
 * @param {Mask} mask
 * @param {number} threshold Float32.
 */
export function editedPixels({ values }, threshold) {
  const change = Uint8Array.from(values, (value) => Number(value >= threshold));
  if (!change.includes(1)) throw new Error("The mask is black, so it edits nothing. White edits, black keeps.");
  return change;
}

/**
 * The first column or row with such a value and the one after the last; null if there is none.
 * @param {ArrayLike<number>} values [height, width]
 * @param {number} width
 * @param {(value: number) => boolean} wanted
 * @returns {{columns: [number, number], rows: [number, number]} | null}
 */
export function spans(values, width, wanted) {
  let [left, right, top, bottom] = [Infinity, -1, Infinity, -1];
  for (let i = 0; i < values.length; i++) {
    if (!wanted(values[i])) continue;
    const [x, y] = [i % width, Math.floor(i / width)];
    left = Math.min(left, x);
    right = Math.max(right, x);
    top = Math.min(top, y);
    bottom = y;
  }
  return right < 0 ? null : { columns: [left, right + 1], rows: [top, bottom + 1] };
}

/**
 * The mask with values that rise inside its border over that many pixels; the same pixels are edited as before.
 * @param {Mask} mask
 * @param {number} pixels
 * @param {number} threshold Float32.
 * @returns {Mask}
 */
export function feathered(mask, pixels, threshold) {
  const { width, height, values } = mask;
  const found = spans(values, width, (value) => value > 0);
  if (pixels === 0 || !found) return mask;
  const reach = pixels + 1;
  const [left, right] = [Math.max(found.columns[0] - reach, 0), Math.min(found.columns[1] + reach, width)];
  const [top, bottom] = [Math.max(found.rows[0] - reach, 0), Math.min(found.rows[1] + reach, height)];
  const inner = part(mask, left, top, right, bottom);
  const distance = distanceToBlack(inner, reach);
  const middle = windowMaximum(distance, pixels);
  const out = values.slice();
  for (let i = 0; i < distance.values.length; i++) {
    const at = (top + Math.floor(i / inner.width)) * width + left + (i % inner.width);
    const share = distance.values[i] > 0 ? f(distance.values[i] / Math.max(middle.values[i], 1)) : 0;
    out[at] *= share;
  }
  for (let i = 0; i < out.length; i++) out[i] = values[i] >= threshold ? Math.max(out[i], threshold) : values[i];
  return { width, height, values: out };
}

/**
 * A rectangle of a mask.
 * @param {Mask} mask
 * @param {number} left
 * @param {number} top
 * @param {number} right
 * @param {number} bottom
 * @returns {Mask}
 */
export function part({ width, values }, left, top, right, bottom) {
  const out = new Float32Array((right - left) * (bottom - top));
  for (let y = top; y < bottom; y++) {
    out.set(values.subarray(y * width + left, y * width + right), (y - top) * (right - left));
  }
  return { width: right - left, height: bottom - top, values: out };
}

/**
 * The distance of each pixel to the nearest black one, or `most` if that is smaller.
 * @param {Mask} mask
 * @param {number} most
 * @returns {Mask}
 */
function distanceToBlack({ width, height, values }, most) {
  const along = Float32Array.from(values, (value) => (value === 0 ? 0 : most)); // within a column
  for (let i = width; i < along.length; i++) along[i] = Math.min(along[i], along[i - width] + 1);
  for (let i = along.length - width - 1; i >= 0; i--) along[i] = Math.min(along[i], along[i + width] + 1);
  const nearest = new Float32Array(along.length);
  for (let i = 0; i < along.length; i++) {
    const row = i - (i % width);
    let least = along[i] ** 2;
    for (let x = Math.max(i - most + 1, row); x <= Math.min(i + most - 1, row + width - 1); x++) {
      least = Math.min(least, along[x] ** 2 + (x - i) ** 2);
    }
    nearest[i] = Math.min(f(Math.sqrt(least)), most);
  }
  return { width, height, values: nearest };
}

/**
 * The largest value within `reach` rows and columns of each.
 * @param {Mask} mask
 * @param {number} reach
 * @returns {Mask}
 */
function windowMaximum({ width, height, values }, reach) {
  for (const [stride, length] of [[width, height], [1, width]]) {
    const out = values.slice();
    for (let i = 0; i < out.length; i++) {
      const place = Math.floor(i / stride) % length;
      for (let step = -Math.min(reach, place); step <= Math.min(reach, length - 1 - place); step++) {
        out[i] = Math.max(out[i], values[i + step * stride]);
      }
    }
    values = out;
  }
  return { width, height, values };
}

/**
 * The mask at another size: the maximum over each cell, or the nearest value where it grows.
 * @param {Mask} mask
 * @param {number} width
 * @param {number} height
 * @returns {Mask}
 */
export function reduceMask(mask, width, height) {
  const columns = cells(mask.width, width);
  const rows = cells(mask.height, height);
  const out = new Float32Array(width * height);
  let at = 0;
  for (const [top, bottom] of rows) {
    for (const [left, right] of columns) {
      let most = 0;
      for (let y = top; y < bottom; y++) {
        for (let x = left; x < right; x++) most = Math.max(most, mask.values[y * mask.width + x]);
      }
      out[at++] = most;
    }
  }
  return { width, height, values: out };
}

/**
 * First and last old place of each new one: at least one.
 * @param {number} old
 * @param {number} count
 */
function cells(old, count) {
  const start = (/** @type {number} */ i) => Math.floor((i * old) / count);
  return Array.from({ length: count }, (_, i) => [start(i), Math.max(i + 1 < count ? start(i + 1) : old, start(i) + 1)]);
}
