/** The tools: which one is chosen, and what the pointer does with it on the painting. */

import { widthAt } from "./brush.js";
import { button, element, input, say } from "./dom.js";

/** @import { Painting } from "./painting.js" */
/** @import { LayerName, Point, ToolName } from "./types.js" */
/** @import { View } from "./view.js" */

export class Tools extends EventTarget {
  /** @type {ToolName} */ #tool = "brush";
  /** @type {LayerName} */ #layer = "colour";
  #colour = "#808080";
  #surface = element("surface", HTMLElement);
  #width = input("width");
  /** Pointers that are down, by id, where they are in the frame. @type {Map<number, Point>} */ #pointers = new Map();

  /**
   * @param {Painting} painting
   * @param {View} view
   */
  constructor(painting, view) {
    super();
    this.painting = painting;
    this.view = view;
    for (const one of toolButtons()) {
      one.addEventListener("click", () => this.choose(/** @type {ToolName} */ (one.dataset.tool)));
    }
    button("mask-layer").addEventListener("click", () => this.toggleMask());
    this.#surface.addEventListener("pointerdown", (event) => this.#down(event));
    this.#surface.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      this.#surface.addEventListener(name, (event) => this.#up(/** @type {PointerEvent} */ (event)));
    }
  }

  get tool() {
    return this.#tool;
  }

  get layer() {
    return this.#layer;
  }

  /** The colour to paint with, as #rrggbb. */
  get colour() {
    return this.#colour;
  }

  set colour(colour) {
    this.#colour = colour;
    this.#layer = "colour";
    if (this.#tool !== "fill") this.#tool = "brush";
    this.#changed();
  }

  /** Width of the brush in pixels of the painting: the slider's is for a painting of 512 pixels. */
  get width() {
    return (Number(this.#width.value) * Math.max(this.painting.width, this.painting.height)) / 512;
  }

  /** @param {ToolName} tool */
  choose(tool) {
    this.#tool = tool;
    if (tool === "pick") this.#layer = "colour";
    this.#changed();
  }

  /** Paint the mask, or colours again. */
  toggleMask() {
    this.#layer = this.#layer === "mask" ? "colour" : "mask";
    if (this.#tool === "pick" || this.#tool === "hand") this.#tool = "brush";
    say(this.#layer === "mask" ? "Paint where the picture may change." : "Paint colours.");
    this.#changed();
  }

  /** @param {number} steps Steps of the slider, up or down. */
  widen(steps) {
    this.#width.value = String(Number(this.#width.value) * 1.15 ** steps + steps);
    this.#changed();
  }

  /**
   * Use the chosen tool at a point; strokes go on until `end`.
   * @param {Point} point
   * @param {number} [width]
   */
  begin(point, width = this.width) {
    if (this.#tool === "pick") return this.pick(point);
    if (this.#tool === "fill") return this.painting.fill(this.#layer, this.#colour, point);
    this.painting.beginStroke(this.#layer, this.#tool === "eraser" ? null : this.#colour, point, width);
  }

  /** @param {Point} point */
  pick(point) {
    const colour = this.painting.colourAt(point);
    if (!colour) return;
    this.colour = colour;
    say(`Colour ${colour}`);
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (event.button > 1) return;
    event.preventDefault();
    this.#surface.focus({ preventScroll: true });
    this.#surface.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, this.view.inFrame(event));
    if (this.#pointers.size > 1) this.painting.cancelStroke();
    else if (event.altKey) this.pick(this.#at(event));
    else if (!this.#pans(event)) this.begin(this.#at(event), widthAt(this.width, event));
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const before = this.#pointers.get(event.pointerId);
    if (before) this.#pointers.set(event.pointerId, this.view.inFrame(event));
    if (before && this.#pointers.size > 1) return this.#pinch(event, before);
    if (before && this.#pans(event)) {
      const now = this.view.inFrame(event);
      return this.view.panBy(now.x - before.x, now.y - before.y);
    }
    if (!this.painting.drawing || !before) return;
    const all = event.getCoalescedEvents?.() ?? [];
    for (const one of all.length ? all : [event]) this.painting.extendStroke(this.#at(one), widthAt(this.width, one));
  }

  /** @param {PointerEvent} event */
  #up(event) {
    if (this.#pointers.delete(event.pointerId) && !this.#pointers.size) this.painting.endStroke();
  }

  /**
   * Two fingers move the view and zoom it.
   * @param {PointerEvent} event
   * @param {Point} before
   */
  #pinch(event, before) {
    const now = this.view.inFrame(event);
    const [, other] = [...this.#pointers].find(([id]) => id !== event.pointerId) ?? [0, now];
    const spread = (/** @type {Point} */ point) => Math.hypot(point.x - other.x, point.y - other.y) || 1e-3;
    this.view.zoomBy(spread(now) / spread(before), { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 });
    this.view.panBy((now.x - before.x) / 2, (now.y - before.y) / 2);
  }

  /**
   * Whether the pointer moves the view: with the hand, or the middle button.
   * @param {PointerEvent} event
   */
  #pans(event) {
    return this.#tool === "hand" || event.button === 1 || (event.buttons & 4) !== 0;
  }

  /**
   * @param {{clientX: number, clientY: number}} event
   * @returns {Point}
   */
  #at(event) {
    const { x, y } = this.view.toPicture(this.view.inFrame(event));
    return { x: x * this.painting.width, y: y * this.painting.height };
  }

  #changed() {
    for (const one of toolButtons()) one.setAttribute("aria-pressed", String(one.dataset.tool === this.#tool));
    button("mask-layer").setAttribute("aria-pressed", String(this.#layer === "mask"));
    this.#surface.dataset.tool = this.#tool;
    this.dispatchEvent(new Event("change"));
  }
}

/** @returns {NodeListOf<HTMLButtonElement>} */
const toolButtons = () => document.querySelectorAll("button[data-tool]");
