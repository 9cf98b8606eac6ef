/** Pictures, and the network's state: the twin of the runtime's PixelCodec. */

/**
 * @typedef {Object} Picture 8-bit, [height, width, channels] flattened.
 * @property {number} width
 * @property {number} height
 * @property {number} channels 1: grey, 3: RGB.
 * @property {Uint8ClampedArray} data
 */

const f = Math.fround;

/**
 * The pixels of a file, whose transparency is not used.
 * @param {Blob} file
 * @param {number} channels 1 for grey, 3 for RGB.
 * @returns {Promise<Picture>}
 */
export async function decodePixels(file, channels) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("this browser has no 2D canvas in a worker");
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const out = new Uint8ClampedArray(width * height * channels);
  for (let i = 0, at = 0; i < data.length; i += 4) {
    if (channels === 1) out[at++] = (data[i] * 19595 + data[i + 1] * 38470 + data[i + 2] * 7471 + 0x8000) >> 16; // Pillow's
    else for (let c = 0; c < 3; c++) out[at++] = data[i + c];
  }
  return { width, height, channels, data: out };
}

/**
 * The state of a picture: u / 127.5 - 1, as [channels, height, width].
 * @param {Picture} picture
 */
export function toState({ channels, data }) {
  const count = data.length / channels;
  const state = new Float32Array(data.length);
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < channels; c++) state[c * count + i] = f(data[i * channels + c] / 127.5) - 1;
  }
  return state;
}

/**
 * The inverse of `toState`; a Uint8ClampedArray rounds halves to even, and clamps.
 * @param {Float32Array} state
 * @param {number} width
 * @param {number} height
 * @returns {Picture}
 */
export function toPicture(state, width, height) {
  const count = width * height;
  const channels = state.length / count;
  const data = new Uint8ClampedArray(state.length);
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < channels; c++) data[i * channels + c] = f(f(state[c * count + i] + 1) * 127.5);
  }
  return { width, height, channels, data };
}
