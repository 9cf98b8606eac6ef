/** The worker's thread: loads the model, and makes one edit after another. */

import { makeEdit } from "./edit.js";
import { loadModel } from "./model.js";

/** @import { EditRequest, Progress } from "../types.js" */
/** @import { LoadedModel } from "./model.js" */

/** @typedef {{kind: "load"} | {kind: "edit", id: number, request: EditRequest} | {kind: "cancel", id: number}} Order */

/**
 * @typedef {{kind: "bytes", loaded: number, total: number} | {kind: "loaded"} | {kind: "failed", message: string} |
 *     {kind: "preview", id: number, progress: Progress} | {kind: "done", id: number, images: Blob[]} |
 *     {kind: "error", id: number, message: string}} News
 */

/** Edits that were asked for and not cancelled. @type {Set<number>} */
const wanted = new Set();

/** @type {LoadedModel} */
let model;

/** The end of everything that was asked for so far. @type {Promise<void>} */
let queue = Promise.resolve();

/** A message to oneself comes after those that wait, and without a timer's 4 ms. */
const bell = new MessageChannel();

onmessage = (/** @type {MessageEvent<Order>} */ { data }) => {
  if (data.kind === "cancel") wanted.delete(data.id);
  else if (data.kind === "load") queue = queue.then(load);
  else {
    wanted.add(data.id);
    queue = queue.then(() => edit(data.id, data.request));
  }
};

async function load() {
  try {
    model = await loadModel((loaded, total) => tell({ kind: "bytes", loaded, total }));
    tell({ kind: "loaded" });
  } catch (error) {
    tell({ kind: "failed", message: messageOf(error) });
  }
}

/**
 * @param {number} id
 * @param {EditRequest} request
 */
async function edit(id, request) {
  if (!wanted.has(id)) return;
  const onPreview = (/** @type {Progress} */ progress) => tell({ kind: "preview", id, progress });
  try {
    const images = await makeEdit(model, request, { wanted: () => heard(id), onPreview });
    if (images) tell({ kind: "done", id, images });
  } catch (error) {
    tell({ kind: "error", id, message: messageOf(error) });
  }
  wanted.delete(id);
}

/**
 * Let the messages in that wait; whether the edit is still wanted.
 * @param {number} id
 */
async function heard(id) {
  await new Promise((resolve) => {
    bell.port1.onmessage = resolve;
    bell.port2.postMessage(null);
  });
  return wanted.has(id);
}

/** @param {News} news */
const tell = (news) => postMessage(news);

/** @param {unknown} error */
const messageOf = (error) => (error instanceof Error ? error.message : String(error));
