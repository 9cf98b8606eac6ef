/** Reading the recipe that a PNG of sdedit carries: a text with the key `sdedit`. */

/** @import { Recipe } from "./types.js" */

const SIGNATURE = "\x89PNG\r\n\x1a\n";
const KEY = "sdedit\0";
const MOST_BYTES = 1 << 16;

/**
 * The recipe of a file; null if it is no PNG, or carries none that can be read.
 * @param {Blob} file
 * @returns {Promise<Recipe | null>}
 */
export async function readRecipe(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (latin1(bytes.subarray(0, 8)) !== SIGNATURE) return null;
  for (const [type, data] of chunks(bytes)) {
    const text = data.length < MOST_BYTES && latin1(data.subarray(0, KEY.length)) === KEY ? textOf(type, data) : null;
    if (text !== null) return parseRecipe(text);
  }
  return null;
}

/**
 * @param {Uint8Array} bytes
 * @returns {Generator<[string, Uint8Array]>}
 */
function* chunks(bytes) {
  const view = new DataView(bytes.buffer);
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    if (at + 12 + length > bytes.length) return;
    yield [latin1(bytes.subarray(at + 4, at + 8)), bytes.subarray(at + 8, at + 8 + length)];
    at += 12 + length;
  }
}

/**
 * The text of a chunk that is not compressed; null for other chunks.
 * @param {string} type
 * @param {Uint8Array} data
 */
function textOf(type, data) {
  if (type === "tEXt") return latin1(data.subarray(KEY.length));
  if (type !== "iTXt" || data[KEY.length]) return null;
  const language = data.indexOf(0, KEY.length + 2);
  const translated = data.indexOf(0, language + 1);
  return new TextDecoder().decode(data.subarray(translated + 1));
}

/** @param {Uint8Array} bytes */
const latin1 = (bytes) => Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");

/**
 * The recipe from its JSON. The seed becomes a text, because a number of JavaScript has only 53 bits.
 * @param {string} text
 * @returns {Recipe | null}
 */
export function parseRecipe(text) {
  try {
    const recipe = JSON.parse(text.replace(/"seed":\s*(\d+)/, '"seed": "$1"'));
    return recipe && typeof recipe === "object" && !Array.isArray(recipe) ? recipe : null;
  } catch {
    return null;
  }
}
