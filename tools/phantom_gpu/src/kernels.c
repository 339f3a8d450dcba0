/* The kernels whose results the host reads, computed here for tensors whose contents are known.
 *
 * Host code decides by a few small values: whether a mask holds padding (cast to bool, `all`), how long the longest row
 * is, whether a flag is set. A launch carries the kernel's mangled name and its arguments; torch's elementwise and
 * reduction kernels are templates whose arguments follow from the name (ATen/native/cuda/CUDALoops.cuh, Reduce.cuh,
 * MemoryAccess.cuh). What is computed: filling, casting between data types, comparing int64 with a number, and whole
 * reductions (all, any, sum, max, min) of bool, int32 and int64. The inputs must be known and lie side by side. Every
 * other elementwise kernel makes its output unknown.
 */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <string.h>
#include "phantom.h"

#define MOST_ELEMENTS (1 << 20)

/* c10::ScalarType */
enum { U8 = 0, I8, I16, I32, I64, F16, F32, F64, BOOL = 11, BF16 = 15 };
static int size_of(int type) {
  switch (type) {
    case U8: case I8: case BOOL: return 1;
    case I16: case F16: case BF16: return 2;
    case I32: case F32: return 4;
    case I64: case F64: return 8;
    default: return 0;
  }
}
static float from_bits(uint32_t bits) { float f; memcpy(&f, &bits, 4); return f; }
static uint32_t bits_of(float f) { uint32_t bits; memcpy(&bits, &f, 4); return bits; }

static double get(const unsigned char *at, int type) {
  switch (type) {
    case U8: return *at;
    case BOOL: return *at != 0;
    case I8: return *(const int8_t *)at;
    case I16: return *(const int16_t *)at;
    case I32: return *(const int32_t *)at;
    case I64: return (double)*(const int64_t *)at;
    case F32: return *(const float *)at;
    case F64: return *(const double *)at;
    case F16: return (double)*(const _Float16 *)at;
    case BF16: return from_bits((uint32_t) * (const uint16_t *)at << 16);
    default: return 0;
  }
}
static void put(unsigned char *at, int type, double value) {
  switch (type) {
    case U8: *at = (uint8_t)value; break;
    case BOOL: *at = value != 0; break;
    case I8: *(int8_t *)at = (int8_t)value; break;
    case I16: *(int16_t *)at = (int16_t)value; break;
    case I32: *(int32_t *)at = (int32_t)value; break;
    case I64: *(int64_t *)at = (int64_t)value; break;
    case F32: *(float *)at = (float)value; break;
    case F64: *(double *)at = value; break;
    case F16: *(_Float16 *)at = (_Float16)value; break;
    case BF16: { uint32_t b = bits_of((float)value); *(uint16_t *)at = (uint16_t)((b + 0x7fff + (b >> 16 & 1)) >> 16); break; }
  }
}
/* The type that a mangled name spells at a place. */
static int type_named(const char *at) {
  if (!strncmp(at, "N3c108BFloat16E", 15)) return BF16;
  if (!strncmp(at, "N3c104HalfE", 11)) return F16;
  switch (*at) {
    case 'b': return BOOL; case 'h': return U8; case 'a': return I8; case 's': return I16; case 'i': return I32;
    case 'l': return I64; case 'f': return F32; case 'd': return F64; default: return -1;
  }
}
static const char *after(const char *name, const char *part) {
  const char *found = strstr(name, part);
  return found ? found + strlen(part) : 0;
}

/* ------------------------------------------------------------------------------------- what a name says, looked at once */

typedef enum { OTHER = 1, ELEMENTWISE, FILL, CAST, COMPARE, ALL, ANY, SUM, MAX, MIN } kind_t;
typedef struct { kind_t kind; int in, out; } what_t;

