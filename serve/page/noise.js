/**
 * Noise as a function of (seed, image, repeat, step, element): the twin of kernels/noise.py, with the same bits.
 *
 * Math.fround rounds after each operation, as float32 arithmetic does: a sum, product or root of two float32 values that
 * is computed in float64 and then rounded is the float32 result, since 53 >= 2 * 24 + 2 bits.
 */

const f = Math.fround;

const FLOAT = new Float32Array(1);
const BITS = new Int32Array(FLOAT.buffer);

/** Coefficients from the leading one on: of the logarithm, the sine and the cosine. Exact float32 values. */
const LOG = [
  0.07037683576345444, -0.11514610052108765, 0.11676998436450958, -0.12420140951871872, 0.14249321818351746,
  -0.16668057441711426, 0.2000071406364441, -0.24999994039535522, 0.3333333134651184,
];
const SINE = [-3.597898466978222e-5, 0.00249004946090281, -0.08074545860290527];
const COSINE = [-3.538284317983198e-6, 0.000325956178130582, -0.015854336321353912, 9.074112128359957e-9];

/**
 * The first `size` elements of one image's standard normal noise.
 * @param {bigint} seed 64 bits.
 * @param {number} image 32 bits.
 * @param {number} repeat 31 bits.
 * @param {number} step 32 bits.
 * @param {0 | 1} kind 0: begin, with step 0. 1: step.
 * @param {number} size
 */
export function normal(seed, image, repeat, step, kind, size) {
  const z = new Float32Array(4 * Math.ceil(size / 4));
  const words = new Uint32Array(4);
  const key = [Number(seed & 0xffffffffn), Number(seed >> 32n)];
  for (let i = 0; i < z.length; i += 4) {
    words.set([i / 4, step, 2 * repeat + kind, image]);
    philox(key[0], key[1], words);
    boxMuller(words[0], words[1], z, i);
    boxMuller(words[2], words[3], z, i + 2);
  }
  return z.subarray(0, size);
}

/**
 * Philox4x32-10 in place: a counter becomes four random words.
 * @param {number} k0 Lower half of the seed.
 * @param {number} k1 Upper half.
 * @param {Uint32Array} words
 */
function philox(k0, k1, words) {
  let [c0, c1, c2, c3] = words;
  for (let round = 0; round < 10; round++) {
    const high0 = upperProduct(c0, 0xd2511f53);
    const high2 = upperProduct(c2, 0xcd9e8d57);
    const low0 = Math.imul(c0, 0xd2511f53);
    const low2 = Math.imul(c2, 0xcd9e8d57);
    c0 = high2 ^ c1 ^ k0;
    c1 = low2;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 = (k0 + 0x9e3779b9) | 0;
    k1 = (k1 + 0xbb67ae85) | 0;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

/**
 * Upper 32 bits of the product of two words of 32 bits, from products of 16 bits, which a number holds exactly.
 * @param {number} a
 * @param {number} b
 */
function upperProduct(a, b) {
  const [aLow, aHigh, bLow, bHigh] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  const middle = aHigh * bLow + Math.floor((aLow * bLow) / 65536);
  const other = aLow * bHigh + (middle % 65536);
  return aHigh * bHigh + Math.floor(middle / 65536) + Math.floor(other / 65536);
}

/**
 * Two normals: r cos and r sin, at out[at] and out[at + 1], which round them.
 * @param {number} radius A word.
 * @param {number} angle A word.
 * @param {Float32Array} out
 * @param {number} at
 */
function boxMuller(radius, angle, out, at) {
  const r = f(Math.sqrt(f(-2 * logUniform(radius))));
  const quadrant = ((angle + 0x20000000) >>> 30) & 3;
  const remainder = (angle - (quadrant << 30)) | 0;
  const high = (remainder + 0x20000) & -0x40000;
  const wh = f(high * 2 ** -29);
  const wl = f((remainder - high) * 2 ** -29);
  const [c, s] = [cosine(wh, wl), sine(wh, wl)];
  const [x, y] = quadrant & 1 ? [s, c] : [c, s];
  out[at] = r * ((quadrant + 1) & 2 ? -x : x);
  out[at + 1] = r * (quadrant & 2 ? -y : y);
}

/**
 * ln((n + 0.5) 2^-23) for n = word >>> 9: polynomial of Cephes' logf.
 * @param {number} word
 */
function logUniform(word) {
  FLOAT[0] = ((word >>> 9) + 0.5) * 2 ** -23;
  const e = (BITS[0] - 0x3f3504f3) >> 23; // u = 2^e (1 + x) with 1 + x in [sqrt(1/2), sqrt(2))
  BITS[0] -= e << 23;
  const x = f(FLOAT[0] - 1);
  const z = f(x * x);
  let y = f(f(x * z) * polynomial(LOG, x));
  y = f(y + f(e * f(-0.00021219444170128554)));
  y = f(y - f(0.5 * z));
  return f(f(x + y) + f(e * f(0.693359375)));
}

/**
 * Sine of (wh + wl) pi/4.
 * @param {number} wh
 * @param {number} wl
 */
function sine(wh, wl) {
  const w = f(wh + wl);
  const z = f(w * w);
  const rest = f(f(wl * f(0.7853981852531433)) - f(wh * f(2.2272274691204075e-6)));
  return f(f(wh * f(0.785400390625)) + f(rest + f(f(z * w) * polynomial(SINE, z))));
}

/**
 * Cosine of (wh + wl) pi/4.
 * @param {number} wh
 * @param {number} wl
 */
function cosine(wh, wl) {
  const half = f(0.3084251284599304); // (pi/4)^2 / 2
  const w = f(wh + wl);
  const z = f(w * w);
  const rest = f(f(f(half * wl) * f(wh + w)) + f(polynomial(COSINE, z) * z));
  return f(1 - f(f(half * f(wh * wh)) + rest));
}

/**
 * Horner's rule, rounded after each product and each sum.
 * @param {number[]} coefficients
 * @param {number} x
 */
function polynomial(coefficients, x) {
  let p = f(coefficients[0]);
  for (let i = 1; i < coefficients.length; i++) p = f(f(p * x) + f(coefficients[i]));
  return p;
}
