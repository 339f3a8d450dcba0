/* A CUDA runtime without a device: memory is address space, kernels do nothing (a few are computed, kernels.c), every
 * query answers like the card that the world file describes.
 *
 * PHANTOM_LAUNCHES   file for a count of launches per kernel name, written at exit
 */
#define _GNU_SOURCE
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "phantom.h"

/* ------------------------------------------------------------------------------------------------- state and errors */

static int visible[MAX_CARDS], visible_count = -1, first_pid;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread int current;
static __thread cudaError_t last_error;
static cudaError_t sticky; /* after a fault every call of the process says so */
static unsigned long launches;

static cudaError_t fail_in(const char *where, cudaError_t e) {
  if (phantom_says("errors")) fprintf(stderr, "[phantom] %s returns %d\n", where, (int)e);
  return last_error = e;
}
#define fail(e) fail_in(__func__, e)

/* The driver starts at the first call of a process. A process that was forked afterwards cannot use it. */
static cudaError_t start(void) {
  const world_t *w = phantom_world();
  pthread_mutex_lock(&lock);
  if (!first_pid) {
    first_pid = getpid();
    visible_count = phantom_visible(visible);
  }
  pthread_mutex_unlock(&lock);
  if (first_pid != getpid()) return cudaErrorInitializationError;
  if (w->driver_cuda / 1000 < CUDART_VERSION / 1000) return cudaErrorInsufficientDriver;
  return visible_count ? cudaSuccess : cudaErrorNoDevice;
}
static int card_number(void) { return visible[current]; }
static const card_t *card(void) { return &phantom_world()->card[visible[current]]; }
static cudaError_t with_context(void) {
  cudaError_t e = start();
  if (e) return e;
  if (sticky) return sticky;
  return phantom_make_context(card_number()) ? cudaErrorMemoryAllocation : cudaSuccess;
}
#define START() do { cudaError_t e_ = start(); if (e_) return fail(e_); } while (0)
#define CONTEXT() do { cudaError_t e_ = with_context(); if (e_) return fail(e_); } while (0)

API int phantom_current_card(void) { return start() ? -1 : card_number(); }
API int phantom_driver_context(void) { return (int)with_context(); }
API int phantom_device_card(int device) { return start() || device < 0 || device >= visible_count ? -1 : visible[device]; }
API int phantom_device_count(void) { return start() ? 0 : visible_count; }
API int phantom_device_number(int card_) {
  for (int i = 0; i < visible_count; i++)
    if (visible[i] == card_) return i;
  return 0;
}

/* ------------------------------------------------------------------------------------------------- device memory */

/* torch's allocator tells when it hands a block out again; what the block held before is then no longer known. */
static void watch_allocator(void) {
  static int tried;
  if (tried) return;
  tried = 1;
  const char *hook = getenv("PHANTOM_HOOK");
  void *library = hook ? dlopen(hook, RTLD_NOW | RTLD_LOCAL) : 0;
  void (*attach)(void) = library ? (void (*)(void))dlsym(library, "phantom_attach") : 0;
  if (attach) attach();
  else fprintf(stderr, "[phantom] torch's allocator is not watched: %s\n", hook ? dlerror() : "PHANTOM_HOOK is not set");
}

API cudaError_t cudaMalloc(void **out, size_t size) {
  CONTEXT();
  *out = 0;
  if (!size) return cudaSuccess;
  watch_allocator();
  size_t need = (size + GRANULE - 1) & ~(GRANULE - 1);
  if (phantom_take(card_number(), need)) return fail(cudaErrorMemoryAllocation);
  uintptr_t at = phantom_reserve(need, card_number());
  if (!at) { phantom_give(card_number(), need); return fail(cudaErrorMemoryAllocation); }
  *out = (void *)at;
  return cudaSuccess;
}
static int host_free(void *p);
API cudaError_t cudaFree(void *p) {
  CONTEXT();
  if (!p) return cudaSuccess;
  int on = phantom_card_of(p);
  size_t size = on >= 0 ? phantom_release((uintptr_t)p) : 0;
  if (size) { phantom_give(on, size); return cudaSuccess; }
  return host_free(p) ? cudaSuccess : fail(cudaErrorInvalidValue); /* managed memory is given back through cudaFree */
}
API cudaError_t cudaMallocAsync(void **p, size_t n, cudaStream_t s) { (void)s; return cudaMalloc(p, n); }
API cudaError_t cudaFreeAsync(void *p, cudaStream_t s) { (void)s; return cudaFree(p); }
API cudaError_t cudaMemGetInfo(size_t *free_, size_t *total) {
  CONTEXT();
  size_t used = phantom_card_used(card_number());
  *total = card()->memory;
  *free_ = used < *total ? *total - used : 0;
  return cudaSuccess;
}

