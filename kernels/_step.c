/* sdedit.kernels._step: begin, step and normal over Python buffers. step_c.py checks shapes and dtypes; sizes and alignment
 * are checked here again, so that no caller can make this module read or write outside its buffers. */
#include <Python.h>

#if defined(_MSC_VER)
#include <math.h>
#endif

#include "_step.h"

#if defined(__SSE__) || defined(_M_X64)
#include <xmmintrin.h>
typedef unsigned int FloatingPointScope;
INLINE FloatingPointScope enter_default_floating_point(void) {
    FloatingPointScope saved = _mm_getcsr();
    _mm_setcsr(0x1F80); /* round to nearest, all exceptions masked, denormals neither flushed nor read as zero */
    return saved;
}
INLINE void leave_floating_point(FloatingPointScope saved) { _mm_setcsr(saved); }
#elif defined(__aarch64__)
typedef uint64_t FloatingPointScope;
INLINE FloatingPointScope enter_default_floating_point(void) {
    FloatingPointScope saved;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved) : : "memory");
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0) : "memory");
    return saved;
}
INLINE void leave_floating_point(FloatingPointScope saved) { __asm__ volatile("msr fpcr, %0" : : "r"(saved) : "memory"); }
#else
#error "the floating-point control register of this processor is not known here: the numpy twin is used instead"
#endif

static Philox *philox; /* chosen once, when the module is loaded */

/* x' and h' for n neighbouring elements; z and z_keep are their noise. */
INLINE void step_run(size_t n, float *RESTRICT x, float *RESTRICT h, const float *RESTRICT guide,
                     const float *RESTRICT mask, const float *RESTRICT o, const float *RESTRICT z,
                     const float *RESTRICT z_keep, const Row *row) {
    const float a_x = row->a_x, a_o = row->a_o, high = row->clip, low = -row->clip;
    const float c_x = row->c_x, c_0 = row->c_0, c_h = row->c_h, c_z = row->c_z;
    const float k_g = row->k_g, k_z = row->k_z, threshold = row->threshold, h_threshold = row->h_threshold;
    for (size_t i = 0; i < n; i++) {
        float x0 = a_x * x[i] + a_o * o[i];
        x0 = x0 < low ? low : x0;
        x0 = x0 > high ? high : x0;
        float m = mask[i], last = h[i]; /* loaded in any case: a blend is cheaper than a masked load */
        last = m >= h_threshold ? last : x0;
        float edit = ((c_x * x[i] + c_0 * x0) + c_h * last) + c_z * z[i];
        float keep = k_g * guide[i] + k_z * z_keep[i];
        x[i] = m >= threshold ? edit : keep;
        h[i] = x0;
    }
}

INLINE size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

CLONES
static void step_slot(float *x, float *h, const float *guide, const float *mask, const float *o, const float *o_uncond,
                      const Row *row, uint64_t seed, uint32_t image, size_t channels, size_t pixels) {
    float z[BLOCK], z_begin[BLOCK], guided[BLOCK];
    const size_t elements = channels * pixels;
    for (size_t start = 0; start < elements; start += BLOCK) {
        const size_t end = smaller(start + BLOCK, elements);
        normal_block(philox, z, seed, (uint32_t)(start / 4), row->step, 2 * row->repeat + KIND_STEP, image);
        const float *z_keep = z;
        if (row->keep_noise) {
            normal_block(philox, z_begin, seed, (uint32_t)(start / 4), 0, 2 * row->repeat + KIND_BEGIN, image);
            z_keep = z_begin;
        }
        const float *out = o + start;
        if (o_uncond) {
            for (size_t i = 0; i < end - start; i++) {
                const float uncond = o_uncond[start + i];
                guided[i] = uncond + row->guidance * (o[start + i] - uncond);
            }
            out = guided;
        }
        for (size_t at = start; at < end;) { /* runs that do not cross a channel: there the mask is contiguous */
            const size_t pixel = at % pixels;
            const size_t n = smaller(end - at, pixels - pixel);
            const size_t i = at - start;
            step_run(n, x + at, h + at, guide + at, mask + pixel, out + i, z + i, z_keep + i, row);
            at += n;
        }
    }
}

