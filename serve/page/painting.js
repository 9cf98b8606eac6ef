/** The painting: a layer of colour, a layer for the mask, and every change of them as an entry of the history. */

import { Stroke } from "./brush.js";
import { contextOf, makeCanvas, toPng } from "./dom.js";
import { channelsOf, paintRegion, regionAround } from "./fill.js";

/** @import { History } from "./history.js" */
/** @import { LayerName, Point } from "./types.js" */

/** @typedef {{x: number, y: number, width: number, height: number}} Box */

/**
 * @typedef {Object} Snapshot All that a painting is.
 * @property {ImageData} colour
 * @property {ImageData} mask
 * @property {HTMLCanvasElement | null} photo
 * @property {string} ground
 */

/** Colour of the mask on the screen; where its alpha is at least half, the edit may change the picture. */
const MASK_COLOUR = "#ff6a3d";

/**
 * It dispatches `change` when a change is complete (detail: "stroke", "step" through the history, "new" painting or
 * "photo"), and `resize` when its size is another.
 */
export class Painting extends EventTarget {
  /** @type {Stroke | null} */ #stroke = null;
  /** @type {LayerName} */ #strokeLayer = "colour";
  #before = makeCanvas(1, 1);

  /** A photo under the strokes, at the painting's size; the eraser brings it back. @type {HTMLCanvasElement | null} */
  photo = null;

  /** What the eraser brings back where there is no photo. */
  ground = "#808080";

  /** Whether the mask has pixels. Without any, everything may change. */
  masked = false;

  /**
   * @param {HTMLCanvasElement} colour
   * @param {HTMLCanvasElement} mask
   * @param {History} history
   */
  constructor(colour, mask, history) {
    super();
    this.layers = { colour: contextOf(colour), mask: contextOf(mask) };
    this.history = history;
  }

  get width() {
    return this.layers.colour.canvas.width;
  }

  get height() {
    return this.layers.colour.canvas.height;
  }

  get drawing() {
    return this.#stroke !== null;
  }

