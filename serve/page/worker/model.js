/** The network in this browser: its files, and ONNX Runtime's WASM, which evaluates it. */

import { selfTest } from "./selftest.js";

/** @import { Model, Recipe } from "../types.js" */
/** @import { Sampler, Schedule } from "./plan.js" */
/** @import { SelfTest } from "./selftest.js" */

/** @typedef {{path: string, bytes: number}} Listed A file of the page's folder. */

/**
 * @typedef {Object} About model.json, as `sdedit page` writes it.
 * @property {Model} model
 * @property {string} prediction
 * @property {Record<string, Sampler>} samplers
 * @property {Recipe} recipe The part that all recipes share.
 * @property {SelfTest} selftest
 * @property {{script: string, wasm: Listed, network: Listed, schedule: Listed, expected: Listed}} files `expected`: the
 *     self-test's elements of the output.
 */

/** @typedef {(x: Float32Array, shape: number[], time: number, label: number | null) => Promise<Float32Array>} Evaluate */

/**
 * @typedef {Object} LoadedModel
 * @property {About} about
 * @property {Schedule} schedule
 * @property {Evaluate} evaluate The network's output for a state [1, C, H, W].
 */

/** Most threads of WASM, where the page's headers allow more than one. */
const MOST_THREADS = 4;

const ROOT = new URL("../", import.meta.url);

/**
 * The description of the model that `sdedit page` wrote.
 * @returns {Promise<About>}
 */
export async function readAbout() {
  const response = await fetchFile("model/model.json", { cache: "no-cache" });
  return response.json();
}

/**
 * Download everything, make the network ready, and test it.
 * @param {(loaded: number, total: number) => void} onBytes
 * @returns {Promise<LoadedModel>}
 */
export async function loadModel(onBytes) {
  const about = await readAbout();
  const { wasm, network, schedule, expected, script } = about.files;
  const [wasmBytes, networkBytes, table, wanted] = await download([wasm, network, schedule, expected], onBytes);
  const ort = await import(new URL(script, ROOT).href);
  ort.env.wasm.wasmBinary = wasmBytes.buffer;
  ort.env.wasm.numThreads = threads();
  ort.env.logLevel = "error";
  const session = await ort.InferenceSession.create(networkBytes, { executionProviders: ["wasm"] });
  /** @type {Evaluate} */
  const evaluate = async (x, shape, time, label) => {
    const feeds = {
      x: new ort.Tensor("float32", x, shape),
      time: new ort.Tensor("float32", Float32Array.of(time), [1]),
      ...(label !== null && { label: new ort.Tensor("int64", BigInt64Array.of(BigInt(label)), [1]) }),
    };
    return (await session.run(feeds)).out.data;
  };
  await selfTest(evaluate, about.selftest, new Float32Array(wanted.buffer));
  return {
    about: { ...about, recipe: { ...about.recipe, engine: { ...about.recipe.engine, threads: threads() } } },
    schedule: { table: new Float64Array(table.buffer), prediction: about.prediction, samplers: about.samplers },
    evaluate,
  };
}

/** More than one thread needs shared memory, which browsers give to pages that are isolated from other origins. */
const threads = () => (globalThis.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1);

/**
 * @param {Listed[]} files
 * @param {(loaded: number, total: number) => void} onBytes
 */
async function download(files, onBytes) {
  const total = files.reduce((sum, { bytes }) => sum + bytes, 0);
  let loaded = 0;
  const onMore = (/** @type {number} */ more) => onBytes((loaded += more), total);
  onMore(0);
  return Promise.all(files.map((file) => readFile(file, onMore)));
}

/**
 * A file's bytes.
 * @param {Listed} file
 * @param {(more: number) => void} onMore
 */
async function readFile({ path, bytes }, onMore) {
  const response = await fetchFile(path, {});
  const reader = response.body?.getReader();
  const out = new Uint8Array(bytes);
  let at = 0;
  for (let next = await reader?.read(); next?.value; next = await reader?.read()) {
    if (at + next.value.length <= bytes) out.set(next.value, at);
    at += next.value.length;
    onMore(next.value.length);
  }
  if (at !== bytes) throw new Error(`${path} has ${at} bytes instead of ${bytes}: reload the page`);
  return out;
}

/**
 * @param {string} path
 * @param {RequestInit} init
 */
async function fetchFile(path, init) {
  const response = await fetch(new URL(path, ROOT), init).catch(() => {
    throw new Error(`${path} cannot be reached: is there a connection?`);
  });
  if (!response.ok) throw new Error(`${path} cannot be reached: the server answered ${response.status}`);
  return response;
}
