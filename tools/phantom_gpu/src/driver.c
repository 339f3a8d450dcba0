/* The driver's own calls: devices, and the virtual memory behind torch's expandable segments. */
#include <cuda.h>
#include <pthread.h>
#include <unistd.h>
#include <string.h>
#include "phantom.h"

int phantom_current_card(void);
int phantom_driver_context(void);
int phantom_device_card(int device);
int phantom_device_count(void);

static char context;

API CUresult cuInit(unsigned f) { (void)f; return CUDA_SUCCESS; }
API CUresult cuDriverGetVersion(int *v) { *v = phantom_world()->driver_cuda; return CUDA_SUCCESS; }
API CUresult cuDeviceGet(CUdevice *d, int i) { *d = i; return phantom_device_card(i) < 0 ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS; }
API CUresult cuDeviceGetCount(int *n) { *n = phantom_device_count(); return CUDA_SUCCESS; }
API CUresult cuDeviceGetAttribute(int *v, CUdevice_attribute a, CUdevice d) {
  if (phantom_device_card(d) < 0) return CUDA_ERROR_INVALID_DEVICE;
  const card_t *card = &phantom_world()->card[phantom_device_card(d)];
  switch (a) {
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED: *v = 1; break;
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED: *v = 1; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *v = card->major; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *v = card->minor; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *v = card->sms; break;
    default: *v = 0;
  }
  return CUDA_SUCCESS;
}
API CUresult cuCtxGetCurrent(CUcontext *c) { *c = (CUcontext)&context; return CUDA_SUCCESS; }
API CUresult cuCtxSetCurrent(CUcontext c) { (void)c; return CUDA_SUCCESS; }
API CUresult cuDevicePrimaryCtxGetState(CUdevice d, unsigned *f, int *active) {
  *f = 0;
  *active = 0;
  slot_t slots[MAX_SLOTS];
  int card = phantom_device_card(d);
  int found = card < 0 ? 0 : phantom_card_slots(card, slots, MAX_SLOTS);
  for (int i = 0; i < found; i++)
    if (slots[i].pid == getpid() && slots[i].context) *active = 1;
  return CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice d) { (void)d; *c = (CUcontext)&context; return (CUresult)phantom_driver_context(); }
API CUresult cuGetErrorString(CUresult e, const char **s) {
  *s = e == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : e ? "invalid argument" : "no error";
  return CUDA_SUCCESS;
}

/* Physical memory: taken from the card when it is created, given back when it is neither held nor mapped. */
typedef struct mapping { CUdeviceptr at; size_t size; struct memory *memory; struct mapping *next; } mapping_t;
typedef struct memory { size_t size; int card, held, mapped; } memory_t;
static mapping_t *mappings;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void settle(memory_t *m) {
  if (m->held || m->mapped) return;
  phantom_give(m->card, m->size);
  free(m);
}
API CUresult cuMemGetAllocationGranularity(size_t *g, const CUmemAllocationProp *p, CUmemAllocationGranularity_flags o) { (void)p; (void)o; *g = GRANULE; return CUDA_SUCCESS; }
API CUresult cuMemAddressReserve(CUdeviceptr *p, size_t size, size_t alignment, CUdeviceptr addr, unsigned long long flags) {
  (void)alignment; (void)addr; (void)flags;
  *p = phantom_reserve(size, phantom_current_card());
  return *p ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
API CUresult cuMemAddressFree(CUdeviceptr p, size_t size) { (void)size; return phantom_release(p) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; }
API CUresult cuMemCreate(CUmemGenericAllocationHandle *h, size_t size, const CUmemAllocationProp *prop, unsigned long long flags) {
  (void)flags;
  int failed = phantom_driver_context();
  if (failed) return (CUresult)failed;
  if (!size || size % GRANULE) return CUDA_ERROR_INVALID_VALUE;
  int card = phantom_device_card(prop->location.id);
  if (card < 0) return CUDA_ERROR_INVALID_DEVICE;
  if (phantom_take(card, size)) return CUDA_ERROR_OUT_OF_MEMORY;
  memory_t *m = calloc(1, sizeof *m);
  *m = (memory_t){size, card, 1, 0};
  *h = (CUmemGenericAllocationHandle)(uintptr_t)m;
  return CUDA_SUCCESS;
}
API CUresult cuMemRelease(CUmemGenericAllocationHandle h) {
  memory_t *m = (memory_t *)(uintptr_t)h;
  pthread_mutex_lock(&lock);
  m->held = 0;
  settle(m);
  pthread_mutex_unlock(&lock);
  return CUDA_SUCCESS;
}
API CUresult cuMemMap(CUdeviceptr at, size_t size, size_t offset, CUmemGenericAllocationHandle h, unsigned long long flags) {
  (void)offset; (void)flags;
  memory_t *m = (memory_t *)(uintptr_t)h;
  mapping_t *mapping = calloc(1, sizeof *mapping);
  pthread_mutex_lock(&lock);
  m->mapped++;
  *mapping = (mapping_t){at, size, m, mappings};
  mappings = mapping;
  pthread_mutex_unlock(&lock);
  phantom_place(at, m->card);
  return CUDA_SUCCESS;
}
API CUresult cuMemUnmap(CUdeviceptr at, size_t size) {
  int found = 0;
  pthread_mutex_lock(&lock);
  for (mapping_t **m = &mappings; *m;) {
    mapping_t *dead = *m;
    if (dead->at < at || dead->at + dead->size > at + size) { m = &dead->next; continue; }
    *m = dead->next;
    dead->memory->mapped--;
    settle(dead->memory);
    free(dead);
    found = 1;
  }
  pthread_mutex_unlock(&lock);
  phantom_forget((void *)(uintptr_t)at, size);
  return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
API CUresult cuMemSetAccess(CUdeviceptr at, size_t size, const CUmemAccessDesc *d, size_t n) { (void)at; (void)size; (void)d; (void)n; return CUDA_SUCCESS; }
API CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *size, CUdeviceptr at) {
  uintptr_t begin;
  size_t length;
  if (!phantom_range(at, &begin, &length)) return CUDA_ERROR_NOT_FOUND;
  if (base) *base = begin;
  if (size) *size = length;
  return CUDA_SUCCESS;
}
