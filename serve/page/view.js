/** Zoom and pan: both frames show the same part of the picture. */

import { button, element } from "./dom.js";

/** @import { Point } from "./types.js" */

const MOST_ZOOM = 16;
const STEP = 1.4;

export class View {
  #stage = element("stage", HTMLElement);
  #surface = element("surface", HTMLElement);
  #zoom = 1;
  #pan = { x: 0, y: 0 };

  constructor() {
    button("zoom-in").addEventListener("click", () => this.zoomBy(STEP));
    button("zoom-out").addEventListener("click", () => this.zoomBy(1 / STEP));
    button("zoom-reset").addEventListener("click", () => this.reset());
    for (const id of ["surface", "result-glass"]) {
      element(id, HTMLElement).addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    }
    new ResizeObserver(() => this.#show()).observe(this.#surface);
  }

  get zoom() {
    return this.#zoom;
  }

  /** Show the whole picture. */
  reset() {
    this.#zoom = 1;
    this.#pan = { x: 0, y: 0 };
    this.#show();
  }

  /**
   * Zoom about a point of the frame, given as fractions of its size.
   * @param {number} factor
   * @param {Point} [about]
   */
  zoomBy(factor, about = { x: 0.5, y: 0.5 }) {
    const zoom = Math.min(MOST_ZOOM, Math.max(1, this.#zoom * factor));
    const change = zoom / this.#zoom;
    this.#pan = { x: about.x - (about.x - this.#pan.x) * change, y: about.y - (about.y - this.#pan.y) * change };
    this.#zoom = zoom;
    this.#show();
  }

  /**
   * Move the picture by fractions of the frame's size.
   * @param {number} x
   * @param {number} y
   */
  panBy(x, y) {
    this.#pan = { x: this.#pan.x + x, y: this.#pan.y + y };
    this.#show();
  }

  /**
   * Where in a frame a pointer is, as fractions of its size.
   * @param {{clientX: number, clientY: number}} event
   * @param {Element} [frame]
   * @returns {Point}
   */
  inFrame(event, frame = this.#surface) {
    const { left, top, width, height } = frame.getBoundingClientRect();
    return { x: (event.clientX - left) / width, y: (event.clientY - top) / height };
  }

  /**
   * From fractions of the frame to fractions of the picture.
   * @param {Point} point
   * @returns {Point}
   */
  toPicture({ x, y }) {
    return { x: (x - this.#pan.x) / this.#zoom, y: (y - this.#pan.y) / this.#zoom };
  }

  /**
   * From fractions of the picture to fractions of the frame.
   * @param {Point} point
   * @returns {Point}
   */
  toFrame({ x, y }) {
    return { x: x * this.#zoom + this.#pan.x, y: y * this.#zoom + this.#pan.y };
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    event.preventDefault();
    const frame = /** @type {Element} */ (event.currentTarget);
    const { width, height } = frame.getBoundingClientRect();
    if (event.shiftKey) this.panBy(-(event.deltaX || event.deltaY) / width, -(event.deltaX && event.deltaY) / height);
    else this.zoomBy(Math.exp(-event.deltaY / 400), this.inFrame(event, frame));
  }

  #show() {
    const least = 1 - this.#zoom;
    this.#pan = { x: Math.min(0, Math.max(least, this.#pan.x)), y: Math.min(0, Math.max(least, this.#pan.y)) };
    for (const frame of this.#stage.querySelectorAll(".glass")) {
      const { width, height } = frame.getBoundingClientRect();
      const style = /** @type {HTMLElement} */ (frame).style;
      style.setProperty("--zoom", String(this.#zoom));
      style.setProperty("--pan-x", `${this.#pan.x * width}px`);
      style.setProperty("--pan-y", `${this.#pan.y * height}px`);
    }
    button("zoom-reset").textContent = `${Math.round(100 * this.#zoom)}%`;
    this.#stage.dispatchEvent(new Event("view"));
  }
}
