/* Noise and step in IEEE float32, the C twin of noise.py and step_numpy.py: same operations, same order, same bits.
 *
 * Compile with -ffp-contract=off and run with the default floating-point environment (see FloatingPointScope in _step.c).
 */
#ifndef SDEDIT_STEP_H
#define SDEDIT_STEP_H

#include <float.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0
#error "float arithmetic is not evaluated in float here (x87?): the numpy twin is used instead"
#endif

#if defined(_MSC_VER)
#pragma fp_contract(off)
#define INLINE static __forceinline
#define RESTRICT __restrict
#else
#define INLINE static inline __attribute__((always_inline))
#define RESTRICT restrict
#endif

/* One loop source, compiled for each instruction set and chosen at load time. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("default", "avx2", "arch=x86-64-v4")))
#else
#define CLONES
#endif

/* layout.ROW: one network evaluation. */
typedef struct {
    float time, a_x, a_o, clip, guidance, c_x, c_0, c_h, c_z, k_g, k_z, threshold, h_threshold;
    uint32_t step, repeat, keep_noise;
} Row;

enum { KIND_BEGIN = 0, KIND_STEP = 1 };

enum { COUNTERS = 64, BLOCK = 4 * COUNTERS }; /* a block's noise and words stay in the first-level cache */

INLINE float float_from_bits(int32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE int32_t bits_from_float(float value) {
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* noise.philox at `COUNTERS` consecutive first words. */
typedef void Philox(uint32_t words[4][COUNTERS], uint64_t seed, uint32_t first, uint32_t step, uint32_t stream,
                    uint32_t image);

static void philox_portable(uint32_t words[4][COUNTERS], uint64_t seed, uint32_t first, uint32_t step, uint32_t stream,
                            uint32_t image) {
    for (uint32_t i = 0; i < COUNTERS; i++) {
        uint32_t c0 = first + i, c1 = step, c2 = stream, c3 = image;
        uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
        for (int round = 0; round < 10; round++) {
            uint64_t p0 = (uint64_t)c0 * 0xD2511F53u;
            uint64_t p2 = (uint64_t)c2 * 0xCD9E8D57u;
            c0 = (uint32_t)(p2 >> 32) ^ c1 ^ k0;
            c1 = (uint32_t)p2;
            c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
            c3 = (uint32_t)p0;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        words[0][i] = c0;
        words[1][i] = c1;
        words[2][i] = c2;
        words[3][i] = c3;
    }
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

/* One round on four counters in 64-bit lanes. What lies above a word's 32 bits is never read: vpmuludq ignores it. */
#define PHILOX_ROUND(c0, c1, c2, c3)                                                          \
    do {                                                                                      \
        const __m256i p0 = _mm256_mul_epu32(c0, m0), p2 = _mm256_mul_epu32(c2, m2);           \
        c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p2, 32), c1), key0);         \
        c1 = p2;                                                                              \
        c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c3), key1);         \
        c3 = p0;                                                                              \
    } while (0)

#define PHILOX_STORE(word, even, odd)            \
    _mm256_storeu_si256((__m256i *)(words[word] + i), \
                        _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA))

