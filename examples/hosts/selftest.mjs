/** Inputs of edit.onnx and its self-test, for every build of ONNX Runtime in JavaScript: `ort` is its module. */

/**
 * Feeds of edit.onnx. test: selftest.json. guide: bytes of `shape` [height, width, channels]. mask: bytes [height,
 * width]. settings: scalars by name, as numbers, BigInts or decimal texts; those not given have their defaults.
 */
export function feedsOf(ort, test, { guide, mask, shape, settings }) {
  const feeds = { guide: new ort.Tensor("uint8", guide, shape), mask: new ort.Tensor("uint8", mask, shape.slice(0, 2)) };
  for (const [name, { dtype, default: usual }] of Object.entries(test.inputs)) {
    const value = settings[name] ?? usual;
    feeds[name] = new ort.Tensor(dtype, [dtype.includes("int") ? BigInt(value) : Number(value)], []);
  }
  return feeds;
}

/**
 * Make the edits of selftest.json. Throws where noise or arithmetic are wrong: then this build must not be used.
 * Returns how many bytes of the whole edit differ: 0 where the network is rounded as it was for the Editor.
 */
export async function selfTest(ort, session, test) {
  const run = ({ mask, keep }) => {
    const shade = new Uint8Array(test.shape[0] * test.shape[1]).fill(mask);
    const { shape, t0, steps, seed, sampler } = test;
    const settings = { t0, steps, seed, sampler, keep };
    return session.run(feedsOf(ort, test, { guide: bytesOf(test.guide), mask: shade, shape, settings }));
  };
  const { kept, edited } = test.cases;
  const { state } = await run(kept);
  if ((await sha256(state.data)) !== kept.state_sha256) throw new Error("self-test: this build computes other noise");
  const { result } = await run(edited);
  const wanted = bytesOf(edited.result);
  return result.data.reduce((count, byte, i) => count + Number(byte !== wanted[i]), 0);
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

async function sha256(numbers) {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", numbers.slice()));
  return [...hash].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
