/** The server as a back end. All talk to it goes through here. */

import { askKey } from "./key.js";
import { readEvents } from "./stream.js";

/** @import { Backend, EditCalls, EditRequest, Model } from "./types.js" */

const MOST_RETRIES = 5;

/** One page is one session: a newer edit cancels its older one, even where closing a connection is not noticed. */
const SESSION = crypto.getRandomValues(new Uint32Array(4)).join("-");

let key = sessionStorage.getItem("sdedit-key") ?? "";

/**
 * The native API of `sdedit serve` at the page's own address.
 * @returns {Backend}
 */
export function serverBackend() {
  return { models: listModels, load: async () => {}, edit };
}

/** @returns {Promise<Model[]>} */
async function listModels() {
  const response = await request("v1/models", {});
  const { data } = await response.json();
  return data.map((/** @type {any} */ model) => ({ id: model.id, ...model.sdedit }));
}

/**
 * @param {EditRequest} wanted
 * @param {EditCalls} calls
 */
async function edit(wanted, { onPreview, signal }) {
  const body = formOf(wanted);
  const response = await request("v1/edits", { method: "POST", body, signal, headers: { accept: "text/event-stream" } });
  /** @type {Blob[]} */
  const images = [];
  if (!response.body) throw new Error("the server gave an empty answer");
  for await (const [name, data] of readEvents(response.body)) {
    if (name === "error") throw errorOf(data.status, data.error.message);
    const png = data.b64_json ? pngOf(data.b64_json) : null;
    if (name === "image_edit.completed" && png) images[data.image] = png;
    else if (data.steps) onPreview({ step: data.step, steps: data.steps, image: data.image, png });
  }
  if (!images.length) throw new Error("the connection to the server was lost");
  return images;
}

/** @param {EditRequest} wanted */
function formOf(wanted) {
  const form = new FormData();
  form.set("guide", wanted.guide, "strokes.png");
  if (wanted.mask) form.set("mask", wanted.mask, "mask.png");
  form.set("model", wanted.model);
  form.set("session", SESSION);
  form.set("preview_every", "1");
  for (const [name, value] of Object.entries(wanted.options)) if (value !== null) form.set(name, String(value));
  return form;
}

/**
 * An answer with status 200. Asks for the key where one is needed, and comes again when the server is full.
 * @param {string} path
 * @param {RequestInit} init
 */
async function request(path, init) {
  for (let retries = 0; ; retries++) {
    const headers = { ...init.headers, ...(key && { "x-api-key": key }) };
    const response = await fetch(path, { ...init, headers }).catch((error) => {
      throw error.name === "AbortError" ? error : new Error("the server cannot be reached: is sdedit serve running?");
    });
    if (response.ok) return response;
    if (response.status === 401) {
      key = await askKey();
      sessionStorage.setItem("sdedit-key", key);
    } else if (response.status === 503 && retries < MOST_RETRIES) {
      await pause(1000 * Number(response.headers.get("retry-after") ?? 1), init.signal);
    } else {
      const answer = await response.json().catch(() => null);
      throw errorOf(response.status, answer?.error?.message ?? `the server answered ${response.status}`);
    }
  }
}

/**
 * The error of an answer. 409: a newer edit took this one's place, which is an abort.
 * @param {number} status
 * @param {string} message
 */
function errorOf(status, message) {
  return status === 409 ? new DOMException(message, "AbortError") : new Error(message);
}

/**
 * @param {number} milliseconds
 * @param {AbortSignal | null | undefined} signal
 * @returns {Promise<void>}
 */
function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

/** @param {string} base64 */
function pngOf(base64) {
  const text = atob(base64);
  return new Blob([Uint8Array.from(text, (character) => character.charCodeAt(0))], { type: "image/png" });
}
