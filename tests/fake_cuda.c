// A libcuda.so.1 without a device, on which the unmodified cuda.core runs. Tests only.
//
// It keeps what a driver keeps: contexts by thread, streams as queues, graphs as copies of what was captured, by value.
// Nothing of a stream runs before somebody waits for it, as late as a device may be. What runs is handed to Python:
// copies and kernels act on the memory of device_memory.py, which checks every access. An error stays, as CUDA's do.
// A stream, event, graph or buffer that outlives its driver can still be destroyed: nothing runs, nothing is counted.
#include <cuda.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#undef cuGetProcAddress

enum { MAX_PARAMETERS = 32, MAX_PARAMETER_BYTES = 512, MAX_GPUS = 4 };
enum kind { COPY, FILL, FREE, LAUNCH, HOST };
enum counted { STREAMS, EVENTS, GRAPHS, EXECUTABLES, HOST_BUFFERS, COUNTED };

typedef struct {
    uint32_t count;
    uint32_t offsets[MAX_PARAMETERS];
    uint32_t sizes[MAX_PARAMETERS];
    uint32_t threads;
    char name[128];
} Described;

typedef struct {
    uint64_t (*allocate)(uint64_t bytes);
    int (*release)(uint64_t address);
    int (*copy)(uint64_t to, uint64_t from, uint64_t bytes);
    int (*fill)(uint64_t to, uint32_t value, uint64_t bytes);
    int (*load)(const void *image, Described *described);
    int (*launch)(int kernel, const uint32_t *grid, const uint8_t *parameters, uint64_t bytes);
} Executor;

typedef struct {
    int id;
    Described described;
    uint64_t parameter_bytes;
} Kernel;

typedef struct {
    enum kind kind;
    uint64_t to, from, bytes;
    uint32_t value;
    const Kernel *kernel;
    uint32_t grid[3];
    uint8_t parameters[MAX_PARAMETER_BYTES];
} Operation;

typedef struct {
    Operation *operations;
    size_t count, room;
    unsigned driver;
} List;

typedef struct {
    List queue;
    size_t done;
    List *capture;
    int gpu;
} Stream;

typedef struct {
    Stream *stream;
    size_t after;
    unsigned driver;
    int gpu;
} Event;

typedef struct {
    _Alignas(64) unsigned driver;
} BufferHeader;

static Executor executor;
static int present; // number of GPUs, all alike; memory is one address space
static int version, major, minor;
static int status[MAX_GPUS]; // the error that each GPU's context keeps
static unsigned driver; // another number from each start, and from each stop
static uint64_t memory_bytes, memory_free, memory_kept; // kept: by the pool, of what was freed
static _Atomic int counts[COUNTED]; // two editors have two threads
static int host_buffers_left;
static _Atomic long launched, graphs_launched, waits;
static Stream default_stream;
static int contexts[MAX_GPUS], pool;
static _Thread_local CUcontext current;
static _Thread_local int running; // the GPU whose work this thread runs

// The tests' side.

void fake_start(const Executor *given, int driver_version, int capability, uint64_t bytes) {
    executor = *given;
    present = 1;
    driver++;
    version = driver_version;
    major = capability / 10;
    minor = capability % 10;
    memory_bytes = bytes;
    memory_free = bytes;
    memory_kept = 0;
    memset(status, 0, sizeof status);
    launched = graphs_launched = waits = 0;
    host_buffers_left = -1; // any number
    for (int i = 0; i < COUNTED; i++) counts[i] = 0;
    memset(&default_stream, 0, sizeof default_stream);
    default_stream.queue.driver = driver;
}

void fake_stop(void) {
    present = 0;
    driver++;
}

void fake_set_gpus(int number) { present = number; }
void fake_set_free(uint64_t bytes) { memory_free = bytes; }
void fake_set_kept(uint64_t bytes) { memory_kept = bytes; }
int fake_count(int what) { return counts[what]; }
long fake_launched(void) { return launched; }
long fake_graphs_launched(void) { return graphs_launched; }
long fake_waits(void) { return waits; }
void fake_fail(int with) { status[running] = with; } // called by work that runs
void fake_limit_host_buffers(int most) { host_buffers_left = most; }

