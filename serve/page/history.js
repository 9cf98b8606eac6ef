/** Undo and redo, within a budget of memory. */

/** @import { Change } from "./types.js" */

export class History extends EventTarget {
  /** @type {Change[]} */ #done = [];
  /** @type {Change[]} */ #undone = [];

  /** @param {number} budget Most bytes that all entries together hold. */
  constructor(budget) {
    super();
    this.budget = budget;
  }

  get canUndo() {
    return this.#done.length > 0;
  }

  get canRedo() {
    return this.#undone.length > 0;
  }

  /**
   * Add a change that was just made. The oldest ones are forgotten when they do not fit.
   * @param {Change} change
   */
  push(change) {
    this.#undone = [];
    this.#done.push(change);
    let bytes = this.#done.reduce((sum, one) => sum + one.bytes, 0);
    while (bytes > this.budget && this.#done.length > 1) bytes -= this.#done.shift()?.bytes ?? 0;
    this.dispatchEvent(new Event("change"));
  }

  /** Returns whether there was something to undo. */
  undo() {
    const change = this.#done.pop();
    if (!change) return false;
    change.undo();
    this.#undone.push(change);
    this.dispatchEvent(new Event("change"));
    return true;
  }

  /** Returns whether there was something to redo. */
  redo() {
    const change = this.#undone.pop();
    if (!change) return false;
    change.redo();
    this.#done.push(change);
    this.dispatchEvent(new Event("change"));
    return true;
  }
}
