/** The ring that shows the brush, under the pointer or moved by keys. */

import { element, input, say } from "./dom.js";

/** @import { Point } from "./types.js" */
/** @import { Tools } from "./tools.js" */

/** A key moves the brush by this fraction of the picture; with Shift by four times as much. */
const STEP = 1 / 64;

/** @type {Record<string, [number, number]>} */
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Cursor {
  #ring = element("cursor", HTMLElement);
  #surface = element("surface", HTMLElement);
  /** In fractions of the picture. @type {Point} */ #place = { x: 0.5, y: 0.5 };

  /** @param {Tools} tools */
  constructor(tools) {
    this.tools = tools;
    this.#surface.addEventListener("pointerdown", () => (this.#surface.dataset.input = "pointer"));
    this.#surface.addEventListener("pointermove", (event) => this.#follow(event));
    this.#surface.addEventListener("pointerenter", (event) => this.#follow(event));
    this.#surface.addEventListener("pointerleave", () => (this.#ring.hidden = true));
    this.#surface.addEventListener("keydown", (event) => this.#key(event));
    this.#surface.addEventListener("blur", () => this.#lift());
    for (const source of [tools, input("width")]) source.addEventListener("change", () => this.#show());
    tools.painting.addEventListener("change", () => this.#show());
    element("stage", HTMLElement).addEventListener("view", () => this.#show());
  }

  /** @param {PointerEvent} event */
  #follow(event) {
    this.#place = this.tools.view.toPicture(this.tools.view.inFrame(event));
    this.#ring.hidden = this.tools.tool === "hand" || event.pointerType === "touch";
    this.#show();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const arrow = ARROWS[event.key];
    if (event.ctrlKey || event.metaKey || (!arrow && event.key !== " ")) return;
    event.preventDefault();
    this.#surface.dataset.input = "keys";
    if (!arrow) return this.#press();
    const step = event.shiftKey ? 4 * STEP : STEP;
    if (this.tools.tool === "hand") return this.tools.view.panBy(-arrow[0] * step, -arrow[1] * step);
    const inside = (/** @type {number} */ value) => Math.min(1, Math.max(0, value));
    this.#place = { x: inside(this.#place.x + arrow[0] * step), y: inside(this.#place.y + arrow[1] * step) };
    this.#ring.hidden = false;
    this.tools.painting.extendStroke(this.#point(), this.tools.width);
    this.#show();
    say(`Brush at ${Math.round(100 * this.#place.x)} % across, ${Math.round(100 * this.#place.y)} % down`);
  }

  /** Put the brush down, or lift it; other tools act at once. */
  #press() {
    if (this.tools.painting.drawing) return this.#lift();
    this.#ring.hidden = false;
    this.tools.begin(this.#point());
    if (this.tools.painting.drawing) say("Brush down. Arrow keys draw, Space lifts it.");
    this.#show();
  }

  #lift() {
    this.tools.painting.endStroke();
    this.#show();
  }

  /** The place in pixels of the painting. */
  #point() {
    return { x: this.#place.x * this.tools.painting.width, y: this.#place.y * this.tools.painting.height };
  }

  #show() {
    const { width, height } = this.#surface.getBoundingClientRect();
    const { x, y } = this.tools.view.toFrame(this.#place);
    const points = ["brush", "eraser"].includes(this.tools.tool);
    const ring = points ? (this.tools.width / this.tools.painting.width) * width * this.tools.view.zoom : 12;
    this.#ring.style.setProperty("--x", `${x * width}px`);
    this.#ring.style.setProperty("--y", `${y * height}px`);
    this.#ring.style.setProperty("--width", `${Math.max(6, ring)}px`);
    this.#ring.dataset.down = String(this.tools.painting.drawing);
  }
}