static what_t look(const char *name) {
  what_t w = {OTHER, -1, -1};
  const char *p;
  if ((p = after(name, "13reduce_kernelI"))) {
    if (!(p = after(p, "8ReduceOpI"))) return w;
    w.in = type_named(p);
    if (!(p = after(p, "func_wrapper_tI"))) return w;
    w.out = type_named(p);
    kind_t kind = strstr(p, "15and_kernel_cuda")   ? ALL
                  : strstr(p, "14or_kernel_cuda")  ? ANY
                  : strstr(p, "11sum_functorI")    ? SUM
                  : strstr(p, "MaxNanFunctor")     ? MAX
                  : strstr(p, "MinNanFunctor")     ? MIN
                                                   : OTHER;
    int integral = (w.in == BOOL || w.in == I32 || w.in == I64) && (w.out == BOOL || w.out == I32 || w.out == I64);
    w.kind = integral ? kind : OTHER;
    return w;
  }
  int vectorized = strstr(name, "29vectorized_elementwise_kernelI") != 0, unrolled = strstr(name, "27unrolled_elementwise_kernelI") != 0;
  if (!vectorized && !unrolled) return w;
  w.kind = ELEMENTWISE;
  if (unrolled && strstr(name, "direct_copy_kernel_cuda") && strstr(name, "12LoadWithCastILi1E")) w.kind = CAST;
  if (vectorized && (p = after(name, "11FillFunctorI"))) { w.out = type_named(p); if (w.out >= 0) w.kind = FILL; }
  if (vectorized && strstr(name, "13AUnaryFunctorIllb") && strstr(name, "CompareEqFunctorIl")) w.kind = COMPARE;
  return w;
}

#define CACHE 8192
static struct { _Atomic(const char *) name; what_t what; } cache[CACHE];
static what_t what_of(const char *name) {
  size_t i = ((uintptr_t)name * 0x9E3779B97F4A7C15ull) >> 51;
  if (atomic_load(&cache[i].name) == name) return cache[i].what;
  what_t w = look(name);
  if (!atomic_load(&cache[i].name)) { /* kept only in an empty place, so that no reader sees half of an entry */
    static atomic_flag busy = ATOMIC_FLAG_INIT;
    if (!atomic_flag_test_and_set(&busy)) {
      if (!atomic_load(&cache[i].name)) { cache[i].what = w; atomic_store(&cache[i].name, name); }
      atomic_flag_clear(&busy);
    }
  }
  return w;
}

/* ------------------------------------------------------------------------------------------------------ elementwise */

static unsigned char *known_copy(const void *from, size_t bytes) {
  if (!bytes || bytes > phantom_world()->keep_bytes || !phantom_knows(from, bytes)) return 0;
  unsigned char *held = malloc(bytes);
  phantom_read(held, from, bytes);
  return held;
}
static int written(void *to, unsigned char *held, size_t bytes) {
  phantom_write(to, held, bytes);
  free(held);
  return 1;
}
static int fill(void **arguments, what_t w) {
  size_t n = (size_t) * (int *)arguments[0];
  void *out = *(void **)arguments[2];
  int size = size_of(w.out);
  if (n > MOST_ELEMENTS || n * size > phantom_world()->keep_bytes) { phantom_forget(out, n * size); return 0; }
  unsigned char *held = malloc(n * size + 1);
  for (size_t i = 0; i < n; i++) memcpy(held + i * size, arguments[1], size);
  return written(out, held, n * size);
}
typedef struct { int8_t type; uint32_t size; } cast_t; /* LoadWithCast<1>, StoreWithCast<1> */
static int cast(void **arguments) {
  size_t n = (size_t) * (int *)arguments[0];
  void **data = arguments[2];
  const cast_t *load = arguments[5], *store = arguments[6];
  int from = size_of(load->type), to = size_of(store->type);
  if (!from || !to || (uint32_t)from != load->size || (uint32_t)to != store->size) return 0;
  unsigned char *in = n <= MOST_ELEMENTS ? known_copy(data[1], n * from) : 0;
  if (!in) { phantom_forget(data[0], n * to); return 0; }
  unsigned char *out = malloc(n * to);
  for (size_t i = 0; i < n; i++) {
    if (load->type == I64 && store->type == I64) memcpy(out + i * 8, in + i * 8, 8);
    else put(out + i * to, store->type, get(in + i * from, load->type));
  }
  free(in);
  return written(data[0], out, n * to);
}
typedef struct { int is_not; int64_t value; } compare_t; /* AUnaryFunctor<long, long, bool, CompareEqFunctor<long>> */
static int compare(void **arguments) {
  size_t n = (size_t) * (int *)arguments[0];
  const compare_t *with = arguments[1];
  void **data = arguments[2];
  unsigned char *in = n <= MOST_ELEMENTS ? known_copy(data[1], n * 8) : 0;
  if (!in) { phantom_forget(data[0], n); return 0; }
  unsigned char *out = malloc(n);
  for (size_t i = 0; i < n; i++) out[i] = (((int64_t *)in)[i] == with->value) != with->is_not;
  free(in);
  return written(data[0], out, n);
}

