/* What the stand-ins share: the cards, the memory of all processes on them, and device memory that knows its contents.
 *
 * core.c implements this; cudart.c (the CUDA runtime), driver.c (libcuda) and nvml.c answer from it.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define API __attribute__((visibility("default")))
#define MiB (1ull << 20)
#define GRANULE (2 * MiB) /* the driver backs device memory with pages of 2 MiB */
#define MAX_CARDS 8
#define MAX_SLOTS 512

typedef struct {
  char name[96];       /* as torch.cuda.get_device_name says */
  char uuid[48];       /* without "GPU-" or "MIG-" */
  char parent[48];     /* the UUID of the whole GPU, if this is a MIG instance; else empty */
  char parent_name[96];
  int major, minor, sms;
  size_t memory;       /* that CUDA reports */
  size_t nvml_memory;  /* that NVML reports: includes what the driver keeps */
  size_t l2, smem_sm, smem_optin;
  int threads_sm, blocks_sm, bus_bits;
  size_t context;      /* of one process */
  size_t filled;       /* by processes outside of this world */
  int sm_mhz, max_sm_mhz, memory_mhz, power_w, power_limit_w, temperature_c, utilization, ecc;
  unsigned long long slowdowns;
} card_t;

enum nvml_mode { NVML_OK, NVML_DENIED, NVML_NO_PROCESSES, NVML_LOST };

/* The world: the same in every process that the launcher started. */
typedef struct {
  int cards;
  card_t card[MAX_CARDS];
  enum nvml_mode nvml;
  int driver_cuda;             /* the newest CUDA version that the driver supports, 13000 = 13.0 */
  char driver[24];             /* its version, as NVML says */
  int bool_value;              /* what a one-byte read of memory that no host wrote returns */
  size_t keep_bytes;           /* copies to the device up to this size are kept, larger ones are not */
  int fault;                   /* CUDA error of a fault that is to happen; 0: none */
  unsigned long fault_launch;  /* at this launch of a process */
  size_t fault_bytes;          /* device memory beyond this is refused, whatever the capacity; 0: no limit */
} world_t;

API const world_t *phantom_world(void);
API int phantom_says(const char *name); /* PHANTOM_TRACE: whether to talk about it */

/* Devices that this process sees (CUDA_VISIBLE_DEVICES), as indices of cards. */
API int phantom_visible(int *cards);

/* Memory of a card over all living processes. */
typedef struct { int pid, card; size_t context, used; } slot_t;
API int phantom_make_context(int card);                 /* 0, or 2: no room */
API int phantom_take(int card, size_t bytes);           /* 0, or 2: no room */
API void phantom_give(int card, size_t bytes);
API size_t phantom_card_used(int card);                 /* by all processes and what fills the card */
API int phantom_card_slots(int card, slot_t *out, int most);

/* Address space of the devices. */
API int phantom_is_device(const void *p);
API int phantom_card_of(const void *p);                 /* -1: none */
API uintptr_t phantom_reserve(size_t bytes, int card);  /* 0: no address space */
API size_t phantom_release(uintptr_t at);               /* bytes; 0: nothing begins there */
API void phantom_place(uintptr_t at, int card);         /* memory of a card now lies behind a reservation */
API int phantom_range(uintptr_t at, uintptr_t *begin, size_t *size);

/* Contents: known where the host has put them, or a kernel that is computed here; else zeros. */
API void phantom_write(void *to, const void *from, size_t bytes);
API void phantom_fill(void *to, int value, size_t bytes);
API void phantom_read(void *to, const void *from, size_t bytes);
API void phantom_copy(void *to, const void *from, size_t bytes);
API int phantom_knows(const void *from, size_t bytes);  /* whether all of it is known */
API void phantom_forget(const void *at, size_t bytes);

/* kernels.c: the launches that are computed; 1 when it was one of them. */
API int phantom_compute(const char *kernel, void **arguments);

/* What the recorder and the tests ask for. */
API size_t phantom_peak_bytes(void);
API void phantom_reset_peak(void);
API unsigned long phantom_launches(void);

static inline void phantom_note(const char *name) {
  if (phantom_says("calls")) fprintf(stderr, "[phantom] not modelled: %s\n", name);
}
/* Body of a generated stub: say so once, succeed. */
#define PHANTOM_STUB(name)                        \
  API long name(void) {                           \
    static int seen;                              \
    if (!seen) { seen = 1; phantom_note(#name); } \
    return 0;                                     \
  }
#define PHANTOM_STRING(name) API const char *name(void) { return "phantom"; }