// Streams.

static int current_gpu(void) { return current ? (int)((int *)current - contexts) : 0; }

static Stream *stream_of(CUstream stream) { return (uintptr_t)stream <= 2 ? &default_stream : (Stream *)stream; }

static void append(List *list, const Operation *operation) {
    if (list->count == list->room) {
        list->room = list->room ? 2 * list->room : 16;
        list->operations = realloc(list->operations, list->room * sizeof *operation);
    }
    list->operations[list->count++] = *operation;
}

static CUresult enqueue(CUstream to, const Operation *operation) {
    if (!current) return CUDA_ERROR_INVALID_CONTEXT;
    Stream *stream = stream_of(to);
    if (stream->gpu != current_gpu()) return CUDA_ERROR_INVALID_HANDLE;
    if (status[stream->gpu]) return status[stream->gpu];
    append(stream->capture ? stream->capture : &stream->queue, operation);
    return CUDA_SUCCESS;
}

static int execute(const Operation *o) {
    switch (o->kind) {
    case COPY: return executor.copy(o->to, o->from, o->bytes);
    case FILL: return executor.fill(o->to, o->value, o->bytes);
    case FREE: return executor.release(o->to);
    case LAUNCH:
        launched++;
        return executor.launch(o->kernel->id, o->grid, o->parameters, o->kernel->parameter_bytes);
    case HOST:
        ((void (*)(void *))o->to)((void *)o->from);
        return 0;
    }
    return CUDA_ERROR_UNKNOWN;
}

static void discount(enum counted what, unsigned of) {
    if (of == driver) counts[what]--;
}

static CUresult run_until(Stream *stream, size_t end) {
    if (stream->queue.driver != driver) return CUDA_ERROR_DEINITIALIZED;
    waits++;
    while (stream->done < end) {
        Operation operation = stream->queue.operations[stream->done++];
        running = stream->gpu;
        int result = status[running] && operation.kind != FREE ? 0 : execute(&operation);
        if (!status[stream->gpu]) status[stream->gpu] = result;
    }
    return status[stream->gpu];
}

int fake_enqueue_host(CUstream stream, void (*function)(void *), void *argument) {
    Operation operation = {.kind = HOST, .to = (uintptr_t)function, .from = (uintptr_t)argument};
    return enqueue(stream, &operation);
}

static CUresult d_cuStreamCreateWithPriority(CUstream *out, unsigned flags, int priority) {
    Stream *stream = calloc(1, sizeof *stream);
    stream->queue.driver = driver;
    stream->gpu = current_gpu();
    *out = (CUstream)stream;
    counts[STREAMS]++;
    return CUDA_SUCCESS;
}

static CUresult d_cuStreamDestroy(CUstream stream) {
    run_until((Stream *)stream, ((Stream *)stream)->queue.count);
    discount(STREAMS, ((Stream *)stream)->queue.driver);
    free(((Stream *)stream)->queue.operations);
    free(stream);
    return CUDA_SUCCESS;
}

static CUresult d_cuStreamSynchronize(CUstream stream) {
    if (stream_of(stream)->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    return run_until(stream_of(stream), stream_of(stream)->queue.count);
}

static CUresult d_cuStreamGetCtx(CUstream stream, CUcontext *out) {
    *out = (CUcontext)&contexts[stream_of(stream)->gpu];
    return CUDA_SUCCESS;
}

static CUresult d_cuStreamGetCtx_v2(CUstream stream, CUcontext *out, CUgreenCtx *green) {
    *out = (CUcontext)&contexts[stream_of(stream)->gpu];
    if (green) *green = NULL;
    return CUDA_SUCCESS;
}

static CUresult d_cuStreamGetDevice(CUstream stream, CUdevice *device) {
    *device = stream_of(stream)->gpu;
    return CUDA_SUCCESS;
}

static CUresult d_cuStreamGetFlags(CUstream stream, unsigned *flags) {
    *flags = CU_STREAM_NON_BLOCKING;
    return CUDA_SUCCESS;
}

static CUresult d_cuStreamGetPriority(CUstream stream, int *priority) {
    *priority = 0;
    return CUDA_SUCCESS;
}

static CUresult d_cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *out) {
    *out = stream_of(stream)->capture ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}

