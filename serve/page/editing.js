/** Edits in flight: one at a time, a newer one cancels the older one. */

/** @import { Painting } from "./painting.js" */
/** @import { Settings } from "./settings.js" */
/** @import { Backend, Progress } from "./types.js" */

/** A change of several things at once makes one edit: milliseconds to wait for the next. */
const PAUSE = 80;

/**
 * @typedef {Object} Calls What to do with an edit's news.
 * @property {(images: number) => void} onStart
 * @property {(progress: Progress) => void} onPreview
 * @property {(images: Blob[], guide: Blob, seconds: number) => Promise<void>} onDone
 * @property {(error: unknown) => void} onError
 * @property {() => void} onIdle No edit runs any more.
 */

export class Editing {
  /** @type {AbortController | null} */ #running = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;

  /**
   * @param {Backend} backend
   * @param {Painting} painting
   * @param {Settings} settings
   * @param {() => string} model Name of the chosen model.
   * @param {Calls} calls
   */
  constructor(backend, painting, settings, model, calls) {
    this.backend = backend;
    this.painting = painting;
    this.settings = settings;
    this.model = model;
    this.calls = calls;
  }

  /** Whether an edit runs. */
  get busy() {
    return this.#running !== null;
  }

  /** Make an edit soon; further calls until then put it off. */
  soon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.run(1), PAUSE);
  }

  /** End the edit that runs, or was to run. */
  cancel() {
    clearTimeout(this.#timer);
    this.#running?.abort();
    if (this.#running) this.calls.onIdle();
    this.#running = null;
  }

  /**
   * Make an edit now.
   * @param {number} images
   */
  async run(images) {
    this.cancel();
    if (!this.settings.check()) return;
    const controller = new AbortController();
    this.#running = controller;
    this.calls.onStart(images);
    try {
      await this.#edit(images, controller);
    } catch (error) {
      if (!controller.signal.aborted && !(error instanceof DOMException && error.name === "AbortError")) {
        this.calls.onError(error);
      }
    } finally {
      if (this.#running === controller) {
        this.#running = null;
        this.calls.onIdle();
      }
    }
  }

  /**
   * @param {number} images
   * @param {AbortController} controller
   */
  async #edit(images, { signal }) {
    const began = performance.now();
    const [guide, mask] = await Promise.all([this.painting.guide(), this.painting.mask()]);
    signal.throwIfAborted();
    const options = { ...this.settings.options(mask !== null), images };
    const onPreview = (/** @type {Progress} */ progress) => {
      if (!signal.aborted) this.calls.onPreview(progress);
    };
    const made = await this.backend.edit({ model: this.model(), guide, mask, options }, { onPreview, signal });
    signal.throwIfAborted();
    await this.calls.onDone(made, guide, (performance.now() - began) / 1000);
  }
}