  /**
   * @param {LayerName} layer
   * @param {string | null} colour null: erase.
   * @param {Point} point
   * @param {number} width
   */
  beginStroke(layer, colour, point, width) {
    this.cancelStroke();
    const { canvas } = this.layers[layer];
    this.#before = makeCanvas(canvas.width, canvas.height);
    contextOf(this.#before).drawImage(canvas, 0, 0);
    this.#strokeLayer = layer;
    this.#stroke = new Stroke(this.layers[layer], this.#styleOf(layer, colour), point, width);
  }

  /**
   * @param {Point} point
   * @param {number} width
   */
  extendStroke(point, width) {
    this.#stroke?.extend(point, width);
  }

  endStroke() {
    if (!this.#stroke) return;
    this.#stroke.end();
    const box = this.#stroke.bounds;
    this.#stroke = null;
    if (!box) return;
    const before = contextOf(this.#before).getImageData(box.x, box.y, box.width, box.height);
    this.#record(this.#strokeLayer, box, before);
  }

  /** Take back a stroke that has not ended. */
  cancelStroke() {
    if (!this.#stroke) return;
    this.#stroke = null;
    const layer = this.layers[this.#strokeLayer];
    layer.clearRect(0, 0, this.width, this.height);
    layer.drawImage(this.#before, 0, 0);
  }

  /**
   * Fill the region of like colour around a point, or mark it in the mask.
   * @param {LayerName} layer
   * @param {string} colour
   * @param {Point} point
   */
  fill(layer, colour, point) {
    const [x, y] = [Math.floor(point.x), Math.floor(point.y)];
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return;
    const box = { x: 0, y: 0, width: this.width, height: this.height };
    const region = regionAround(this.#pixels("colour", box), x, y);
    const before = this.#pixels(layer, box);
    const after = new ImageData(before.data.slice(), box.width, box.height);
    paintRegion(after, region, channelsOf(layer === "mask" ? MASK_COLOUR : colour));
    this.layers[layer].putImageData(after, 0, 0);
    this.#record(layer, box, before);
  }

  /** Remove the mask: everything may change. */
  clearMask() {
    if (!this.masked) return;
    const box = { x: 0, y: 0, width: this.width, height: this.height };
    const before = this.#pixels("mask", box);
    this.layers.mask.clearRect(0, 0, box.width, box.height);
    this.#record("mask", box, before);
  }

  /**
   * The colour at a point as #rrggbb; null outside.
   * @param {Point} point
   */
  colourAt({ x, y }) {
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return null;
    const [red, green, blue] = this.layers.colour.getImageData(Math.floor(x), Math.floor(y), 1, 1).data;
    return `#${((red << 16) | (green << 8) | blue).toString(16).padStart(6, "0")}`;
  }

  /**
   * Begin a new painting of one colour.
   * @param {number} width
   * @param {number} height
   * @param {string} ground
   */
  renew(width, height, ground) {
    const canvas = makeCanvas(width, height);
    const context = contextOf(canvas);
    context.fillStyle = ground;
    context.fillRect(0, 0, width, height);
    this.#replace({ ...blankMask(context), photo: null, ground }, "new");
  }

  /**
   * Put a picture under the brush; the mask goes.
   * @param {CanvasImageSource} picture
   * @param {number} width
   * @param {number} height
   */
  place(picture, width, height) {
    const photo = makeCanvas(width, height);
    const context = contextOf(photo);
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, 0, 0, width, height);
    this.#replace({ ...blankMask(context), photo, ground: this.ground }, "photo");
  }

  /** @returns {Snapshot} */
  snapshot() {
    const box = { x: 0, y: 0, width: this.width, height: this.height };
    const { photo, ground } = this;
    return { colour: this.#pixels("colour", box), mask: this.#pixels("mask", box), photo, ground };
  }

  /**
   * Show a snapshot, without an entry in the history.
   * @param {Snapshot} snapshot
   */
  restore({ colour, mask, photo, ground }) {
    for (const [layer, pixels] of /** @type {[LayerName, ImageData][]} */ ([["colour", colour], ["mask", mask]])) {
      const { canvas } = this.layers[layer];
      canvas.width = pixels.width;
      canvas.height = pixels.height;
      this.layers[layer].putImageData(pixels, 0, 0);
    }
    Object.assign(this, { photo, ground });
    this.#look();
    this.dispatchEvent(new Event("resize"));
  }

  /** The layer of colour as a PNG. */
  guide() {
    return toPng(this.layers.colour.canvas);
  }

  /** The mask as a PNG of black and white; null if there is none. */
  async mask() {
    if (!this.masked) return null;
    const image = this.layers.mask.getImageData(0, 0, this.width, this.height);
    for (let i = 0; i < image.data.length; i += 4) image.data.fill(image.data[i + 3] < 128 ? 0 : 255, i, i + 3);
    for (let i = 3; i < image.data.length; i += 4) image.data[i] = 255;
    const canvas = makeCanvas(image.width, image.height);
    contextOf(canvas).putImageData(image, 0, 0);
    return toPng(canvas);
  }

  /**
   * @param {LayerName} layer
   * @param {string | null} colour
   */
  #styleOf(layer, colour) {
    if (layer === "mask") return colour === null ? null : MASK_COLOUR;
    if (colour !== null) return colour;
    return this.photo ? this.layers.colour.createPattern(this.photo, "no-repeat") : this.ground;
  }

  /**
   * @param {LayerName} layer
   * @param {Box} box
   */
  #pixels(layer, box) {
    return this.layers[layer].getImageData(box.x, box.y, box.width, box.height);
  }

  /**
   * Note a change of one rectangle that was just made.
   * @param {LayerName} layer
   * @param {Box} box
   * @param {ImageData} before
   */
  #record(layer, box, before) {
    const after = this.#pixels(layer, box);
    const put = (/** @type {ImageData} */ pixels) => {
      this.layers[layer].putImageData(pixels, box.x, box.y);
      this.#changed("step");
    };
    this.history.push({ undo: () => put(before), redo: () => put(after), bytes: 2 * before.data.length });
    this.#changed("stroke");
  }

  /**
   * Become another painting, which can be undone.
   * @param {Snapshot} after
   * @param {"new" | "photo"} kind
   */
  #replace(after, kind) {
    const before = this.snapshot();
    const show = (/** @type {Snapshot} */ snapshot) => {
      this.restore(snapshot);
      this.#changed("step");
    };
    const bytes = 2 * (before.colour.data.length + after.colour.data.length);
    this.history.push({ undo: () => show(before), redo: () => show(after), bytes });
    this.restore(after);
    this.#changed(kind);
  }

  #look() {
    const { data } = this.layers.mask.getImageData(0, 0, this.width, this.height);
    this.masked = false;
    for (let i = 3; i < data.length && !this.masked; i += 4) this.masked = data[i] >= 128;
  }

  /** @param {"stroke" | "step" | "new" | "photo"} kind */
  #changed(kind) {
    this.#look();
    this.dispatchEvent(new CustomEvent("change", { detail: kind }));
  }
}

/**
 * The pixels of a context, and a mask without pixels.
 * @param {CanvasRenderingContext2D} context
 */
function blankMask(context) {
  const { width, height } = context.canvas;
  return { colour: context.getImageData(0, 0, width, height), mask: new ImageData(width, height) };
}
