/** Autosave: the painting and the settings, in this browser. */

import { contextOf, makeCanvas, toPng } from "./dom.js";

/** @import { Snapshot } from "./painting.js" */
/** @import { Recipe, Result } from "./types.js" */

/** The database's name. Its folder is in it: pages in several folders of one host, one origin, keep apart. */
const NAME = `sdedit${new URL(".", import.meta.url).pathname.slice(0, -1)}`;

const STORE = "kept";
const KEY = "now";

/** @typedef {{png: Blob, guide: Blob | null}} KeptResult */

/** @typedef {{snapshot: Snapshot, settings: Recipe, live: boolean, result: KeptResult | null}} Kept */

/**
 * Keep them instead of what was kept before.
 * @param {Omit<Kept, "result"> & {result: Result | null}} kept
 */
export async function keep({ snapshot, settings, live, result }) {
  const { colour, mask, photo, ground } = snapshot;
  const [colourPng, maskPng, photoPng] = await Promise.all([pixelsToPng(colour), pixelsToPng(mask), photo && toPng(photo)]);
  const store = await open("readwrite");
  const shown = result && { png: result.png, guide: result.guide };
  await settled(store.put({ colourPng, maskPng, photoPng, ground, settings, live, result: shown }, KEY));
}

/**
 * What was kept; null if there is nothing.
 * @returns {Promise<Kept | null>}
 */
export async function recall() {
  const store = await open("readonly");
  const kept = await settled(store.get(KEY));
  if (!kept) return null;
  const [colour, mask] = await Promise.all([toPixels(kept.colourPng), toPixels(kept.maskPng)]);
  const photo = kept.photoPng && (await toPixels(kept.photoPng)).canvas;
  const snapshot = { colour: pixelsOf(colour), mask: pixelsOf(mask), photo, ground: kept.ground };
  return { snapshot, settings: kept.settings, live: kept.live, result: kept.result };
}

/** @param {IDBTransactionMode} mode */
async function open(mode) {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE);
  const database = await settled(request);
  return database.transaction(STORE, mode).objectStore(STORE);
}

/**
 * @template T
 * @param {IDBRequest<T>} request
 * @returns {Promise<T>}
 */
function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** @param {ImageData} pixels */
function pixelsToPng(pixels) {
  const canvas = makeCanvas(pixels.width, pixels.height);
  contextOf(canvas).putImageData(pixels, 0, 0);
  return toPng(canvas);
}

/** @param {Blob} png */
async function toPixels(png) {
  const picture = await createImageBitmap(png);
  const context = contextOf(makeCanvas(picture.width, picture.height));
  context.drawImage(picture, 0, 0);
  return context;
}

/** @param {CanvasRenderingContext2D} context */
function pixelsOf(context) {
  return context.getImageData(0, 0, context.canvas.width, context.canvas.height);
}
