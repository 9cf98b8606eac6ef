/**
 * node run_twins.mjs PAGE: runs the twins in the folder PAGE on the cases of stdin, a JSON list, and writes the bytes of
 * all results, one after another, to stdout. Arrays are base64 of little-endian float32, seeds are decimal texts.
 */
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const page = pathToFileURL(`${process.argv[2]}/`);
const { normal } = await import(new URL("noise.js", page));
const { begin, step } = await import(new URL("step.js", page));

const floats = (text) => new Float32Array(new Uint8Array(Buffer.from(text, "base64")).buffer);

function run(test) {
  if (test.noise) {
    const [seed, ...rest] = test.noise;
    return [normal(BigInt(seed), ...rest)];
  }
  const slot = { ...test.slot, seed: BigInt(test.slot.seed) };
  for (const name of ["x", "h", "guide", "mask"]) slot[name] = floats(slot[name]);
  const row = numbersOf(test.row);
  begin(slot, row, test.before && numbersOf(test.before));
  step(slot, row, floats(test.o), test.uncond && floats(test.uncond));
  return [slot.x, slot.h, slot.guide];
}

/** JSON has no infinity: such a number is a text. */
function numbersOf(row) {
  return Object.fromEntries(Object.entries(row).map(([name, value]) => [name, Number(value)]));
}

const results = JSON.parse(readFileSync(0, "utf8")).flatMap(run);
process.stdout.write(Buffer.concat(results.map((array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength))));