static CUresult d_cuStreamGetCaptureInfo_v3(CUstream stream, CUstreamCaptureStatus *out, cuuint64_t *id, CUgraph *graph,
                                            const CUgraphNode **nodes, const CUgraphEdgeData **edges, size_t *count) {
    if (id) *id = 1;
    if (graph) *graph = (CUgraph)stream_of(stream)->capture;
    if (count) *count = 0;
    return d_cuStreamIsCapturing(stream, out);
}

static CUresult d_cuStreamGetCaptureInfo_v2(CUstream stream, CUstreamCaptureStatus *out, cuuint64_t *id, CUgraph *graph,
                                            const CUgraphNode **nodes, size_t *count) {
    return d_cuStreamGetCaptureInfo_v3(stream, out, id, graph, nodes, NULL, count);
}

// Events.

static CUresult d_cuEventCreate(CUevent *out, unsigned flags) {
    Event *event = calloc(1, sizeof *event);
    event->driver = driver;
    event->gpu = current_gpu();
    *out = (CUevent)event;
    counts[EVENTS]++;
    return CUDA_SUCCESS;
}

static CUresult d_cuEventDestroy(CUevent event) {
    discount(EVENTS, ((Event *)event)->driver);
    free(event);
    return CUDA_SUCCESS;
}

static CUresult d_cuEventRecord(CUevent event, CUstream stream) {
    if (!current) return CUDA_ERROR_INVALID_CONTEXT;
    if (stream_of(stream)->gpu != ((Event *)event)->gpu) return CUDA_ERROR_INVALID_HANDLE;
    if (stream_of(stream)->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    ((Event *)event)->stream = stream_of(stream);
    ((Event *)event)->after = stream_of(stream)->queue.count;
    return status[stream_of(stream)->gpu];
}

static CUresult d_cuEventSynchronize(CUevent event) {
    Event *e = (Event *)event;
    if (e->stream) run_until(e->stream, e->after);
    return status[e->gpu];
}

// Graphs: a list of operations, copied when captured, when instantiated and when launched.

static List *new_list(void) {
    List *list = calloc(1, sizeof *list);
    list->driver = driver;
    return list;
}

static CUresult d_cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
    if (stream_of(stream)->capture) return CUDA_ERROR_ILLEGAL_STATE;
    stream_of(stream)->capture = new_list();
    counts[GRAPHS]++;
    return status[current_gpu()];
}

static CUresult d_cuStreamEndCapture(CUstream stream, CUgraph *graph) {
    *graph = (CUgraph)stream_of(stream)->capture;
    stream_of(stream)->capture = NULL;
    return status[current_gpu()];
}

static CUresult d_cuGraphInstantiateWithParams(CUgraphExec *out, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *params) {
    List *copy = new_list();
    for (size_t i = 0; i < ((List *)graph)->count; i++) append(copy, &((List *)graph)->operations[i]);
    *out = (CUgraphExec)copy;
    counts[EXECUTABLES]++;
    if (params) params->result_out = CUDA_GRAPH_INSTANTIATE_SUCCESS;
    return status[current_gpu()];
}

static CUresult d_cuGraphInstantiateWithFlags(CUgraphExec *out, CUgraph graph, unsigned long long flags) {
    return d_cuGraphInstantiateWithParams(out, graph, NULL);
}

static CUresult d_cuGraphLaunch(CUgraphExec graph, CUstream stream) {
    CUresult result = current ? status[current_gpu()] : CUDA_ERROR_INVALID_CONTEXT;
    for (size_t i = 0; i < ((List *)graph)->count && !result; i++) {
        result = enqueue(stream, &((List *)graph)->operations[i]);
    }
    graphs_launched++;
    return result;
}

