/* NVML: what the driver says about the cards and about the processes on them, from the world file and the ledger.
 *
 * Written from the calls that nvidia-ml-py and torch make; a function that is not here is "not found" for both, as with
 * an old driver. A GPU that is cut into MIG instances is listed whole; the instances are asked for by their UUID.
 */
#include <string.h>
#include <time.h>
#include "phantom.h"

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, SMALL = 7, LOST = 15 };
typedef void *device_t;

static int started;

/* The whole GPUs, in order: the first card of each. A handle is 1 + that card's index, an instance's 1,001 + its own. */
static int whole(int *out) {
  const world_t *w = phantom_world();
  int found = 0;
  for (int i = 0; i < w->cards; i++) {
    int seen = 0;
    for (int j = 0; j < i; j++) seen |= w->card[i].parent[0] && !strcmp(w->card[i].parent, w->card[j].parent);
    if (!seen) out[found++] = i;
  }
  return found;
}
static device_t handle_of(int card, int instance) { return (device_t)(uintptr_t)((instance ? 1001 : 1) + card); }
static const card_t *card_of(device_t d, int *number) {
  uintptr_t n = (uintptr_t)d;
  *number = (int)(n > 1000 ? n - 1001 : n - 1);
  return n && *number < phantom_world()->cards ? &phantom_world()->card[*number] : 0;
}
static int is_instance(device_t d) { return (uintptr_t)d > 1000; }

static int refusal(void) {
  if (!started) return UNINITIALIZED;
  return phantom_world()->nvml == NVML_LOST ? LOST : OK;
}
#define CARD(d)                      \
  int number, refused_ = refusal();  \
  const card_t *c = card_of(d, &number); \
  if (refused_) return refused_;     \
  if (!c) return INVALID;
#define WHOLE_CARD(d) CARD(d) if (is_instance(d)) return NOT_SUPPORTED;

API int nvmlInit_v2(void) {
  if (phantom_world()->nvml == NVML_DENIED) return NO_PERMISSION;
  started++;
  return OK;
}
API int nvmlInit(void) { return nvmlInit_v2(); }
API int nvmlInitWithFlags(unsigned flags) { (void)flags; return nvmlInit_v2(); }
API int nvmlShutdown(void) { if (!started) return UNINITIALIZED; started--; return OK; }
API const char *nvmlErrorString(int e) {
  switch (e) {
    case OK: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NO_PERMISSION: return "Insufficient Permissions";
    case NOT_FOUND: return "Not Found";
    case SMALL: return "Insufficient Size";
    case LOST: return "GPU is lost";
    default: return "Unknown Error";
  }
}
static int text(char *out, unsigned length, const char *value) {
  if (strlen(value) >= length) return SMALL;
  strcpy(out, value);
  return OK;
}
API int nvmlSystemGetDriverVersion(char *s, unsigned n) { return started ? text(s, n, phantom_world()->driver) : UNINITIALIZED; }
API int nvmlSystemGetNVMLVersion(char *s, unsigned n) { return started ? text(s, n, phantom_world()->driver) : UNINITIALIZED; }
API int nvmlSystemGetCudaDriverVersion_v2(int *v) { if (!started) return UNINITIALIZED; *v = phantom_world()->driver_cuda; return OK; }
API int nvmlSystemGetCudaDriverVersion(int *v) { return nvmlSystemGetCudaDriverVersion_v2(v); }