/* -------------------------------------------------------------------------------------------------------- reductions */

/* ReduceOp: ops (one empty functor), ident (as wide as the sum), ReduceConfig, OffsetCalculator<1>, OffsetCalculator<2>,
 * src, dst[2], ... */
#define MOST_DIMS 25
typedef struct { int element_size, inputs, outputs, steps[3], multipliers[5], block[3]; int vectorize, output_vector; } config_t;
typedef struct { int dims; struct { uint32_t divisor, m1, shift; } sizes[MOST_DIMS]; uint32_t strides[MOST_DIMS]; } input_t;
typedef struct { int dims; struct { uint32_t divisor, m1, shift; } sizes[MOST_DIMS]; uint32_t strides[MOST_DIMS][2]; } output_t;

static int reduce(void **arguments, what_t w) {
  const char *op = arguments[0];
  size_t at = size_of(w.out) < 4 ? 4 : 2 * (size_t)size_of(w.out); /* ops and ident, aligned to ident and to int */
  const config_t *config = (const config_t *)(op + at);
  const input_t *input = (const input_t *)(config + 1);
  const output_t *output = (const output_t *)(input + 1);
  const void *const *pointers = (const void *const *)(((uintptr_t)(output + 1) + 7) & ~(uintptr_t)7);
  const void *src = pointers[0];
  void *dst = (void *)pointers[1];
  int size = size_of(w.in), out_size = size_of(w.out);
  if (!phantom_is_device(src) || !phantom_is_device(dst)) return 0; /* laid out otherwise than read here */
  int side_by_side = input->dims == 0 || (input->dims == 1 && input->strides[0] == (uint32_t)size);
  size_t n = (size_t)config->inputs;
  unsigned char *in = 0;
  if (config->outputs == 1 && side_by_side && n && n <= MOST_ELEMENTS) in = known_copy(src, n * size);
  if (!in) { phantom_forget(dst, (size_t)config->outputs * out_size); return 0; }
  int64_t result = w.kind == ALL, value;
  for (size_t i = 0; i < n; i++) {
    value = w.in == I64 ? ((int64_t *)in)[i] : (int64_t)get(in + i * size, w.in);
    switch (w.kind) {
      case ALL: result = result && value; break;
      case ANY: result = result || value; break;
      case SUM: result += value; break;
      case MAX: result = !i || value > result ? value : result; break;
      default: result = !i || value < result ? value : result; break;
    }
  }
  free(in);
  if (w.out == I64) phantom_write(dst, &result, 8);
  else {
    unsigned char out[8];
    put(out, w.out, (double)result);
    phantom_write(dst, out, (size_t)out_size);
  }
  return 1;
}

API int phantom_compute(const char *kernel, void **arguments) {
  what_t w = what_of(kernel);
  switch (w.kind) {
    case OTHER: return 0;
    case FILL: return fill(arguments, w);
    case CAST: return cast(arguments);
    case COMPARE: return compare(arguments);
    case ELEMENTWISE: /* data[0] is the output; of what element size the name does not say, so at least its first part */
      phantom_forget(*(void **)arguments[2], (size_t) * (int *)arguments[0]);
      return 0;
    default: return reduce(arguments, w);
  }
}