static CUresult d_cuGraphUpload(CUgraphExec graph, CUstream stream) { return status[current_gpu()]; }

static void free_list(List *list, enum counted what) {
    discount(what, list->driver);
    free(list->operations);
    free(list);
}

static CUresult d_cuGraphDestroy(CUgraph graph) {
    free_list((List *)graph, GRAPHS);
    return CUDA_SUCCESS;
}

static CUresult d_cuGraphExecDestroy(CUgraphExec graph) {
    free_list((List *)graph, EXECUTABLES);
    return CUDA_SUCCESS;
}

static CUresult d_cuUserObjectCreate(CUuserObject *out, void *pointer, CUhostFn destroy, unsigned count, unsigned flags) {
    *out = malloc(1);
    return CUDA_SUCCESS;
}

static CUresult d_cuUserObjectRelease(CUuserObject object, unsigned count) { return CUDA_SUCCESS; }
static CUresult d_cuUserObjectRetain(CUuserObject object, unsigned count) { return CUDA_SUCCESS; }
static CUresult d_cuGraphRetainUserObject(CUgraph g, CUuserObject o, unsigned n, unsigned f) { return CUDA_SUCCESS; }
static CUresult d_cuGraphReleaseUserObject(CUgraph g, CUuserObject o, unsigned n) { return CUDA_SUCCESS; }

// Memory.

static CUresult d_cuMemAllocFromPoolAsync(CUdeviceptr *out, size_t bytes, CUmemoryPool from, CUstream stream) {
    if (!current) return CUDA_ERROR_INVALID_CONTEXT;
    if (stream_of(stream)->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (status[current_gpu()]) return status[current_gpu()];
    *out = executor.allocate(bytes);
    return *out ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult d_cuMemAllocAsync(CUdeviceptr *out, size_t bytes, CUstream stream) {
    return d_cuMemAllocFromPoolAsync(out, bytes, NULL, stream);
}

static CUresult d_cuMemAlloc(CUdeviceptr *out, size_t bytes) {
    return d_cuMemAllocFromPoolAsync(out, bytes, NULL, NULL);
}

static CUresult d_cuMemFree(CUdeviceptr address) { return present ? executor.release(address) : CUDA_SUCCESS; }

static CUresult d_cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
    if (stream_of(stream)->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    Operation operation = {.kind = FREE, .to = address};
    append(&stream_of(stream)->queue, &operation);
    return CUDA_SUCCESS;
}

static CUresult d_cuMemHostAlloc(void **out, size_t bytes, unsigned flags) {
    if (host_buffers_left == 0) return CUDA_ERROR_OUT_OF_MEMORY;
    if (host_buffers_left > 0) host_buffers_left--;
    BufferHeader *header = aligned_alloc(64, (sizeof *header + bytes + 63) / 64 * 64);
    header->driver = driver;
    *out = header + 1;
    memset(*out, 0xCD, bytes);
    counts[HOST_BUFFERS]++;
    return CUDA_SUCCESS;
}

static CUresult d_cuMemAllocHost(void **out, size_t bytes) { return d_cuMemHostAlloc(out, bytes, 0); }

static CUresult d_cuMemFreeHost(void *pointer) {
    BufferHeader *header = (BufferHeader *)pointer - 1;
    discount(HOST_BUFFERS, header->driver);
    free(header);
    return CUDA_SUCCESS;
}

static CUresult d_cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    Operation operation = {.kind = COPY, .to = to, .from = from, .bytes = bytes};
    return enqueue(stream, &operation);
}

static CUresult d_cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
    Operation operation = {.kind = FILL, .to = to, .value = value, .bytes = bytes};
    return enqueue(stream, &operation);
}

static CUresult d_cuMemGetInfo(size_t *available, size_t *all) {
    *available = memory_free;
    *all = memory_bytes;
    return status[current_gpu()];
}

