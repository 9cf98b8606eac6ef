/**
 * The plan of an edit: the twin of runtime/plan.py and of Schedule.visit. All is float64, and rounded to float32 in the
 * end. Only the logarithm may differ, by the last bit of a float64, from Python's.
 */

/** @import { Row } from "../types.js" */
/** @import { Settings } from "./settings.js" */

const MAX_ROWS = 4096;
const INTEGERS = ["step", "repeat", "keep_noise"];

/** @typedef {{alpha: number, sigma: number, time: number}} Level */

/** @type {Level} */
const CLEAN = { alpha: 1, sigma: 0, time: 0 };

/** @typedef {{eta: number, order: number, wide: boolean, renoise: boolean}} Sampler */

/**
 * @typedef {Object} Schedule
 * @property {Float64Array} table [levels, 3]: alpha, sigma and time, from the cleanest level on.
 * @property {string} prediction "eps", "v", "x0" or "flow".
 * @property {Record<string, Sampler>} samplers
 */

/** @typedef {{rows: Row[], alpha0: number, sigma0: number, keepsExactly: boolean}} Plan */

/**
 * The plan of an edit; throws an Error for people if the schedule has none.
 * @param {Schedule} schedule
 * @param {Settings} settings
 * @returns {Plan}
 */
export function makePlan(schedule, settings) {
  const { keep, repeats, steps, guidance, clip } = settings;
  const sampler = samplerOf(schedule, settings);
  if (steps * repeats > MAX_ROWS) {
    throw new Error(`steps x repeats = ${steps * repeats} network evaluations exceed the ${MAX_ROWS} that fit`);
  }
  const ks = visit(schedule.table.length / 3, settings.t0, steps);
  const levels = [...ks.map((k) => levelOf(schedule.table, k)), CLEAN];
  const coefficients = fillRows(levels, sampler);
  const once = ks.map((k, n) => {
    const [now, then] = [levels[n], levels[n + 1]];
    const [a_x, a_o] = predictX0(schedule.prediction, now);
    const [c_x, c_0, c_h, c_z] = coefficients[n];
    const { alpha: k_g, sigma: k_z } = keep === "fresh" || keep === "fixed" ? then : now;
    const keep_noise = Number(keep === "fixed" || keep === "official");
    const thresholds = { threshold: k / ks[0], h_threshold: n ? ks[n - 1] / ks[0] : Infinity };
    return { time: now.time, a_x, a_o, clip, guidance, c_x, c_0, c_h, c_z, k_g, k_z, ...thresholds, step: n, keep_noise };
  });
  const rows = Array.from({ length: repeats }, (_, repeat) => once.map((row) => rounded({ ...row, repeat }))).flat();
  const [alpha0, sigma0] = [Math.fround(levels[0].alpha), Math.fround(levels[0].sigma)];
  return { rows, alpha0, sigma0, keepsExactly: keep === "fresh" || keep === "fixed" };
}

/**
 * The levels that an edit visits, from the noisiest on.
 * @param {number} count Levels of the schedule.
 * @param {number} t0
 * @param {number} steps
 */
function visit(count, t0, steps) {
  const first = Math.floor(t0 * count + 0.5);
  if (first < 1) throw new Error(`t0 ${t0} is below the schedule's first level: at least ${0.5 / count} is needed`);
  if (steps > first) {
    throw new Error(`steps ${steps} is not in 1..${first}, the levels that the schedule has up to t0 ${t0}`);
  }
  return Array.from({ length: steps }, (_, i) => Math.floor((2 * (steps - i) * first + steps) / (2 * steps)));
}

/**
 * @param {Float64Array} table
 * @param {number} k
 * @returns {Level}
 */
function levelOf(table, k) {
  const [alpha, sigma, time] = table.subarray(3 * (k - 1), 3 * k);
  return { alpha, sigma, time };
}

/**
 * @param {Schedule} schedule
 * @param {Settings} settings
 * @returns {Sampler}
 */
function samplerOf({ samplers }, { sampler, eta }) {
  const preset = samplers[sampler];
  if (!preset) throw new Error(`sampler ${sampler} is not one of ${Object.keys(samplers).join(", ")}`);
  if (eta === null) return preset;
  if (sampler !== "ddim") throw new Error(`eta ${eta} belongs to sampler ddim; ${sampler} has its own`);
  return { eta, order: 1, wide: false, renoise: false };
}

/**
 * The coefficients c_x, c_0, c_h, c_z of each step; the last level is clean.
 * @param {Level[]} levels
 * @param {Sampler} sampler
 */
function fillRows(levels, { eta, order, wide, renoise }) {
  /** @type {number | null} */
  let before = null;
  return levels.slice(0, -1).map(({ alpha: a, sigma: s }, n) => {
    const { alpha: aNext, sigma: sNext } = levels[n + 1];
    if (sNext === 0) return [0, 1, 0, 0];
    const r = a / aNext;
    const e = Math.sqrt(Math.max(s * s - r * r * sNext * sNext, 0));
    const d = renoise ? sNext : (eta * e * sNext) / s;
    const c_x = Math.sqrt(Math.max(sNext * sNext - d * d, 0)) / s;
    let c_0 = aNext - a * c_x;
    let c_h = 0;
    const gap = a > 0 ? Math.log((aNext * s) / (a * sNext)) : Infinity;
    if (order === 2 && before !== null) {
      const q = gap / (2 * before);
      c_h = -c_0 * q;
      c_0 *= 1 + q;
    }
    before = gap;
    return [c_x, c_0, c_h, wide ? e : d];
  });
}

/**
 * The factors a_x, a_o in x0 = a_x x + a_o o.
 * @param {string} prediction
 * @param {Level} level
 */
function predictX0(prediction, { alpha: a, sigma: s }) {
  if (prediction === "eps") {
    if (a === 0) throw new Error("an eps network does not determine x0 where alpha = 0: choose a smaller t0");
    return [1 / a, -s / a];
  }
  if (prediction === "v") return [a, -s];
  return prediction === "x0" ? [0, 1] : [1 / (a + s), -s / (a + s)];
}

/**
 * The row with all numbers but its integers as float32.
 * @param {Row} row
 */
function rounded(row) {
  const entries = Object.entries(row).map(([name, value]) => [name, INTEGERS.includes(name) ? value : Math.fround(value)]);
  return /** @type {Row} */ (Object.fromEntries(entries));
}
