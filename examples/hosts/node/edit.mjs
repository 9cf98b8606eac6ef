/**
 * node edit.mjs GRAPH GUIDE.ppm OUT.ppm [T0 STEPS SEED]
 *
 * GRAPH is the folder graph/ of a bundle that `sdedit extend --graph` wrote. Pictures are PPM files of 8 bits (P6).
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as ort from "onnxruntime-node";
import { feedsOf, selfTest } from "../selftest.mjs";

/** The bytes of a PPM file and their shape. */
function readPpm(path) {
  const file = readFileSync(path);
  const head = /^P6\s+(?:#.*\n)*(\d+)\s+(\d+)\s+255\s/.exec(file.toString("latin1", 0, 1000));
  if (!head) throw new Error(`${path} is no PPM file of 8 bits (P6 ... 255)`);
  const [width, height] = [Number(head[1]), Number(head[2])];
  const guide = new Uint8Array(file.subarray(head[0].length));
  if (guide.length !== width * height * 3) throw new Error(`${path} has ${guide.length} bytes for ${width}x${height}`);
  return { guide, shape: [height, width, 3] };
}

async function main(graph, source, target, t0 = "0.5", steps = "25", seed = "0") {
  const session = await ort.InferenceSession.create(join(graph, "edit.onnx"), { executionProviders: ["cpu"] });
  const test = JSON.parse(readFileSync(join(graph, "selftest.json"), "utf8"));
  const differ = await selfTest(ort, session, test);
  if (differ) console.warn(`the self-test's edit differs in ${differ} bytes: this build rounds the network otherwise`);
  const picture = readPpm(source);
  const [height, width] = picture.shape;
  const mask = new Uint8Array(height * width).fill(255);
  const start = performance.now();
  const { result } = await session.run(feedsOf(ort, test, { ...picture, mask, settings: { t0, steps, seed } }));
  console.log(`${steps} steps: ${(performance.now() - start).toFixed(0)} ms`);
  writeFileSync(target, Buffer.concat([Buffer.from(`P6\n${width} ${height}\n255\n`), result.data]));
}

const [graph, source, target, ...settings] = process.argv.slice(2);
if (!target) {
  console.error("usage: node edit.mjs GRAPH GUIDE.ppm OUT.ppm [T0 STEPS SEED]");
  process.exit(2);
}
main(graph, source, target, ...settings).catch((error) => {
  console.error(error.message);
  process.exit(1);
});