CLONES
static void begin_slot(float *x, float *guide, const float *mask, const Row *row, const Row *last, float alpha0,
                       float sigma0, uint64_t seed, uint32_t image, size_t channels, size_t pixels) {
    float z[BLOCK];
    const size_t elements = channels * pixels;
    if (last) {
        for (size_t i = 0; i < elements; i++) {
            guide[i] = mask[i % pixels] >= last->threshold ? x[i] : guide[i];
        }
    }
    for (size_t start = 0; start < elements; start += BLOCK) {
        const size_t n = smaller(BLOCK, elements - start);
        normal_block(philox, z, seed, (uint32_t)(start / 4), 0, 2 * row->repeat + KIND_BEGIN, image);
        for (size_t i = 0; i < n; i++) {
            x[start + i] = alpha0 * guide[start + i] + sigma0 * z[i];
        }
    }
}

CLONES
static void normal_fill(float *out, size_t size, uint64_t seed, uint32_t image, uint32_t step, uint32_t stream) {
    float z[BLOCK];
    for (size_t start = 0; start < size; start += BLOCK) {
        normal_block(philox, z, seed, (uint32_t)(start / 4), step, stream, image);
        memcpy(out + start, z, smaller(BLOCK, size - start) * sizeof(float));
    }
}

#define ALIGNMENT(type) offsetof(struct { char first; type value; }, value)

/* Buffers held for one call. */
enum { MAX_BUFFERS = 12 };
typedef struct {
    Py_buffer views[MAX_BUFFERS];
    int count;
} Buffers;

static void release(Buffers *held) {
    while (held->count > 0) {
        PyBuffer_Release(&held->views[--held->count]);
    }
}

/* The memory of `object`, which must hold exactly `bytes` from a multiple of `alignment`; else NULL with an exception. */
static void *hold_aligned(Buffers *held, PyObject *object, const char *name, size_t bytes, size_t alignment, int writable) {
    Py_buffer *view = &held->views[held->count];
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0)) < 0) {
        return NULL;
    }
    held->count++;
    if ((size_t)view->len != bytes) {
        PyErr_Format(PyExc_ValueError, "%s has %zd bytes, expected %zu", name, view->len, bytes);
        return NULL;
    }
    if ((uintptr_t)view->buf % alignment) {
        PyErr_Format(PyExc_ValueError, "%s is not aligned to %zu bytes", name, alignment);
        return NULL;
    }
    return view->buf;
}

/* Memory of 32-bit values, as all arrays but the seeds have. */
static void *hold(Buffers *held, PyObject *object, const char *name, size_t bytes, int writable) {
    return hold_aligned(held, object, name, bytes, ALIGNMENT(uint32_t), writable);
}

static int expect_arguments(const char *function, Py_ssize_t given, Py_ssize_t expected) {
    if (given == expected) {
        return 1;
    }
    PyErr_Format(PyExc_TypeError, "%s takes %zd arguments, got %zd", function, expected, given);
    return 0;
}

/* The per-slot arrays that begin and step share. */
typedef struct {
    size_t slots, max_rows, channels, pixels;
    const Row *rows;
    const uint32_t *counter, *row_count, *image;
    const uint64_t *seed;
} Slots;