/* ------------------------------------------------------------------------------------------------------ host memory */

typedef struct host { void *p; size_t n; int managed, owned; struct host *next; } host_t;
static host_t *hosts;
static void remember(void *p, size_t n, int managed, int owned) {
  host_t *h = malloc(sizeof *h);
  pthread_mutex_lock(&lock);
  *h = (host_t){p, n, managed, owned, hosts};
  hosts = h;
  pthread_mutex_unlock(&lock);
}
static cudaError_t host_new(void **out, size_t n, int managed) {
  CONTEXT();
  /* lazily zero, so that an optimizer's managed state costs nothing until it is touched */
  void *p = mmap(0, n ? n : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return fail(cudaErrorMemoryAllocation);
  remember(p, n ? n : 1, managed, 1);
  *out = p;
  return cudaSuccess;
}
static int host_free(void *p) {
  int found = 0;
  pthread_mutex_lock(&lock);
  for (host_t **h = &hosts; *h; h = &(*h)->next)
    if ((*h)->p == p) {
      host_t *dead = *h;
      *h = dead->next;
      if (dead->owned) munmap(dead->p, dead->n);
      free(dead);
      found = 1;
      break;
    }
  pthread_mutex_unlock(&lock);
  return found;
}
API cudaError_t cudaHostAlloc(void **p, size_t n, unsigned f) { (void)f; return host_new(p, n, 0); }
API cudaError_t cudaMallocHost(void **p, size_t n) { return host_new(p, n, 0); }
API cudaError_t cudaMallocManaged(void **p, size_t n, unsigned f) { (void)f; return host_new(p, n, 1); }
API cudaError_t cudaFreeHost(void *p) { host_free(p); return cudaSuccess; }
API cudaError_t cudaHostRegister(void *p, size_t n, unsigned f) { (void)f; CONTEXT(); remember(p, n, 0, 0); return cudaSuccess; }
API cudaError_t cudaHostUnregister(void *p) { host_free(p); return cudaSuccess; }
API cudaError_t cudaHostGetDevicePointer(void **d, void *h, unsigned f) { (void)f; *d = h; return cudaSuccess; }

API cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
  START();
  memset(a, 0, sizeof *a);
  if (phantom_is_device(p)) {
    a->type = cudaMemoryTypeDevice;
    a->device = phantom_device_number(phantom_card_of(p));
    a->devicePointer = (void *)p;
    return cudaSuccess;
  }
  pthread_mutex_lock(&lock);
  host_t *h = hosts;
  while (h && !((char *)p >= (char *)h->p && (char *)p < (char *)h->p + h->n)) h = h->next;
  int managed = h && h->managed;
  pthread_mutex_unlock(&lock);
  a->hostPointer = (void *)p;
  a->device = h ? current : cudaInvalidDeviceId;
  a->type = !h ? cudaMemoryTypeUnregistered : managed ? cudaMemoryTypeManaged : cudaMemoryTypeHost;
  if (h) a->devicePointer = (void *)p;
  return cudaSuccess;
}

/* ------------------------------------------------------------------------------------------------------------ copies */

