/** Writing a PNG, which carries a recipe if there is one. */

/** @import { Picture } from "./pixels.js" */

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/**
 * @param {Picture} picture
 * @param {string | null} [recipe] JSON.
 */
export async function encodePng({ width, height, channels, data }, recipe = null) {
  const stride = width * channels;
  const lines = new Uint8Array(height * (stride + 1)); // each line begins with its filter, 0
  for (let y = 0; y < height; y++) lines.set(data.subarray(y * stride, (y + 1) * stride), y * (stride + 1) + 1);
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8);
  header.setUint8(9, channels === 1 ? 0 : 2);
  const text = recipe === null ? [] : chunk("tEXt", new TextEncoder().encode(`sdedit\0${ascii(recipe)}`));
  const parts = [
    ...chunk("IHDR", new Uint8Array(header.buffer)),
    ...text,
    ...chunk("IDAT", await deflated(lines)),
    ...chunk("IEND", new Uint8Array(0)),
  ];
  return new Blob([SIGNATURE, ...parts], { type: "image/png" });
}

/**
 * @param {string} type
 * @param {Uint8Array<ArrayBuffer>} data
 */
function chunk(type, data) {
  const named = new Uint8Array(4 + data.length);
  named.set(new TextEncoder().encode(type));
  named.set(data, 4);
  return [bigEndian(data.length), named, bigEndian(checksum(named))];
}

/** @param {number} value */
function bigEndian(value) {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, value);
  return new Uint8Array(view.buffer);
}

/** @param {Uint8Array<ArrayBuffer>} data */
async function deflated(data) {
  const stream = new Blob([data]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** CRC-32 of a chunk. @param {Uint8Array} data */
function checksum(data) {
  let sum = 0xffffffff;
  for (const byte of data) sum = TABLE[(sum ^ byte) & 255] ^ (sum >>> 8);
  return ~sum >>> 0;
}

/** The JSON with characters outside ASCII escaped. @param {string} json */
const ascii = (json) => json.replace(/[^ -~]/g, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