static CUresult d_cuDeviceGetMemPool(CUmemoryPool *out, CUdevice device) {
    *out = (CUmemoryPool)&pool;
    return CUDA_SUCCESS;
}

static CUresult d_cuMemPoolSetAttribute(CUmemoryPool p, CUmemPool_attribute attribute, void *value) {
    return CUDA_SUCCESS;
}

static CUresult d_cuMemPoolGetAttribute(CUmemoryPool p, CUmemPool_attribute attribute, void *value) {
    *(uint64_t *)value = attribute == CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT ? memory_kept : 0;
    return CUDA_SUCCESS;
}

static CUresult d_cuPointerGetAttributes(unsigned count, CUpointer_attribute *names, void **out, CUdeviceptr pointer) {
    for (unsigned i = 0; i < count; i++) *(int *)out[i] = 0;
    for (unsigned i = 0; i < count; i++) {
        if (names[i] == CU_POINTER_ATTRIBUTE_MEMORY_TYPE) *(unsigned *)out[i] = CU_MEMORYTYPE_HOST;
    }
    return CUDA_SUCCESS;
}

// Kernels.

static CUresult d_cuLibraryLoadData(CUlibrary *out, const void *code, CUjit_option *jit, void **jit_values, unsigned jits,
                                    CUlibraryOption *options, void **values, unsigned count) {
    if (status[current_gpu()]) return status[current_gpu()];
    Kernel *kernel = calloc(1, sizeof *kernel);
    kernel->id = executor.load(code, &kernel->described);
    if (kernel->id < 0) {
        free(kernel);
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    }
    for (uint32_t i = 0; i < kernel->described.count; i++) {
        uint64_t end = kernel->described.offsets[i] + kernel->described.sizes[i];
        if (end > kernel->parameter_bytes) kernel->parameter_bytes = end;
    }
    *out = (CUlibrary)kernel;
    return CUDA_SUCCESS;
}

static CUresult d_cuLibraryUnload(CUlibrary library) { return CUDA_SUCCESS; } // what is queued may still point to it

static CUresult d_cuLibraryGetKernel(CUkernel *out, CUlibrary library, const char *name) {
    if (strcmp(((Kernel *)library)->described.name, name)) return CUDA_ERROR_NOT_FOUND;
    *out = (CUkernel)library;
    return CUDA_SUCCESS;
}

static CUresult d_cuKernelGetFunction(CUfunction *out, CUkernel kernel) {
    *out = (CUfunction)kernel;
    return CUDA_SUCCESS;
}

static CUresult d_cuKernelGetLibrary(CUlibrary *out, CUkernel kernel) {
    *out = (CUlibrary)kernel;
    return CUDA_SUCCESS;
}

static CUresult d_cuKernelGetParamInfo(CUkernel kernel, size_t index, size_t *offset, size_t *size) {
    const Described *described = &((Kernel *)kernel)->described;
    if (index >= described->count) return CUDA_ERROR_INVALID_VALUE;
    if (offset) *offset = described->offsets[index];
    if (size) *size = described->sizes[index];
    return CUDA_SUCCESS;
}

static CUresult d_cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **parameters, void **extra) {
    const Kernel *kernel = (const Kernel *)function;
    const Described *described = &kernel->described;
    if (config->blockDimX * config->blockDimY * config->blockDimZ != described->threads) return CUDA_ERROR_INVALID_VALUE;
    if (config->gridDimY > 65535 || config->gridDimZ > 65535) return CUDA_ERROR_INVALID_VALUE;
    Operation operation = {.kind = LAUNCH, .kernel = kernel};
    operation.grid[0] = config->gridDimX;
    operation.grid[1] = config->gridDimY;
    operation.grid[2] = config->gridDimZ;
    for (uint32_t i = 0; i < described->count; i++) {
        memcpy(operation.parameters + described->offsets[i], parameters[i], described->sizes[i]);
    }
    return enqueue(config->hStream, &operation);
}

// Devices and contexts. The three that are exported are what a probe calls without cuda.core.

CUresult cuInit(unsigned flags) { return present ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE; }