/* arguments: rows, counter, row_count, seed, image, slots, max_rows, channels, pixels */
static int hold_slots(Buffers *held, Slots *s, PyObject *const *arguments) {
    size_t sizes[4];
    for (int i = 0; i < 4; i++) {
        sizes[i] = PyLong_AsSize_t(arguments[5 + i]);
        if (sizes[i] == (size_t)-1 && PyErr_Occurred()) {
            return 0;
        }
        if (sizes[i] == 0 || sizes[i] >= (size_t)1 << 31) {
            PyErr_Format(PyExc_ValueError, "size %zu is not in 1..2^31-1", sizes[i]);
            return 0;
        }
    }
    s->slots = sizes[0];
    s->max_rows = sizes[1];
    s->channels = sizes[2];
    s->pixels = sizes[3];
    if (s->pixels >= ((size_t)1 << 31) / s->channels) {
        PyErr_SetString(PyExc_ValueError, "an image has 2^31 elements or more");
        return 0;
    }
    if (s->max_rows > SIZE_MAX / sizeof(Row) / s->slots ||
        s->channels * s->pixels > SIZE_MAX / sizeof(float) / s->slots) {
        PyErr_SetString(PyExc_ValueError, "the state is larger than the memory that can be addressed");
        return 0;
    }
    s->rows = hold(held, arguments[0], "rows", s->slots * s->max_rows * sizeof(Row), 0);
    s->counter = s->rows ? hold(held, arguments[1], "counter", s->slots * sizeof(uint32_t), 0) : NULL;
    s->row_count = s->counter ? hold(held, arguments[2], "row_count", s->slots * sizeof(uint32_t), 0) : NULL;
    s->seed = s->row_count ? hold_aligned(held, arguments[3], "seed", s->slots * sizeof(uint64_t), ALIGNMENT(uint64_t), 0)
                           : NULL;
    s->image = s->seed ? hold(held, arguments[4], "image", s->slots * sizeof(uint32_t), 0) : NULL;
    if (!s->image) {
        return 0;
    }
    for (size_t b = 0; b < s->slots; b++) {
        if (s->row_count[b] > s->max_rows) {
            PyErr_Format(PyExc_ValueError, "row_count %lu of slot %zu exceeds the %zu rows there are",
                         (unsigned long)s->row_count[b], b, s->max_rows);
            return 0;
        }
    }
    return 1;
}

/* step(x, h, guide, mask, o, o_uncond, <slots>) */
static PyObject *py_step(PyObject *module, PyObject *const *arguments, Py_ssize_t given) {
    (void)module;
    if (!expect_arguments("step", given, 15)) {
        return NULL;
    }
    Buffers held = {.count = 0};
    Slots s;
    float *x = NULL, *h = NULL;
    const float *guide = NULL, *mask = NULL, *o = NULL, *o_uncond = NULL;
    int ok = hold_slots(&held, &s, arguments + 6);
    if (ok) {
        const size_t elements = s.channels * s.pixels;
        const size_t bytes = s.slots * elements * sizeof(float);
        ok = (x = hold(&held, arguments[0], "x", bytes, 1)) && (h = hold(&held, arguments[1], "h", bytes, 1)) &&
             (guide = hold(&held, arguments[2], "guide", bytes, 0)) &&
             (mask = hold(&held, arguments[3], "mask", s.slots * s.pixels * sizeof(float), 0)) &&
             (o = hold(&held, arguments[4], "o", bytes, 0)) &&
             (arguments[5] == Py_None || (o_uncond = hold(&held, arguments[5], "o_uncond", bytes, 0)));
    }
    if (ok) {
        Py_BEGIN_ALLOW_THREADS;
        const size_t elements = s.channels * s.pixels;
        FloatingPointScope saved = enter_default_floating_point();
        for (size_t b = 0; b < s.slots; b++) {
            const uint32_t at = s.counter[b];
            if (at < s.row_count[b] && at < s.max_rows) { /* again: other threads may write, now that the lock is free */
                const size_t e = b * elements;
                step_slot(x + e, h + e, guide + e, mask + b * s.pixels, o + e, o_uncond ? o_uncond + e : NULL,
                          s.rows + b * s.max_rows + at, s.seed[b], s.image[b], s.channels, s.pixels);
            }
        }
        leave_floating_point(saved);
        Py_END_ALLOW_THREADS;
    }
    release(&held);
    return ok ? Py_NewRef(Py_None) : NULL;
}

