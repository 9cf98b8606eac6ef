/** The region of like colour around a pixel. */

/** Largest sum of the three channels' differences within a region, of 765. */
const TOLERANCE = 48;

/**
 * Which pixels are joined with pixel (x, y) by pixels of like colour: 1 or 0 for each.
 * @param {ImageData} image
 * @param {number} x
 * @param {number} y
 * @returns {Uint8Array}
 */
export function regionAround(image, x, y) {
  const { width, height, data } = image;
  const inside = new Uint8Array(width * height);
  const start = y * width + x;
  const [red, green, blue] = data.subarray(4 * start, 4 * start + 3);
  const alike = (/** @type {number} */ i) =>
    Math.abs(data[4 * i] - red) + Math.abs(data[4 * i + 1] - green) + Math.abs(data[4 * i + 2] - blue) <= TOLERANCE;
  const waiting = [start];
  const visit = (/** @type {number} */ i) => {
    if (inside[i] || !alike(i)) return;
    inside[i] = 1;
    waiting.push(i);
  };
  inside[start] = 1;
  for (let i = waiting.pop(); i !== undefined; i = waiting.pop()) {
    const column = i % width;
    if (column > 0) visit(i - 1);
    if (column < width - 1) visit(i + 1);
    if (i >= width) visit(i - width);
    if (i < width * (height - 1)) visit(i + width);
  }
  return inside;
}

/**
 * Give the pixels of a region one colour.
 * @param {ImageData} image
 * @param {Uint8Array} region
 * @param {[number, number, number, number]} colour Red, green, blue, alpha: 0..255.
 */
export function paintRegion(image, region, colour) {
  for (let i = 0; i < region.length; i++) if (region[i]) image.data.set(colour, 4 * i);
}

/**
 * A colour's channels.
 * @param {string} colour As #rrggbb.
 * @returns {[number, number, number, number]}
 */
export function channelsOf(colour) {
  const value = parseInt(colour.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255, 255];
}
