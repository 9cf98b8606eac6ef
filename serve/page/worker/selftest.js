/** The self-test: does this browser compute the network as the bundle's reference has it? */

import { normal } from "../noise.js";

/** @import { Evaluate } from "./model.js" */

/**
 * @typedef {Object} SelfTest One of the bundle's reference outputs, as runtime/checks/parity.py has them.
 * @property {number[]} shape Of the state: [1, C, H, W].
 * @property {number} image The input is sigma z, with z = normal(seed 0, this image, repeat 0, step 0, begin).
 * @property {number} sigma Float32.
 * @property {number} time
 * @property {number | null} label
 * @property {number} stride Every how many elements of the output one is listed; the first one is.
 * @property {number} tolerance Largest accepted error, as a fraction of the largest value that is listed.
 */

/**
 * Evaluate the network once, which also makes the first edit quicker: WASM is optimised as it runs. Throws if the output
 * is not the expected one, or not a number.
 * @param {Evaluate} evaluate
 * @param {SelfTest} test
 * @param {Float32Array} expected The listed elements of the output.
 */
export async function selfTest(evaluate, { shape, image, sigma, time, label, stride, tolerance }, expected) {
  const size = shape.reduce((product, side) => product * side);
  const x = normal(0n, image, 0, 0, 0, size).map((z) => sigma * z);
  const out = await evaluate(x, shape, time, label);
  const error = largest(expected.map((value, at) => out[at * stride] - value)) / largest(expected);
  if (error <= tolerance) return; // false for NaN
  throw new Error(
    `This browser computes the model's network wrongly: the error is ${error.toPrecision(2)}, accepted is ${tolerance}. ` +
      "Reload the page, or open it in another browser.",
  );
}

/** The largest magnitude; NaN if any value is. @param {Float32Array} values */
const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
