/** Edits in a Worker, so that the page stays alive. graph/ is that of a bundle that `sdedit extend --graph` wrote. */
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";
import { feedsOf, selfTest } from "../selftest.mjs";

ort.env.wasm.numThreads = 1; // more need the headers of cross-origin isolation

const ready = load();
ready.then(({ differ }) => postMessage({ differ }), report);

async function load() {
  const test = await (await fetch("graph/selftest.json")).json();
  const session = await ort.InferenceSession.create("graph/edit.onnx", { executionProviders: ["wasm"] });
  return { test, session, differ: await selfTest(ort, session, test) };
}

/** Message: guide (bytes of RGB), mask, shape and settings, as feedsOf takes them. */
onmessage = async ({ data }) => {
  try {
    const { test, session } = await ready;
    const { result } = await session.run(feedsOf(ort, test, data));
    postMessage({ result: result.data });
  } catch (error) {
    report(error);
  }
};

function report(error) {
  postMessage({ error: error.message });
}
