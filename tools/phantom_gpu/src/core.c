/* The world of the stand-ins: cards, a ledger of every process's device memory, address space and contents.
 *
 * Environment (the launcher, run.py, sets it)
 *   PHANTOM_WORLD         text file with the cards and their state; read once per process, at the first call
 *   PHANTOM_LEDGER        binary file shared by all processes: who holds how much of which card
 *   PHANTOM_TRACE         comma-separated: "calls" names each function that is a mere stub, at its first call;
 *                         "errors" every failure that is reported; "reads" every read of unknown memory
 *   CUDA_VISIBLE_DEVICES  as the driver takes it: indices or UUIDs, up to the first that is none
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "phantom.h"

API int phantom_says(const char *name) {
  const char *wanted = getenv("PHANTOM_TRACE");
  return wanted && strstr(wanted, name) != NULL;
}

/* ------------------------------------------------------------------------------------------------ the world file */

static world_t world;
static pthread_once_t world_once = PTHREAD_ONCE_INIT;

static void die(const char *what) {
  fprintf(stderr, "[phantom] %s; start commands with tools/phantom_gpu/run.py\n", what);
  abort();
}

#define SIZE_OF_CARD(key) \
  if (!strcmp(name, #key)) { card->key = strtoull(value, 0, 0); return; }
#define INT_OF_CARD(key) \
  if (!strcmp(name, #key)) { card->key = atoi(value); return; }
#define TEXT_OF_CARD(key) \
  if (!strcmp(name, #key)) { snprintf(card->key, sizeof card->key, "%s", value); return; }

static void card_line(card_t *card, const char *name, const char *value) {
  TEXT_OF_CARD(name) TEXT_OF_CARD(uuid) TEXT_OF_CARD(parent) TEXT_OF_CARD(parent_name)
  INT_OF_CARD(major) INT_OF_CARD(minor) INT_OF_CARD(sms) INT_OF_CARD(threads_sm) INT_OF_CARD(blocks_sm) INT_OF_CARD(bus_bits)
  SIZE_OF_CARD(memory) SIZE_OF_CARD(nvml_memory) SIZE_OF_CARD(l2) SIZE_OF_CARD(smem_sm) SIZE_OF_CARD(smem_optin)
  SIZE_OF_CARD(context) SIZE_OF_CARD(filled)
  INT_OF_CARD(sm_mhz) INT_OF_CARD(max_sm_mhz) INT_OF_CARD(memory_mhz) INT_OF_CARD(power_w) INT_OF_CARD(power_limit_w)
  INT_OF_CARD(temperature_c) INT_OF_CARD(utilization) INT_OF_CARD(ecc)
  if (!strcmp(name, "slowdowns")) { card->slowdowns = strtoull(value, 0, 0); return; }
  die("the world file has a line that is not understood");
}

static void world_line(const char *name, const char *value) {
  if (!strcmp(name, "nvml"))
    world.nvml = !strcmp(value, "denied")         ? NVML_DENIED
                 : !strcmp(value, "no-processes") ? NVML_NO_PROCESSES
                 : !strcmp(value, "lost")         ? NVML_LOST
                                                  : NVML_OK;
  else if (!strcmp(name, "driver_cuda")) world.driver_cuda = atoi(value);
  else if (!strcmp(name, "driver")) snprintf(world.driver, sizeof world.driver, "%s", value);
  else if (!strcmp(name, "bool_value")) world.bool_value = atoi(value);
  else if (!strcmp(name, "keep_bytes")) world.keep_bytes = strtoull(value, 0, 0);
  else if (!strcmp(name, "fault")) world.fault = atoi(value);
  else if (!strcmp(name, "fault_launch")) world.fault_launch = strtoul(value, 0, 0);
  else if (!strcmp(name, "fault_bytes")) world.fault_bytes = strtoull(value, 0, 0);
  else die("the world file has a line that is not understood");
}

static void read_world(void) {
  const char *path = getenv("PHANTOM_WORLD");
  if (!path) die("PHANTOM_WORLD is not set");
  FILE *file = fopen(path, "r");
  if (!file) die("the world file cannot be read");
  char line[512], name[64], value[400];
  while (fgets(line, sizeof line, file)) {
    int n = sscanf(line, "%63s %399[^\n]", name, value);
    if (n == 1 && !strcmp(name, "card") && world.cards < MAX_CARDS) world.cards++;
    else if (n == 2 && world.cards) card_line(&world.card[world.cards - 1], name, value);
    else if (n == 2) world_line(name, value);
  }
  fclose(file);
}
API const world_t *phantom_world(void) {
  pthread_once(&world_once, read_world);
  return &world;
}

static int is_card(const card_t *card, const char *wanted, size_t length) {
  char mig[64], gpu[64];
  snprintf(mig, sizeof mig, "MIG-%s", card->uuid);
  snprintf(gpu, sizeof gpu, "GPU-%s", card->parent[0] ? card->parent : card->uuid);
  if (card->parent[0] && !strncmp(mig, wanted, length)) return 1;
  return length > 4 && !strncmp(gpu, wanted, length);
}

API int phantom_visible(int *cards) {
  const world_t *w = phantom_world();
  const char *wanted = getenv("CUDA_VISIBLE_DEVICES");
  int found = 0;
  if (!wanted) {
    for (int i = 0; i < w->cards; i++) {
      if (w->card[i].parent[0] && found) continue; /* only the first MIG instance is seen unless one is named */
      cards[found++] = i;
    }
    return found;
  }
  while (*wanted && found < MAX_CARDS) {
    size_t length = strcspn(wanted, ",");
    while (length && *wanted == ' ') wanted++, length--;
    int card = -1;
    if (length && strspn(wanted, "0123456789") >= length) {
      card = atoi(wanted);
      if (card >= w->cards) card = -1;
    } else
      for (int i = 0; i < w->cards && length; i++)
        if (is_card(&w->card[i], wanted, length)) { card = i; break; }
    for (int i = 0; i < found; i++)
      if (cards[i] == card) return 0; /* named twice: the driver then shows none */
    if (card < 0) break;
    cards[found++] = card;
    wanted += length;
    if (*wanted == ',') wanted++;
  }
  return found;
}

/* -------------------------------------------------------------------------------------- the ledger of all processes */

static slot_t *ledger;
static int ledger_file = -1;
static pthread_mutex_t ledger_mutex = PTHREAD_MUTEX_INITIALIZER;
static size_t own_used[MAX_CARDS], own_peak;

static void lock_ledger(void) {
  pthread_mutex_lock(&ledger_mutex);
  if (!ledger) {
    const char *path = getenv("PHANTOM_LEDGER");
    if (!path || (ledger_file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600)) < 0) die("PHANTOM_LEDGER cannot be opened");
    if (ftruncate(ledger_file, MAX_SLOTS * sizeof *ledger)) die("PHANTOM_LEDGER cannot be enlarged");
    ledger = mmap(0, MAX_SLOTS * sizeof *ledger, PROT_READ | PROT_WRITE, MAP_SHARED, ledger_file, 0);
    if (ledger == MAP_FAILED) die("PHANTOM_LEDGER cannot be mapped");
  }
  struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  while (fcntl(ledger_file, F_SETLKW, &whole) && errno == EINTR) {}
  for (int i = 0; i < MAX_SLOTS; i++) /* the driver takes back what a dead process held */
    if (ledger[i].pid && kill(ledger[i].pid, 0) && errno == ESRCH) memset(&ledger[i], 0, sizeof *ledger);
}
static void unlock_ledger(void) {
  struct flock whole = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
  fcntl(ledger_file, F_SETLK, &whole);
  pthread_mutex_unlock(&ledger_mutex);
}

static size_t used_of(int card) {
  size_t used = world.card[card].filled;
  for (int i = 0; i < MAX_SLOTS; i++)
    if (ledger[i].pid && ledger[i].card == card) used += ledger[i].context + ledger[i].used;
  return used;
}
static slot_t *own_slot(int card) {
  slot_t *empty = 0;
  int pid = getpid();
  for (int i = 0; i < MAX_SLOTS; i++) {
    if (ledger[i].pid == pid && ledger[i].card == card) return &ledger[i];
    if (!ledger[i].pid && !empty) empty = &ledger[i];
  }
  if (!empty) die("too many processes");
  *empty = (slot_t){pid, card, 0, 0};
  return empty;
}

static int made[MAX_CARDS], owner;
static void leave(void) {
  if (owner != getpid()) return;
  lock_ledger();
  for (int i = 0; i < MAX_SLOTS; i++)
    if (ledger[i].pid == owner) memset(&ledger[i], 0, sizeof *ledger);
  unlock_ledger();
}

API int phantom_make_context(int card) {
  if (made[card] && owner == getpid()) return 0;
  phantom_world();
  lock_ledger();
  int full = used_of(card) + world.card[card].context > world.card[card].memory;
  if (!full) {
    own_slot(card)->context = world.card[card].context;
    if (!owner) { owner = getpid(); atexit(leave); }
    made[card] = 1;
  }
  unlock_ledger();
  return full ? 2 : 0;
}

API int phantom_take(int card, size_t bytes) {
  lock_ledger();
  size_t most = world.fault_bytes && world.fault_bytes < world.card[card].memory ? world.fault_bytes : world.card[card].memory;
  int full = used_of(card) + bytes > most;
  if (!full) {
    own_slot(card)->used += bytes;
    own_used[card] += bytes;
    if (own_used[card] > own_peak) own_peak = own_used[card];
  }
  unlock_ledger();
  return full ? 2 : 0;
}
API void phantom_give(int card, size_t bytes) {
  lock_ledger();
  own_slot(card)->used -= bytes;
  own_used[card] -= bytes;
  unlock_ledger();
}
API size_t phantom_card_used(int card) {
  phantom_world();
  lock_ledger();
  size_t used = used_of(card);
  unlock_ledger();
  return used;
}
API int phantom_card_slots(int card, slot_t *out, int most) {
  int found = 0;
  phantom_world();
  lock_ledger();
  for (int i = 0; i < MAX_SLOTS && found < most; i++)
    if (ledger[i].pid && ledger[i].card == card) out[found++] = ledger[i];
  unlock_ledger();
  return found;
}
API size_t phantom_peak_bytes(void) { return own_peak; }
API void phantom_reset_peak(void) {
  own_peak = 0;
  for (int i = 0; i < MAX_CARDS; i++)
    if (own_used[i] > own_peak) own_peak = own_used[i];
}

/* --------------------------------------------------------------------- address space: one reservation, first fit */

typedef struct range { uintptr_t at; size_t size; int card; struct range *before, *after; } range_t; /* card -1: free */
#define ARENA (16ull << 40)
static char *arena;
static range_t *ranges;
static pthread_once_t arena_once = PTHREAD_ONCE_INIT;
static pthread_mutex_t arena_mutex = PTHREAD_MUTEX_INITIALIZER;

/* Contents by page of the arena: what is known of it, in blocks of 512 bytes, which no two tensors share. */
#define BLOCK 512
#define BLOCKS_PER_PAGE (GRANULE / BLOCK)
typedef struct { int known; unsigned char *block[BLOCKS_PER_PAGE]; } page_t;
static page_t **pages;

static void make_arena(void) {
  arena = mmap(0, ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  size_t table = ARENA / GRANULE * sizeof *pages;
  pages = mmap(0, table, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (arena == MAP_FAILED || (void *)pages == MAP_FAILED) die("no address space for device memory");
  ranges = calloc(1, sizeof *ranges);
  ranges->at = ((uintptr_t)arena + GRANULE - 1) & ~(uintptr_t)(GRANULE - 1);
  ranges->size = ARENA - GRANULE;
  ranges->card = -1;
}

API int phantom_is_device(const void *p) { return arena && (char *)p >= arena && (char *)p < arena + ARENA; }

static range_t *range_at(uintptr_t at) {
  for (range_t *r = ranges; r; r = r->after)
    if (at >= r->at && at < r->at + r->size) return r;
  return 0;
}
API int phantom_card_of(const void *p) {
  if (!phantom_is_device(p)) return -1;
  pthread_mutex_lock(&arena_mutex);
  range_t *r = range_at((uintptr_t)p);
  int card = r ? r->card : -1;
  pthread_mutex_unlock(&arena_mutex);
  return card;
}
API int phantom_range(uintptr_t at, uintptr_t *begin, size_t *size) {
  pthread_mutex_lock(&arena_mutex);
  range_t *r = arena ? range_at(at) : 0;
  int found = r && r->card >= 0;
  if (found) { *begin = r->at; *size = r->size; }
  pthread_mutex_unlock(&arena_mutex);
  return found;
}
API uintptr_t phantom_reserve(size_t bytes, int card) {
  pthread_once(&arena_once, make_arena);
  bytes = (bytes + GRANULE - 1) & ~(GRANULE - 1);
  uintptr_t at = 0;
  pthread_mutex_lock(&arena_mutex);
  for (range_t *r = ranges; r; r = r->after) {
    if (r->card >= 0 || r->size < bytes) continue;
    if (r->size > bytes) {
      range_t *rest = calloc(1, sizeof *rest);
      *rest = (range_t){r->at + bytes, r->size - bytes, -1, r, r->after};
      if (r->after) r->after->before = rest;
      r->after = rest;
      r->size = bytes;
    }
    r->card = card;
    at = r->at;
    break;
  }
  pthread_mutex_unlock(&arena_mutex);
  return at;
}
static void join_next(range_t *r) {
  range_t *next = r->after;
  r->size += next->size;
  r->after = next->after;
  if (next->after) next->after->before = r;
  free(next);
}
API size_t phantom_release(uintptr_t at) {
  size_t size = 0;
  pthread_mutex_lock(&arena_mutex);
  range_t *r = arena ? range_at(at) : 0;
  if (r && r->card >= 0 && r->at == at) {
    size = r->size;
    r->card = -1;
    if (r->after && r->after->card < 0) join_next(r);
    if (r->before && r->before->card < 0) join_next(r->before);
  }
  pthread_mutex_unlock(&arena_mutex);
  if (size) phantom_forget((void *)at, size);
  return size;
}
API void phantom_place(uintptr_t at, int card) {
  pthread_mutex_lock(&arena_mutex);
  range_t *r = range_at(at);
  if (r) r->card = card;
  pthread_mutex_unlock(&arena_mutex);
}

/* ---------------------------------------------------------------------------------------------- contents of memory */

static pthread_mutex_t contents_mutex = PTHREAD_MUTEX_INITIALIZER;

static page_t **page_of(uintptr_t at) { return &pages[(at - (uintptr_t)arena) / GRANULE]; }
static unsigned char **slot_of(page_t *page, uintptr_t at) { return &page->block[(at - (uintptr_t)arena) % GRANULE / BLOCK]; }

/* The known bytes around an address, or 0; how many of them follow the address in *left. */
static unsigned char *known_at(uintptr_t at, size_t *left) {
  size_t within = (at - (uintptr_t)arena) % BLOCK;
  *left = BLOCK - within;
  page_t *page = *page_of(at);
  unsigned char *block = page ? *slot_of(page, at) : 0;
  return block ? block + within : 0;
}
static unsigned char *make_known(uintptr_t at, size_t *left) {
  unsigned char *found = known_at(at, left);
  if (found) return found;
  page_t **page = page_of(at);
  if (!*page) *page = calloc(1, sizeof **page);
  *slot_of(*page, at) = calloc(1, BLOCK);
  (*page)->known++;
  return known_at(at, left);
}
static void drop(uintptr_t at, size_t bytes) {
  uintptr_t end = at + bytes;
  for (uintptr_t p = at; p < end;) {
    page_t *page = *page_of(p);
    uintptr_t page_end = (uintptr_t)arena + ((p - (uintptr_t)arena) / GRANULE + 1) * GRANULE;
    if (page && page->known)
      for (uintptr_t b = p; b < end && b < page_end; b += BLOCK) {
        unsigned char **block = slot_of(page, b);
        if (*block) { free(*block); *block = 0; page->known--; }
      }
    p = page_end;
  }
}
API void phantom_forget(const void *at, size_t bytes) {
  if (!phantom_is_device(at) || !bytes) return;
  pthread_mutex_lock(&contents_mutex);
  drop((uintptr_t)at, bytes);
  pthread_mutex_unlock(&contents_mutex);
}
API void phantom_write(void *to, const void *from, size_t bytes) {
  uintptr_t at = (uintptr_t)to;
  pthread_mutex_lock(&contents_mutex);
  if (bytes > phantom_world()->keep_bytes) drop(at, bytes);
  else
    for (size_t done = 0, left; done < bytes; done += left) {
      unsigned char *block = make_known(at + done, &left);
      if (left > bytes - done) left = bytes - done;
      memcpy(block, (const char *)from + done, left);
    }
  pthread_mutex_unlock(&contents_mutex);
}
API void phantom_fill(void *to, int value, size_t bytes) {
  uintptr_t at = (uintptr_t)to;
  pthread_mutex_lock(&contents_mutex);
  if (bytes > phantom_world()->keep_bytes) drop(at, bytes);
  else
    for (size_t done = 0, left; done < bytes; done += left) {
      unsigned char *block = make_known(at + done, &left);
      if (left > bytes - done) left = bytes - done;
      memset(block, value, left);
    }
  pthread_mutex_unlock(&contents_mutex);
}
API int phantom_knows(const void *from, size_t bytes) {
  if (!phantom_is_device(from)) return 0;
  int all = 1;
  pthread_mutex_lock(&contents_mutex);
  for (size_t done = 0, left; all && done < bytes; done += left) all = known_at((uintptr_t)from + done, &left) != 0;
  pthread_mutex_unlock(&contents_mutex);
  return all;
}
API void phantom_read(void *to, const void *from, size_t bytes) {
  uintptr_t at = (uintptr_t)from;
  int unknown = 0;
  pthread_mutex_lock(&contents_mutex);
  for (size_t done = 0, left; done < bytes; done += left) {
    unsigned char *block = known_at(at + done, &left);
    if (left > bytes - done) left = bytes - done;
    if (block) memcpy((char *)to + done, block, left);
    else { memset((char *)to + done, bytes == 1 ? phantom_world()->bool_value : 0, left); unknown = 1; }
  }
  pthread_mutex_unlock(&contents_mutex);
  if (unknown && bytes <= 64 && phantom_says("reads")) fprintf(stderr, "[phantom] %zu bytes read that no host wrote\n", bytes);
}
API void phantom_copy(void *to, const void *from, size_t bytes) {
  if (bytes > phantom_world()->keep_bytes || !phantom_knows(from, bytes)) { phantom_forget(to, bytes); return; }
  unsigned char *held = malloc(bytes);
  phantom_read(held, from, bytes);
  phantom_write(to, held, bytes);
  free(held);
}