API int nvmlDeviceGetCount_v2(unsigned *n) { int all[MAX_CARDS]; if (!started) return UNINITIALIZED; *n = (unsigned)whole(all); return OK; }
API int nvmlDeviceGetHandleByIndex_v2(unsigned i, device_t *d) {
  int all[MAX_CARDS], refused_ = refusal();
  if (refused_) return refused_;
  if ((int)i >= whole(all)) return INVALID;
  *d = handle_of(all[i], 0);
  return OK;
}
API int nvmlDeviceGetHandleByUUID(const char *uuid, device_t *d) {
  const world_t *w = phantom_world();
  int refused_ = refusal();
  if (refused_) return refused_;
  for (int i = 0; i < w->cards; i++) {
    const card_t *c = &w->card[i];
    if (!strncmp(uuid, "GPU-", 4) && !strcmp(uuid + 4, c->parent[0] ? c->parent : c->uuid)) { *d = handle_of(i, 0); return OK; }
    if (!strncmp(uuid, "MIG-", 4) && c->parent[0] && !strcmp(uuid + 4, c->uuid)) { *d = handle_of(i, 1); return OK; }
  }
  return NOT_FOUND;
}
API int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, device_t *d) {
  unsigned domain, number;
  if (sscanf(bus, "%x:%x:", &domain, &number) != 2 || !number || (int)number > phantom_world()->cards) return NOT_FOUND;
  *d = handle_of((int)number - 1, 0);
  return OK;
}
API int nvmlDeviceGetUUID(device_t d, char *s, unsigned n) {
  char uuid[64];
  CARD(d)
  if (is_instance(d)) snprintf(uuid, sizeof uuid, "MIG-%s", c->uuid);
  else snprintf(uuid, sizeof uuid, "GPU-%s", c->parent[0] ? c->parent : c->uuid);
  return text(s, n, uuid);
}
API int nvmlDeviceGetName(device_t d, char *s, unsigned n) { CARD(d) return text(s, n, !is_instance(d) && c->parent[0] ? c->parent_name : c->name); }
API int nvmlDeviceGetIndex(device_t d, unsigned *i) {
  int all[MAX_CARDS], found = whole(all);
  CARD(d)
  for (int k = 0; k < found; k++)
    if (all[k] == number) { *i = (unsigned)k; return OK; }
  return NOT_FOUND;
}

/* Used memory of a whole GPU is that of all its instances. */
static int same_gpu(const card_t *a, const card_t *b) { return a == b || (a->parent[0] && !strcmp(a->parent, b->parent)); }
static void memory_of(device_t d, const card_t *c, int number, size_t *total, size_t *kept, size_t *used) {
  const world_t *w = phantom_world();
  *total = *used = 0;
  size_t seen = 0;
  for (int i = 0; i < w->cards; i++) {
    if (is_instance(d) ? i != number : !same_gpu(c, &w->card[i])) continue;
    *total += w->card[i].nvml_memory;
    seen += w->card[i].memory;
    *used += phantom_card_used(i);
  }
  *kept = *total > seen ? *total - seen : 0;
}
typedef struct { unsigned long long total, free, used; } memory_v1;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2;
API int nvmlDeviceGetMemoryInfo(device_t d, memory_v1 *m) {
  size_t total, kept, used;
  CARD(d)
  memory_of(d, c, number, &total, &kept, &used);
  *m = (memory_v1){total, total - kept - used, used + kept};
  return OK;
}
API int nvmlDeviceGetMemoryInfo_v2(device_t d, memory_v2 *m) {
  size_t total, kept, used;
  CARD(d)
  memory_of(d, c, number, &total, &kept, &used);
  *m = (memory_v2){m->version, total, kept, total - kept - used, used};
  return OK;
}

typedef struct { unsigned pid; unsigned long long used; } process_v1;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process_v2;
static int processes(device_t d, unsigned *n, process_v1 *v1, process_v2 *v2) {
  slot_t slots[MAX_SLOTS];
  unsigned found = 0;
  CARD(d)
  if (phantom_world()->nvml != NVML_NO_PROCESSES)
    for (int i = 0; i < phantom_world()->cards; i++)
      if (is_instance(d) ? i == number : same_gpu(c, &phantom_world()->card[i]))
        found += (unsigned)phantom_card_slots(i, slots + found, MAX_SLOTS - (int)found);
  if (found > *n) { *n = found; return SMALL; }
  for (unsigned i = 0; i < found; i++) {
    unsigned long long used = slots[i].context + slots[i].used;
    if (v1) v1[i] = (process_v1){(unsigned)slots[i].pid, used};
    if (v2) v2[i] = (process_v2){(unsigned)slots[i].pid, used, ~0u, ~0u};
  }
  *n = found;
  return OK;
}
API int nvmlDeviceGetComputeRunningProcesses(device_t d, unsigned *n, process_v1 *p) { return processes(d, n, p, 0); }
API int nvmlDeviceGetComputeRunningProcesses_v2(device_t d, unsigned *n, process_v2 *p) { return processes(d, n, 0, p); }
API int nvmlDeviceGetComputeRunningProcesses_v3(device_t d, unsigned *n, process_v2 *p) { return processes(d, n, 0, p); }

