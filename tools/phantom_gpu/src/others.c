/* The few functions of the other libraries whose answers PyTorch looks at. */
#include <stddef.h>
#include <stdlib.h>
#include "phantom.h"
#if defined(PHANTOM_CUDNN)
#include <cudnn_version.h>
API size_t cudnnGetVersion(void) { return CUDNN_VERSION; }
API size_t cudnnGetCudartVersion(void) { return 13000; }
API int cudnnCreate(void **h) { return (*h = calloc(1, 512)) ? 0 : 1; }
API int cudnnDestroy(void *h) { free(h); return 0; }
/* No graph can be built: whoever asks for one is told "not supported" and takes another kernel. */
API int cudnnBackendCreateDescriptor(int kind, void **out) { (void)kind; (void)out; phantom_note("cudnnBackendCreateDescriptor (refused)"); return 3000; }
#elif defined(PHANTOM_CUPTI)
API int cuptiGetVersion(unsigned *v) { *v = 130000; return 0; }
#elif defined(PHANTOM_NCCL)
API int ncclGetVersion(int *v) { *v = 22800; return 0; }
#endif
