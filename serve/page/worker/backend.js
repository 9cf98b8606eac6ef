/** A worker in this browser as a back end: `sdedit page` writes pages that use it, and need no server's help. */

import { readAbout } from "./model.js";

/** @import { Backend, EditCalls, EditRequest } from "../types.js" */
/** @import { News, Order } from "./worker.js" */

/**
 * @typedef {Object} Waiting An edit that was asked for.
 * @property {EditCalls["onPreview"]} onPreview
 * @property {(images: Blob[]) => void} resolve
 * @property {(error: Error) => void} reject
 */

/** @implements {Backend} */
export class WorkerBackend {
  #worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  /** @type {Map<number, Waiting>} */ #edits = new Map();
  #last = 0;
  /** @type {Promise<void> | null} */ #loading = null;

  async models() {
    return [(await readAbout()).model];
  }

  /** @param {(loaded: number, total: number) => void} onBytes */
  load(onBytes) {
    this.#loading ??= new Promise((resolve, reject) => {
      this.#worker.onmessage = (/** @type {MessageEvent<News>} */ { data }) => {
        if (data.kind === "bytes") onBytes(data.loaded, data.total);
        else if (data.kind === "loaded") resolve();
        else if (data.kind === "failed") this.#fail(new Error(data.message), reject);
        else this.#hear(data);
      };
      this.#worker.onerror = ({ message }) => this.#fail(new Error(message || "the worker did not start"), reject);
      this.#tell({ kind: "load" });
    });
    return this.#loading;
  }

  /**
   * @param {EditRequest} request
   * @param {EditCalls} calls
   * @returns {Promise<Blob[]>}
   */
  async edit(request, { onPreview, signal }) {
    await this.#loading;
    signal.throwIfAborted();
    return new Promise((resolve, reject) => {
      const id = ++this.#last;
      this.#edits.set(id, { onPreview, resolve, reject });
      signal.addEventListener("abort", () => {
        if (this.#edits.delete(id)) this.#tell({ kind: "cancel", id });
        reject(signal.reason);
      });
      this.#tell({ kind: "edit", id, request });
    });
  }

  /** @param {Exclude<News, {kind: "bytes" | "loaded" | "failed"}>} news */
  #hear(news) {
    const waiting = this.#edits.get(news.id);
    if (!waiting) return; // it was cancelled
    if (news.kind === "preview") return waiting.onPreview(news.progress);
    this.#edits.delete(news.id);
    if (news.kind === "done") waiting.resolve(news.images);
    else waiting.reject(new Error(news.message));
  }

  /**
   * The worker's thread failed: so does everything that waits for it.
   * @param {Error} error
   * @param {(error: Error) => void} reject Ends the loading.
   */
  #fail(error, reject) {
    this.#worker.terminate();
    this.#worker.onmessage = null; // news of downloads may be on their way
    reject(error);
    for (const waiting of this.#edits.values()) waiting.reject(error);
    this.#edits.clear();
  }

  /** @param {Order} order */
  #tell(order) {
    this.#worker.postMessage(order);
  }
}

/** @returns {Backend} */
export const makeBackend = () => new WorkerBackend();