/* begin(x, guide, mask, alpha0, sigma0, <slots>) */
static PyObject *py_begin(PyObject *module, PyObject *const *arguments, Py_ssize_t given) {
    (void)module;
    if (!expect_arguments("begin", given, 14)) {
        return NULL;
    }
    Buffers held = {.count = 0};
    Slots s;
    float *x = NULL, *guide = NULL;
    const float *mask = NULL, *alpha0 = NULL, *sigma0 = NULL;
    int ok = hold_slots(&held, &s, arguments + 5);
    if (ok) {
        const size_t bytes = s.slots * s.channels * s.pixels * sizeof(float);
        ok = (x = hold(&held, arguments[0], "x", bytes, 1)) && (guide = hold(&held, arguments[1], "guide", bytes, 1)) &&
             (mask = hold(&held, arguments[2], "mask", s.slots * s.pixels * sizeof(float), 0)) &&
             (alpha0 = hold(&held, arguments[3], "alpha0", s.slots * sizeof(float), 0)) &&
             (sigma0 = hold(&held, arguments[4], "sigma0", s.slots * sizeof(float), 0));
    }
    if (ok) {
        Py_BEGIN_ALLOW_THREADS;
        const size_t elements = s.channels * s.pixels;
        FloatingPointScope saved = enter_default_floating_point();
        for (size_t b = 0; b < s.slots; b++) {
            const uint32_t at = s.counter[b];
            if (at >= s.row_count[b] || at >= s.max_rows) {
                continue;
            }
            const Row *row = s.rows + b * s.max_rows + at;
            if (row->step == 0) {
                const Row *last = row->repeat > 0 && at > 0 ? row - 1 : NULL;
                begin_slot(x + b * elements, guide + b * elements, mask + b * s.pixels, row, last, alpha0[b], sigma0[b],
                           s.seed[b], s.image[b], s.channels, s.pixels);
            }
        }
        leave_floating_point(saved);
        Py_END_ALLOW_THREADS;
    }
    release(&held);
    return ok ? Py_NewRef(Py_None) : NULL;
}

/* normal(out, seed, image, repeat, step, kind) */
static PyObject *py_normal(PyObject *module, PyObject *const *arguments, Py_ssize_t given) {
    (void)module;
    if (!expect_arguments("normal", given, 6)) {
        return NULL;
    }
    const unsigned long long seed = PyLong_AsUnsignedLongLong(arguments[1]);
    unsigned long words[4];
    for (int i = 0; i < 4 && !PyErr_Occurred(); i++) {
        words[i] = PyLong_AsUnsignedLong(arguments[2 + i]);
    }
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_buffer view;
    if (PyObject_GetBuffer(arguments[0], &view, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) < 0) {
        return NULL;
    }
    if ((uintptr_t)view.buf % ALIGNMENT(float)) {
        PyErr_SetString(PyExc_ValueError, "out is not aligned to 4 bytes");
        PyBuffer_Release(&view);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS;
    FloatingPointScope saved = enter_default_floating_point();
    normal_fill(view.buf, (size_t)view.len / sizeof(float), seed, (uint32_t)words[0], (uint32_t)words[2],
                2 * (uint32_t)words[1] + (uint32_t)words[3]);
    leave_floating_point(saved);
    Py_END_ALLOW_THREADS;
    PyBuffer_Release(&view);
    return Py_NewRef(Py_None);
}

static PyMethodDef methods[] = {
    {"step", (PyCFunction)(void (*)(void))py_step, METH_FASTCALL, NULL},
    {"begin", (PyCFunction)(void (*)(void))py_begin, METH_FASTCALL, NULL},
    {"normal", (PyCFunction)(void (*)(void))py_normal, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_step", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__step(void) {
    philox = fastest_philox();
    return PyModuleDef_Init(&definition);
}