CUresult cuDriverGetVersion(int *out) {
    *out = version;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *out) {
    *out = present;
    return CUDA_SUCCESS;
}

static CUresult d_cuDeviceGet(CUdevice *out, int index) {
    *out = index;
    return index < present ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

static CUresult d_cuDeviceGetName(char *out, int room, CUdevice device) {
    snprintf(out, room, "fake sm%d%d", major, minor);
    return CUDA_SUCCESS;
}

static CUresult d_cuDeviceGetUuid(CUuuid *out, CUdevice device) {
    memset(out, 7 + device, sizeof *out);
    return CUDA_SUCCESS;
}

static CUresult d_cuDeviceGetAttribute(int *out, CUdevice_attribute attribute, CUdevice device) {
    *out = 1;
    if (attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) *out = major;
    if (attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR) *out = minor;
    if (attribute == CU_DEVICE_ATTRIBUTE_WARP_SIZE) *out = 32;
    return CUDA_SUCCESS;
}

static CUresult d_cuDevicePrimaryCtxRetain(CUcontext *out, CUdevice device) {
    *out = (CUcontext)&contexts[device];
    return CUDA_SUCCESS;
}

static CUresult d_cuDevicePrimaryCtxRelease(CUdevice device) { return CUDA_SUCCESS; }

static CUresult d_cuCtxSetCurrent(CUcontext set) {
    current = set;
    return CUDA_SUCCESS;
}

static CUresult d_cuCtxGetCurrent(CUcontext *out) {
    *out = current;
    return CUDA_SUCCESS;
}

static CUresult d_cuCtxPushCurrent(CUcontext set) { return d_cuCtxSetCurrent(set); }

static CUresult d_cuCtxPopCurrent(CUcontext *out) {
    if (out) *out = current;
    return CUDA_SUCCESS;
}

static CUresult d_cuCtxGetDevice(CUdevice *device) {
    *device = current_gpu();
    return CUDA_SUCCESS;
}

static CUresult d_cuCtxGetId(CUcontext of, unsigned long long *id) {
    *id = 1 + (unsigned long long)((int *)of - contexts);
    return CUDA_SUCCESS;
}

static CUresult d_cuCtxSynchronize(void) { return run_until(&default_stream, default_stream.queue.count); }

static CUresult d_cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    *least = *greatest = 0;
    return CUDA_SUCCESS;
}

#define NAMED(error) {error, #error}
static const struct {
    CUresult error;
    const char *name;
} ERRORS[] = {
    NAMED(CUDA_ERROR_OUT_OF_MEMORY),   NAMED(CUDA_ERROR_DEVICE_UNAVAILABLE), NAMED(CUDA_ERROR_INVALID_CONTEXT),
    NAMED(CUDA_ERROR_INVALID_VALUE),   NAMED(CUDA_ERROR_NO_BINARY_FOR_GPU),  NAMED(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED),
    NAMED(CUDA_ERROR_ILLEGAL_ADDRESS), NAMED(CUDA_ERROR_INVALID_HANDLE),
};

static CUresult d_cuGetErrorName(CUresult error, const char **out) {
    *out = "CUDA_ERROR_UNKNOWN";
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++) {
        if (ERRORS[i].error == error) *out = ERRORS[i].name;
    }
    return CUDA_SUCCESS;
}

static CUresult d_cuGetErrorString(CUresult error, const char **out) {
    *out = "an error of the fake driver";
    return CUDA_SUCCESS;
}

// What there is, by name. For anything else a driver says that it was not found, and cuda.core names it.

