/** The example that a first visit shows: strokes, and the finished edit of them. */

import { readRecipe } from "./png.js";

/** @import { Model } from "./types.js" */

/**
 * The example's files if this model made it; another model shows an empty painting.
 * @param {Model} model
 * @returns {Promise<{strokes: Blob, result: Blob} | null>}
 */
export async function loadExample(model) {
  const [strokes, result] = await Promise.all(["strokes", "result"].map(load));
  const recipe = result && (await readRecipe(result));
  return strokes && result && recipe?.bundle?.sha256 === model.sha256 ? { strokes, result } : null;
}

/** @param {string} name */
async function load(name) {
  const response = await fetch(`example/${name}.png`).catch(() => null);
  return response?.ok ? response.blob() : null;
}