static void copy(void *to, const void *from, size_t n) {
  if (!n) return;
  int d = phantom_is_device(to), s = phantom_is_device(from);
  if (d && s) phantom_copy(to, from, n);
  else if (d) phantom_write(to, from, n);
  else if (s) phantom_read(to, from, n);
  else memmove(to, from, n);
}
API cudaError_t cudaMemcpy(void *d, const void *s, size_t n, enum cudaMemcpyKind k) { (void)k; CONTEXT(); copy(d, s, n); return cudaSuccess; }
API cudaError_t cudaMemcpyAsync(void *d, const void *s, size_t n, enum cudaMemcpyKind k, cudaStream_t t) { (void)t; return cudaMemcpy(d, s, n, k); }
API cudaError_t cudaMemcpy2DAsync(void *d, size_t dp, const void *s, size_t sp, size_t w, size_t h, enum cudaMemcpyKind k, cudaStream_t t) {
  (void)k; (void)t;
  CONTEXT();
  for (size_t i = 0; i < h; i++) copy((char *)d + i * dp, (const char *)s + i * sp, w);
  return cudaSuccess;
}
API cudaError_t cudaMemcpyPeerAsync(void *d, int dd, const void *s, int sd, size_t n, cudaStream_t t) { (void)dd; (void)sd; (void)t; return cudaMemcpy(d, s, n, 0); }
API cudaError_t cudaMemcpyToSymbol(const void *sym, const void *s, size_t n, size_t o, enum cudaMemcpyKind k) { (void)sym; (void)s; (void)n; (void)o; (void)k; CONTEXT(); return cudaSuccess; }
API cudaError_t cudaMemset(void *d, int v, size_t n) {
  CONTEXT();
  if (phantom_is_device(d)) phantom_fill(d, v, n);
  else memset(d, v, n);
  return cudaSuccess;
}
API cudaError_t cudaMemsetAsync(void *d, int v, size_t n, cudaStream_t t) { (void)t; return cudaMemset(d, v, n); }
API cudaError_t cudaMemPrefetchAsync(const void *p, size_t n, struct cudaMemLocation l, unsigned f, cudaStream_t t) { (void)p; (void)n; (void)l; (void)f; (void)t; CONTEXT(); return cudaSuccess; }
API cudaError_t cudaGetSymbolAddress(void **p, const void *s) { (void)s; CONTEXT(); static char symbol[4096]; *p = symbol; return cudaSuccess; }

/* ---------------------------------------------------------------------------------------------------- device queries */

API cudaError_t cudaGetDeviceCount(int *n) {
  cudaError_t e = start();
  *n = e ? 0 : visible_count;
  return e ? fail(e) : cudaSuccess;
}
API cudaError_t cudaGetDevice(int *d) { START(); *d = current; return cudaSuccess; }
API cudaError_t cudaSetDevice(int d) {
  START();
  if (d < 0 || d >= visible_count) return fail(cudaErrorInvalidDevice);
  current = d;
  CONTEXT(); /* since CUDA 12 this makes the context */
  return cudaSuccess;
}
API cudaError_t cudaDriverGetVersion(int *v) { *v = phantom_world()->driver_cuda; return cudaSuccess; }
API cudaError_t cudaRuntimeGetVersion(int *v) { *v = CUDART_VERSION; return cudaSuccess; }
API cudaError_t cudaGetLastError(void) { cudaError_t e = last_error; last_error = sticky; return e; }
API cudaError_t cudaPeekAtLastError(void) { return last_error; }

static const struct { cudaError_t error; const char *name, *text; } ERRORS[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorAssert, "cudaErrorAssert", "device-side assert triggered"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};
API const char *cudaGetErrorString(cudaError_t e) {
  for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
    if (ERRORS[i].error == e) return ERRORS[i].text;
  return "unrecognized error code";
}
API const char *cudaGetErrorName(cudaError_t e) {
  for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
    if (ERRORS[i].error == e) return ERRORS[i].name;
  return "cudaErrorUnknown";
}
API cudaError_t cudaDeviceCanAccessPeer(int *can, int a, int b) { (void)a; (void)b; *can = 0; return cudaSuccess; }
API cudaError_t cudaDeviceGetPCIBusId(char *s, int n, int d) { snprintf(s, n, "0000:%02x:00.0", phantom_device_card(d) + 1); return cudaSuccess; }

