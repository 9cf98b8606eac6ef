/** Strokes: round, as wide as the pen's pressure says, smooth between the points that the pointer gives. */

/** @import { Point } from "./types.js" */

/** Share of a new width in the width that is drawn: pens' pressure is noisy. */
const WIDTH_RATE = 0.4;

/** Width at no pressure, as a fraction of the brush's. */
const LEAST_WIDTH = 0.25;

/**
 * Width of a brush under a pointer, in pixels of the painting. Only pens have pressure.
 * @param {number} width
 * @param {PointerEvent} event
 */
export function widthAt(width, event) {
  return event.pointerType === "pen" ? width * (LEAST_WIDTH + (1 - LEAST_WIDTH) * event.pressure) : width;
}

export class Stroke {
  /** @type {CanvasRenderingContext2D} */ #context;
  /** @type {Point} */ #last;
  /** @type {Point} */ #middle;
  #width;
  #left = Infinity;
  #top = Infinity;
  #right = -Infinity;
  #bottom = -Infinity;

  /**
   * Begin with a dot.
   * @param {CanvasRenderingContext2D} context
   * @param {string | CanvasPattern | null} style Paint; null removes what is there.
   * @param {Point} point
   * @param {number} width
   */
  constructor(context, style, point, width) {
    this.#context = context;
    this.style = style;
    this.#last = this.#middle = point;
    this.#width = width;
    this.#paint([point], (context) => {
      context.arc(point.x, point.y, width / 2, 0, 2 * Math.PI);
      context.fill();
    });
  }

  /**
   * Draw on to a point: half way to it, so that the curve has no corners.
   * @param {Point} point
   * @param {number} width
   */
  extend(point, width) {
    this.#width += WIDTH_RATE * (width - this.#width);
    const middle = { x: (this.#last.x + point.x) / 2, y: (this.#last.y + point.y) / 2 };
    this.#draw(this.#middle, this.#last, middle);
    this.#last = point;
    this.#middle = middle;
  }

  /** Draw the rest of the way to the last point. */
  end() {
    this.#draw(this.#middle, this.#last, this.#last);
  }

  /** The rectangle of the canvas that the stroke touched; null: none of it. */
  get bounds() {
    const { width, height } = this.#context.canvas;
    const x = Math.max(0, Math.floor(this.#left));
    const y = Math.max(0, Math.floor(this.#top));
    const w = Math.min(width, Math.ceil(this.#right)) - x;
    const h = Math.min(height, Math.ceil(this.#bottom)) - y;
    return w > 0 && h > 0 ? { x, y, width: w, height: h } : null;
  }

  /**
   * @param {Point} from
   * @param {Point} control
   * @param {Point} to
   */
  #draw(from, control, to) {
    this.#paint([from, control, to], (context) => {
      context.moveTo(from.x, from.y);
      context.quadraticCurveTo(control.x, control.y, to.x, to.y);
      context.stroke();
    });
  }

  /**
   * Draw a path near these points with the stroke's style.
   * @param {Point[]} near
   * @param {(context: CanvasRenderingContext2D) => void} draw
   */
  #paint(near, draw) {
    const context = this.#context;
    context.save();
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = this.#width;
    context.strokeStyle = context.fillStyle = this.style ?? "#000";
    if (this.style === null) context.globalCompositeOperation = "destination-out";
    context.beginPath();
    draw(context);
    context.restore();
    for (const point of near) this.#include(point, this.#width / 2 + 2);
  }

  /**
   * @param {Point} point
   * @param {number} around
   */
  #include({ x, y }, around) {
    this.#left = Math.min(this.#left, x - around);
    this.#top = Math.min(this.#top, y - around);
    this.#right = Math.max(this.#right, x + around);
    this.#bottom = Math.max(this.#bottom, y + around);
  }
}