/* Three times as fast as what compilers make of the portable loop, which shuffles between 32- and 64-bit lanes. */
__attribute__((target("avx2"))) static void philox_avx2(uint32_t words[4][COUNTERS], uint64_t seed, uint32_t first,
                                                        uint32_t step, uint32_t stream, uint32_t image) {
    const __m256i m0 = _mm256_set1_epi64x(0xD2511F53u), m2 = _mm256_set1_epi64x(0xCD9E8D57u);
    for (uint32_t i = 0; i < COUNTERS; i += 8) {
        __m256i even0 = _mm256_add_epi64(_mm256_set1_epi64x(first + i), _mm256_set_epi64x(6, 4, 2, 0));
        __m256i odd0 = _mm256_add_epi64(even0, _mm256_set1_epi64x(1));
        __m256i even1 = _mm256_set1_epi64x(step), odd1 = even1;
        __m256i even2 = _mm256_set1_epi64x(stream), odd2 = even2;
        __m256i even3 = _mm256_set1_epi64x(image), odd3 = even3;
        uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
        for (int round = 0; round < 10; round++) {
            const __m256i key0 = _mm256_set1_epi32((int32_t)k0), key1 = _mm256_set1_epi32((int32_t)k1);
            PHILOX_ROUND(even0, even1, even2, even3);
            PHILOX_ROUND(odd0, odd1, odd2, odd3);
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        PHILOX_STORE(0, even0, odd0);
        PHILOX_STORE(1, even1, odd1);
        PHILOX_STORE(2, even2, odd2);
        PHILOX_STORE(3, even3, odd3);
    }
}

static Philox *fastest_philox(void) { return __builtin_cpu_supports("avx2") ? philox_avx2 : philox_portable; }
#else
static Philox *fastest_philox(void) { return philox_portable; }
#endif

/* noise.log_uniform */
INLINE float log_uniform(uint32_t word) {
    float u = ((float)(int32_t)(word >> 9) + 0.5f) * 1.1920928955078125e-07f;
    int32_t bits = bits_from_float(u);
    int32_t e = (bits - 0x3F3504F3) >> 23;
    float x = float_from_bits(bits - e * 0x800000) - 1.0f; /* e is negative: a shift to the left would be undefined */
    float n = (float)e;
    float z = x * x;
    float p = 0.07037683576345444f * x - 0.11514610052108765f;
    p = p * x + 0.11676998436450958f;
    p = p * x - 0.12420140951871872f;
    p = p * x + 0.14249321818351746f;
    p = p * x - 0.16668057441711426f;
    p = p * x + 0.2000071406364441f;
    p = p * x - 0.24999994039535522f;
    p = p * x + 0.3333333134651184f;
    float y = x * z * p;
    y = y + n * -0.00021219444170128554f;
    y = y - 0.5f * z;
    return (x + y) + n * 0.693359375f;
}

INLINE float root(float value) {
#if defined(__GNUC__)
    return __builtin_sqrtf(value);
#else
    return (float)sqrt((double)value); /* correctly rounded as well: double has more than 2 * 24 + 2 bits */
#endif
}

/* noise.cosine_and_sine */
INLINE void cosine_and_sine(uint32_t word, float *cosine, float *sine) {
    uint32_t quadrant = (word + 0x20000000u) >> 30;
    int32_t remainder = (int32_t)(word - (quadrant << 30));
    int32_t high = (remainder + 0x20000) & -0x40000;
    int32_t low = remainder - high;
    float wh = (float)high * 1.862645149230957e-09f;
    float wl = (float)low * 1.862645149230957e-09f;
    float w = wh + wl;
    float z = w * w;
    float p = -3.597898466978222e-05f * z + 0.00249004946090281f;
    p = p * z - 0.08074545860290527f;
    float s = wh * 0.785400390625f + ((wl * 0.7853981852531433f - wh * 2.2272274691204075e-06f) + z * w * p);
    float q = -3.538284317983198e-06f * z + 0.000325956178130582f;
    q = q * z - 0.015854336321353912f;
    q = q * z + 9.074112128359957e-09f;
    float v = 0.3084251284599304f * (wh * wh) + (0.3084251284599304f * wl * (wh + w) + q * z);
    float c = 1.0f - v;
    float unsigned_cosine = quadrant & 1 ? s : c;
    float unsigned_sine = quadrant & 1 ? c : s;
    *cosine = (quadrant + 1) & 2 ? -unsigned_cosine : unsigned_cosine;
    *sine = quadrant & 2 ? -unsigned_sine : unsigned_sine;
}

/* noise.box_muller */
INLINE void box_muller(uint32_t radius_word, uint32_t angle_word, float *RESTRICT out0, float *RESTRICT out1) {
    float r = root(-2.0f * log_uniform(radius_word));
    float cosine, sine;
    cosine_and_sine(angle_word, &cosine, &sine);
    *out0 = r * cosine;
    *out1 = r * sine;
}

/* The `BLOCK` normals from element 4 * first on. */
INLINE void normal_block(Philox *philox, float *RESTRICT z, uint64_t seed, uint32_t first, uint32_t step, uint32_t stream,
                         uint32_t image) {
    uint32_t words[4][COUNTERS];
    philox(words, seed, first, step, stream, image);
    for (int i = 0; i < COUNTERS; i++) {
        box_muller(words[0][i], words[1][i], z + 4 * i, z + 4 * i + 1);
        box_muller(words[2][i], words[3][i], z + 4 * i + 2, z + 4 * i + 3);
    }
}

#endif