static void uuid_bytes(const char *text, unsigned char *out) {
  for (int i = 0; i < 16; i++) {
    while (*text == '-') text++;
    unsigned byte = 0;
    sscanf(text, "%2x", &byte);
    out[i] = (unsigned char)byte;
    text += 2;
  }
}

API cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
  START();
  if (device < 0 || device >= visible_count) return fail(cudaErrorInvalidDevice);
  const card_t *c = &phantom_world()->card[visible[device]];
  memset(p, 0, sizeof *p);
  snprintf(p->name, sizeof p->name, "%s", c->name);
  uuid_bytes(c->uuid, (unsigned char *)p->uuid.bytes);
  p->totalGlobalMem = c->memory;
  p->sharedMemPerBlock = 49152;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->warpSize = 32;
  p->memPitch = 2147483647;
  p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->totalConstMem = 65536;
  p->major = c->major;
  p->minor = c->minor;
  p->textureAlignment = p->surfaceAlignment = 512;
  p->texturePitchAlignment = 32;
  p->multiProcessorCount = c->sms;
  p->canMapHostMemory = p->concurrentKernels = p->unifiedAddressing = p->managedMemory = 1;
  p->maxTexture1D = p->maxTexture2D[0] = p->maxTexture2D[1] = 131072;
  p->pciBusID = visible[device] + 1;
  p->asyncEngineCount = 3;
  p->ECCEnabled = c->ecc;
  p->memoryBusWidth = c->bus_bits;
  p->l2CacheSize = (int)c->l2;
  p->persistingL2CacheMaxSize = (int)(c->l2 / 4 * 3);
  p->maxThreadsPerMultiProcessor = c->threads_sm;
  p->streamPrioritiesSupported = p->globalL1CacheSupported = p->localL1CacheSupported = 1;
  p->sharedMemPerMultiprocessor = c->smem_sm;
  p->concurrentManagedAccess = p->computePreemptionSupported = p->cooperativeLaunch = 1;
  p->canUseHostPointerForRegisteredMem = p->hostRegisterSupported = p->memoryPoolsSupported = 1;
  p->sharedMemPerBlockOptin = c->smem_optin;
  p->maxBlocksPerMultiProcessor = c->blocks_sm;
  p->reservedSharedMemPerBlock = 1024;
  p->clusterLaunch = c->major >= 9;
  p->deviceNumaId = p->hostNumaId = -1;
  return cudaSuccess;
}

API cudaError_t cudaDeviceGetAttribute(int *v, enum cudaDeviceAttr a, int device) {
  struct cudaDeviceProp p;
  cudaError_t rc = cudaGetDeviceProperties(&p, device);
  if (rc) return rc;
  const card_t *c = &phantom_world()->card[visible[device]];
  switch (a) {
    case cudaDevAttrMaxThreadsPerBlock: case cudaDevAttrMaxBlockDimX: case cudaDevAttrMaxBlockDimY: *v = 1024; break;
    case cudaDevAttrMaxBlockDimZ: *v = 64; break;
    case cudaDevAttrMaxGridDimX: *v = 2147483647; break;
    case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: *v = 65535; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *v = 49152; break;
    case cudaDevAttrTotalConstantMemory: *v = 65536; break;
    case cudaDevAttrWarpSize: *v = 32; break;
    case cudaDevAttrMaxRegistersPerBlock: case cudaDevAttrMaxRegistersPerMultiprocessor: *v = 65536; break;
    case cudaDevAttrClockRate: *v = c->max_sm_mhz * 1000; break;
    case cudaDevAttrMemoryClockRate: *v = c->memory_mhz * 1000; break;
    case cudaDevAttrMultiProcessorCount: *v = p.multiProcessorCount; break;
    case cudaDevAttrGlobalMemoryBusWidth: *v = p.memoryBusWidth; break;
    case cudaDevAttrL2CacheSize: *v = p.l2CacheSize; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *v = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrAsyncEngineCount: *v = 3; break;
    case cudaDevAttrComputeCapabilityMajor: *v = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *v = p.minor; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *v = (int)p.sharedMemPerMultiprocessor; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *v = (int)p.sharedMemPerBlockOptin; break;
    case cudaDevAttrReservedSharedMemoryPerBlock: *v = 1024; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *v = p.maxBlocksPerMultiProcessor; break;
    case cudaDevAttrClusterLaunch: *v = p.clusterLaunch; break;
    case cudaDevAttrEccEnabled: *v = p.ECCEnabled; break;
    case cudaDevAttrTextureAlignment: *v = 512; break;
    case cudaDevAttrCanMapHostMemory: case cudaDevAttrConcurrentKernels: case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrManagedMemory: case cudaDevAttrConcurrentManagedAccess: case cudaDevAttrCooperativeLaunch:
    case cudaDevAttrStreamPrioritiesSupported: case cudaDevAttrHostRegisterSupported: case cudaDevAttrMemoryPoolsSupported:
    case cudaDevAttrComputePreemptionSupported: case cudaDevAttrCanUseHostPointerForRegisteredMem:
      *v = 1; break;
    default: *v = 0;
  }
  return cudaSuccess;
}