#define ENTRY(name) {#name, (void *)d_##name}
static const struct {
    const char *name;
    void *function;
} ENTRIES[] = {
    {"cuInit", (void *)cuInit},
    {"cuDriverGetVersion", (void *)cuDriverGetVersion},
    {"cuDeviceGetCount", (void *)cuDeviceGetCount},
    {"cuDeviceGetDefaultMemPool", (void *)d_cuDeviceGetMemPool},
    {"cuEventRecordWithFlags", (void *)d_cuEventRecord},
    ENTRY(cuStreamCreateWithPriority), ENTRY(cuStreamDestroy), ENTRY(cuStreamSynchronize), ENTRY(cuStreamGetDevice),
    ENTRY(cuStreamGetFlags), ENTRY(cuStreamGetPriority), ENTRY(cuStreamIsCapturing), ENTRY(cuStreamBeginCapture),
    ENTRY(cuStreamEndCapture), ENTRY(cuEventCreate), ENTRY(cuEventDestroy), ENTRY(cuEventRecord),
    ENTRY(cuEventSynchronize), ENTRY(cuGraphInstantiateWithParams), ENTRY(cuGraphInstantiateWithFlags),
    ENTRY(cuGraphLaunch), ENTRY(cuGraphUpload), ENTRY(cuGraphDestroy), ENTRY(cuGraphExecDestroy),
    ENTRY(cuUserObjectCreate), ENTRY(cuUserObjectRelease), ENTRY(cuUserObjectRetain), ENTRY(cuGraphRetainUserObject),
    ENTRY(cuGraphReleaseUserObject), ENTRY(cuMemAllocFromPoolAsync), ENTRY(cuMemAllocAsync), ENTRY(cuMemAlloc),
    ENTRY(cuMemFree), ENTRY(cuMemFreeAsync), ENTRY(cuMemHostAlloc), ENTRY(cuMemAllocHost), ENTRY(cuMemFreeHost),
    ENTRY(cuMemcpyAsync), ENTRY(cuMemsetD8Async), ENTRY(cuMemGetInfo), ENTRY(cuDeviceGetMemPool),
    ENTRY(cuMemPoolSetAttribute), ENTRY(cuMemPoolGetAttribute), ENTRY(cuPointerGetAttributes),
    ENTRY(cuLibraryLoadData), ENTRY(cuLibraryUnload), ENTRY(cuLibraryGetKernel), ENTRY(cuKernelGetFunction),
    ENTRY(cuKernelGetLibrary), ENTRY(cuKernelGetParamInfo), ENTRY(cuLaunchKernelEx), ENTRY(cuDeviceGet),
    ENTRY(cuDeviceGetName), ENTRY(cuDeviceGetUuid), ENTRY(cuDeviceGetAttribute), ENTRY(cuDevicePrimaryCtxRetain),
    ENTRY(cuDevicePrimaryCtxRelease), ENTRY(cuCtxSetCurrent), ENTRY(cuCtxGetCurrent), ENTRY(cuCtxPushCurrent),
    ENTRY(cuCtxPopCurrent), ENTRY(cuCtxGetDevice), ENTRY(cuCtxGetId), ENTRY(cuCtxSynchronize),
    ENTRY(cuCtxGetStreamPriorityRange), ENTRY(cuGetErrorName), ENTRY(cuGetErrorString),
};

CUresult cuGetProcAddress_v2(const char *name, void **out, int asked, cuuint64_t flags,
                             CUdriverProcAddressQueryResult *found) {
    *out = NULL;
    if (!strcmp(name, "cuGetProcAddress")) *out = (void *)cuGetProcAddress_v2;
    if (!strcmp(name, "cuStreamGetCtx")) *out = asked >= 12050 ? (void *)d_cuStreamGetCtx_v2 : (void *)d_cuStreamGetCtx;
    if (!strcmp(name, "cuStreamGetCaptureInfo")) {
        *out = asked >= 12030 ? (void *)d_cuStreamGetCaptureInfo_v3 : (void *)d_cuStreamGetCaptureInfo_v2;
    }
    for (size_t i = 0; i < sizeof ENTRIES / sizeof *ENTRIES && !*out; i++) {
        if (!strcmp(ENTRIES[i].name, name)) *out = ENTRIES[i].function;
    }
    if (found) *found = *out ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return *out ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

CUresult cuGetProcAddress(const char *name, void **out, int asked, cuuint64_t flags) {
    return cuGetProcAddress_v2(name, out, asked, flags, NULL);
}