API int nvmlDeviceGetCudaComputeCapability(device_t d, int *major, int *minor) { CARD(d) *major = c->major; *minor = c->minor; return OK; }
typedef struct { unsigned gpu, memory; } utilization_t;
API int nvmlDeviceGetUtilizationRates(device_t d, utilization_t *u) { WHOLE_CARD(d) u->gpu = u->memory = (unsigned)c->utilization; return OK; }
enum { GRAPHICS, SM, MEM, VIDEO };
API int nvmlDeviceGetClockInfo(device_t d, int kind, unsigned *mhz) { WHOLE_CARD(d) *mhz = (unsigned)(kind == MEM ? c->memory_mhz : c->sm_mhz); return OK; }
API int nvmlDeviceGetMaxClockInfo(device_t d, int kind, unsigned *mhz) { WHOLE_CARD(d) *mhz = (unsigned)(kind == MEM ? c->memory_mhz : c->max_sm_mhz); return OK; }
API int nvmlDeviceGetPowerUsage(device_t d, unsigned *mw) { WHOLE_CARD(d) *mw = (unsigned)c->power_w * 1000; return OK; }
API int nvmlDeviceGetEnforcedPowerLimit(device_t d, unsigned *mw) { WHOLE_CARD(d) *mw = (unsigned)c->power_limit_w * 1000; return OK; }
API int nvmlDeviceGetPowerManagementLimit(device_t d, unsigned *mw) { return nvmlDeviceGetEnforcedPowerLimit(d, mw); }
API int nvmlDeviceGetTotalEnergyConsumption(device_t d, unsigned long long *mj) {
  struct timespec now;
  WHOLE_CARD(d)
  clock_gettime(CLOCK_BOOTTIME, &now);
  *mj = (unsigned long long)((now.tv_sec + now.tv_nsec / 1e9) * c->power_w * 1e3);
  return OK;
}
API int nvmlDeviceGetTemperature(device_t d, int sensor, unsigned *t) { (void)sensor; WHOLE_CARD(d) *t = (unsigned)c->temperature_c; return OK; }
typedef struct { unsigned version; int sensor; int temperature; } temperature_t;
API int nvmlDeviceGetTemperatureV(device_t d, temperature_t *t) { WHOLE_CARD(d) t->temperature = c->temperature_c; return OK; }
API int nvmlDeviceGetCurrentClocksEventReasons(device_t d, unsigned long long *bits) { WHOLE_CARD(d) *bits = c->slowdowns; return OK; }
API int nvmlDeviceGetCurrentClocksThrottleReasons(device_t d, unsigned long long *bits) { return nvmlDeviceGetCurrentClocksEventReasons(d, bits); }
API int nvmlDeviceGetMigMode(device_t d, unsigned *now, unsigned *pending) {
  WHOLE_CARD(d)
  if (!c->parent[0] && !(c->major >= 8 && c->smem_sm > 131072)) return NOT_SUPPORTED;
  *now = *pending = c->parent[0] != 0;
  return OK;
}
API int nvmlDeviceIsMigDeviceHandle(device_t d, unsigned *is) { CARD(d) (void)c; *is = (unsigned)is_instance(d); return OK; }
API int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device_t d, device_t *out) {
  int all[MAX_CARDS], found = whole(all);
  CARD(d)
  for (int i = 0; i < found; i++)
    if (same_gpu(c, &phantom_world()->card[all[i]])) { *out = handle_of(all[i], 0); return OK; }
  return NOT_FOUND;
}
API int nvmlDeviceGetEccMode(device_t d, unsigned *now, unsigned *pending) { WHOLE_CARD(d) *now = *pending = (unsigned)c->ecc; return OK; }
API int nvmlDeviceGetCurrPcieLinkGeneration(device_t d, unsigned *v) { WHOLE_CARD(d) *v = 4; return OK; }
API int nvmlDeviceGetMaxPcieLinkGeneration(device_t d, unsigned *v) { WHOLE_CARD(d) *v = 4; return OK; }
API int nvmlDeviceGetCurrPcieLinkWidth(device_t d, unsigned *v) { WHOLE_CARD(d) *v = 16; return OK; }
API int nvmlDeviceGetMaxPcieLinkWidth(device_t d, unsigned *v) { WHOLE_CARD(d) *v = 16; return OK; }

/* torch asks for these by name when it first writes an out-of-memory message; no card here has an NVLink. */
API int nvmlDeviceGetNvLinkRemoteDeviceType(device_t d, unsigned link, int *type) { (void)link; (void)type; CARD(d) (void)c; return NOT_SUPPORTED; }
API int nvmlDeviceGetNvLinkRemotePciInfo_v2(device_t d, unsigned link, void *pci) { (void)link; (void)pci; CARD(d) (void)c; return NOT_SUPPORTED; }
API int nvmlDeviceGetGpuFabricInfoV(device_t d, void *info) { (void)info; CARD(d) (void)c; return NOT_SUPPORTED; }