/* Occupancy is bounded by threads, blocks, shared memory and 64 registers a thread; the kernels' own counts are not read. */
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, const void *f, int threads, size_t smem) {
  (void)f;
  START();
  if (threads <= 0) threads = 1;
  int k = card()->threads_sm / threads, by_registers = 65536 / (64 * threads);
  int by_smem = smem ? (int)(card()->smem_sm / (smem + 1024)) : card()->blocks_sm;
  if (by_registers < k) k = by_registers;
  if (by_smem < k) k = by_smem;
  if (card()->blocks_sm < k) k = card()->blocks_sm;
  *n = k > 0 ? k : 1;
  return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int threads, size_t smem, unsigned fl) {
  (void)fl;
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(n, f, threads, smem);
}
API cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *f) {
  (void)f;
  CONTEXT();
  memset(a, 0, sizeof *a);
  a->maxThreadsPerBlock = 1024;
  a->numRegs = 64;
  /* torch's wheels hold no code for compute capability 8.7 and 8.9: such a card runs what was made for 8.6 */
  a->ptxVersion = a->binaryVersion = card()->major == 8 && card()->minor > 6 ? 86 : card()->major * 10 + card()->minor;
  a->maxDynamicSharedSizeBytes = 49152;
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { START(); *least = 0; *greatest = -5; return cudaSuccess; }
API cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *p, int d) { (void)d; *p = (cudaMemPool_t)0x9001; return cudaSuccess; }
API cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t p, enum cudaMemPoolAttr a, void *v) { (void)p; (void)a; *(uint64_t *)v = 0; return cudaSuccess; }

/* ------------------------------------------------------------ streams, events, graphs: all work is done when it is queued */

static void *handle(void) { static uintptr_t next = 0x10000; return (void *)__sync_add_and_fetch(&next, 64); }
API cudaError_t cudaDeviceSynchronize(void) { CONTEXT(); return cudaSuccess; }
API cudaError_t cudaStreamCreate(cudaStream_t *s) { CONTEXT(); *s = handle(); return cudaSuccess; }
API cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned f) { (void)f; return cudaStreamCreate(s); }
API cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned f, int p) { (void)f; (void)p; return cudaStreamCreate(s); }
API cudaError_t cudaStreamGetPriority(cudaStream_t s, int *p) { (void)s; *p = 0; return cudaSuccess; }
API cudaError_t cudaStreamSynchronize(cudaStream_t s) { (void)s; CONTEXT(); return cudaSuccess; }
API cudaError_t cudaStreamQuery(cudaStream_t s) { (void)s; CONTEXT(); return cudaSuccess; }
API cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned f) { (void)s; (void)e; (void)f; CONTEXT(); return cudaSuccess; }
API cudaError_t cudaStreamAddCallback(cudaStream_t s, cudaStreamCallback_t cb, void *u, unsigned f) { (void)f; cb(s, cudaSuccess, u); return cudaSuccess; }
API cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t fn, void *u) { (void)s; fn(u); return cudaSuccess; }
API cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *m) { (void)m; return cudaSuccess; }

