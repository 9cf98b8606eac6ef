/**
 * node run_worker_twins.mjs PAGE: runs the twins in PAGE/worker on the cases of stdin, a JSON list, and writes the
 * results as one. Arrays of bytes and of float32 are base64, infinities and seeds are texts.
 */
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const worker = new URL("worker/", pathToFileURL(`${process.argv[2]}/`));
const names = ["plan", "place", "canvas", "pixels", "encode", "settings", "selftest"];
const [
  { makePlan },
  { place },
  { paste },
  { toState, toPicture },
  { encodePng },
  { readSettings, recipeOf },
  { selfTest },
] = await Promise.all(names.map((name) => import(new URL(`${name}.js`, worker))));

const bytes = (text) => new Uint8ClampedArray(Buffer.from(text, "base64"));
const floats = (text, kind) => new kind(new Uint8Array(Buffer.from(text, "base64")).buffer);
const base64 = ({ buffer, byteOffset, byteLength }) => Buffer.from(buffer, byteOffset, byteLength).toString("base64");
const pictureOf = ({ data, ...sides }) => ({ ...sides, data: bytes(data) });
const shown = ({ width, height, data, values }) => ({ width, height, data: base64(data ?? values) });

const KINDS = {
  plan({ table, prediction, samplers, model, options }) {
    const settings = readSettings(model, options);
    const schedule = { table: floats(table, Float64Array), prediction, samplers };
    const { rows, alpha0, sigma0, keepsExactly } = makePlan(schedule, settings);
    const texts = rows.map((row) => Object.fromEntries(Object.entries(row).map(([name, value]) => [name, String(value)])));
    const recipe = recipeOf(settings, samplers);
    return { rows: texts, alpha0, sigma0, keepsExactly, recipe: { ...recipe, seed: String(recipe.seed) } };
  },
  place({ model, options, guide, mask, threshold, picture }) {
    const settings = readSettings(model, options);
    const canvas = place(pictureOf(guide), mask && pictureOf(mask), settings, model, Math.fround(threshold));
    const edited = { ...canvas.part, data: bytes(picture).subarray(0, canvas.part.data.length) };
    const pasted = [true, false].map((exact) => shown(paste(canvas, edited, exact)));
    return { part: shown(canvas.part), mask: shown(canvas.mask), box: canvas.box, pasted };
  },
  codec({ picture, state, width, height }) {
    const values = toState(pictureOf(picture));
    return { state: base64(values), picture: shown(toPicture(floats(state, Float32Array), width, height)) };
  },
  async png({ picture, recipe }) {
    return { png: base64(new Uint8Array(await (await encodePng(pictureOf(picture), recipe)).arrayBuffer())) };
  },
  /** The network multiplies its input by `gain`. */
  async selftest({ test, expected, gain }) {
    const seen = {};
    const evaluate = async (x, shape, time, label) => {
      Object.assign(seen, { x: base64(x), shape, time, label });
      return x.map((value) => value * Number(gain));
    };
    await selfTest(evaluate, test, floats(expected, Float32Array));
    return seen;
  },
};

const results = [];
for (const { kind, ...given } of JSON.parse(readFileSync(0, "utf8"))) {
  try {
    results.push(await KINDS[kind](given));
  } catch (error) {
    results.push({ error: error.message });
  }
}
process.stdout.write(JSON.stringify(results));