/* An event remembers when it was recorded on the host: times are those of the host's work, not of a card's. */
typedef struct { struct timespec at; } event_t;
API cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned f) { (void)f; CONTEXT(); *e = calloc(1, sizeof(event_t)); return cudaSuccess; }
API cudaError_t cudaEventCreate(cudaEvent_t *e) { return cudaEventCreateWithFlags(e, 0); }
API cudaError_t cudaEventDestroy(cudaEvent_t e) { free(e); return cudaSuccess; }
API cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) { (void)s; CONTEXT(); clock_gettime(CLOCK_MONOTONIC, &((event_t *)e)->at); return cudaSuccess; }
API cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned f) { (void)f; return cudaEventRecord(e, s); }
API cudaError_t cudaEventQuery(cudaEvent_t e) { (void)e; CONTEXT(); return cudaSuccess; }
API cudaError_t cudaEventSynchronize(cudaEvent_t e) { (void)e; CONTEXT(); return cudaSuccess; }
API cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b) {
  CONTEXT();
  const struct timespec *from = &((event_t *)a)->at, *to = &((event_t *)b)->at;
  *ms = (float)((to->tv_sec - from->tv_sec) * 1e3 + (to->tv_nsec - from->tv_nsec) / 1e6);
  return cudaSuccess;
}

/* One capture at a time: what is launched meanwhile belongs to a graph that does nothing when it is replayed. */
static cudaStream_t capturing;
static unsigned long long capture_id;
static cudaGraph_t captured;
API cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode m) { (void)m; CONTEXT(); capturing = s; capture_id++; captured = handle(); return cudaSuccess; }
API cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t s, cudaGraph_t g, const cudaGraphNode_t *d, const cudaGraphEdgeData *e, size_t n, enum cudaStreamCaptureMode m) {
  (void)d; (void)e; (void)n; (void)m;
  CONTEXT();
  capturing = s; capture_id++; captured = g;
  return cudaSuccess;
}
API cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g) { (void)s; CONTEXT(); capturing = 0; *g = captured; return cudaSuccess; }
API cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *c) {
  START();
  *c = capturing && s == capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
API cudaError_t cudaStreamGetCaptureInfo(cudaStream_t s, enum cudaStreamCaptureStatus *c, unsigned long long *id, cudaGraph_t *g,
                                         const cudaGraphNode_t **d, const cudaGraphEdgeData **e, size_t *n) {
  cudaError_t rc = cudaStreamIsCapturing(s, c);
  if (rc) return rc;
  if (id) *id = capture_id;
  if (g) *g = captured;
  if (d) *d = 0;
  if (e) *e = 0;
  if (n) *n = 0;
  return cudaSuccess;
}
API cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long f) { (void)g; (void)f; CONTEXT(); *x = handle(); return cudaSuccess; }
API cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s) { (void)x; (void)s; CONTEXT(); return cudaSuccess; }
API cudaError_t cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t *nodes, size_t *n) { (void)g; (void)nodes; *n = 0; return cudaSuccess; }

/* A driver entry point is asked for by name; one that is not modelled succeeds and does nothing. */
static int driver_stub(void) { return 0; }
API cudaError_t cudaGetDriverEntryPointByVersion(const char *sym, void **fn, unsigned v, unsigned long long fl, enum cudaDriverEntryPointQueryResult *st) {
  (void)v; (void)fl;
  *fn = dlsym(RTLD_DEFAULT, sym);
  if (!*fn) { /* renamed when a parameter was widened */
    char second[128];
    snprintf(second, sizeof second, "%s_v2", sym);
    *fn = dlsym(RTLD_DEFAULT, second);
  }
  if (!*fn) { phantom_note(sym); *fn = (void *)driver_stub; }
  if (st) *st = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

/* ------------------------------------------------------------------------------------------------------------ kernels */

typedef struct { const void *host; const char *name; unsigned long launches; } kernel_t;
#define KERNEL_SLOTS (1u << 20)
static kernel_t *kernels;
static size_t kernel_count;
static kernel_t *kernel_slot(const void *host) {
  if (!kernels) kernels = mmap(0, KERNEL_SLOTS * sizeof *kernels, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  size_t i = ((uintptr_t)host >> 4) * 0x9E3779B97F4A7C15ull & (KERNEL_SLOTS - 1);
  while (kernels[i].host && kernels[i].host != host) i = (i + 1) & (KERNEL_SLOTS - 1);
  return &kernels[i];
}
static void report_launches(void) {
  FILE *f = fopen(getenv("PHANTOM_LAUNCHES"), "w");
  if (!f) return;
  for (size_t i = 0; i < KERNEL_SLOTS; i++)
    if (kernels[i].launches) fprintf(f, "%lu\t%s\n", kernels[i].launches, kernels[i].name ? kernels[i].name : "?");
  fclose(f);
}
API unsigned long phantom_launches(void) { return launches; }

static cudaError_t launch(const void *host, void **arguments) {
  CONTEXT();
  const world_t *w = phantom_world();
  pthread_mutex_lock(&lock);
  unsigned long number = ++launches;
  if (number == 1 && getenv("PHANTOM_LAUNCHES")) atexit(report_launches);
  kernel_t *k = kernel_slot(host);
  k->launches++;
  const char *name = k->name;
  pthread_mutex_unlock(&lock);
  if (w->fault && w->fault_launch && number >= w->fault_launch) return fail(sticky = (cudaError_t)w->fault);
  if (name && arguments) phantom_compute(name, arguments);
  return cudaSuccess;
}
static __thread struct { dim3 grid, block; size_t smem; cudaStream_t stream; } call;

API void **__cudaRegisterFatBinary(void *f) { (void)f; static void *h; return &h; }
API void __cudaRegisterFatBinaryEnd(void **h) { (void)h; }
API void __cudaUnregisterFatBinary(void **h) { (void)h; }
API char __cudaInitModule(void **h) { (void)h; return 1; }
API void __cudaRegisterVar(void **h, char *a, char *b, const char *c, int d, size_t e, int f, int g) { (void)h; (void)a; (void)b; (void)c; (void)d; (void)e; (void)f; (void)g; }
API void __cudaRegisterManagedVar(void **h, void **a, char *b, const char *c, int d, size_t e, int f, int g) { (void)h; (void)a; (void)b; (void)c; (void)d; (void)e; (void)f; (void)g; }
API void __cudaRegisterFunction(void **h, const char *host, char *dev, const char *name, int n, uint3 *a, uint3 *b, dim3 *c, dim3 *d, int *e) {
  (void)h; (void)dev; (void)n; (void)a; (void)b; (void)c; (void)d; (void)e;
  if (kernel_count * 2 > KERNEL_SLOTS) return;
  kernel_t *k = kernel_slot(host);
  if (!k->host) kernel_count++;
  k->host = host;
  k->name = name;
}
API unsigned __cudaPushCallConfiguration(dim3 g, dim3 b, size_t m, struct CUstream_st *s) { call.grid = g; call.block = b; call.smem = m; call.stream = s; return 0; }
API cudaError_t __cudaPopCallConfiguration(dim3 *g, dim3 *b, size_t *m, void *s) { *g = call.grid; *b = call.block; *m = call.smem; *(cudaStream_t *)s = call.stream; return cudaSuccess; }
API cudaError_t __cudaGetKernel(cudaKernel_t *k, const void *host) { *k = (cudaKernel_t)host; return cudaSuccess; }
API cudaError_t __cudaLaunchKernel(cudaKernel_t k, dim3 g, dim3 b, void **a, size_t m, cudaStream_t s) { (void)g; (void)b; (void)m; (void)s; return launch(k, a); }
API cudaError_t cudaLaunchKernel(const void *k, dim3 g, dim3 b, void **a, size_t m, cudaStream_t s) { (void)g; (void)b; (void)m; (void)s; return launch(k, a); }
API cudaError_t cudaLaunchCooperativeKernel(const void *k, dim3 g, dim3 b, void **a, size_t m, cudaStream_t s) { (void)g; (void)b; (void)m; (void)s; return launch(k, a); }
API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *k, void **a) { (void)c; return launch(k, a); }
