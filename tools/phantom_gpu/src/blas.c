/* cuBLAS and cuBLASLt without a device. PyTorch brings its own workspaces, so nothing here allocates. */
#include <cublasLt.h>
#include <cublas_v2.h>
#include <string.h>
#include "phantom.h"

#ifdef PHANTOM_LT
/* Descriptors are opaque: hand out real memory, so that a set followed by a get cannot fault. */
static cublasStatus_t make(void **out) { return (*out = calloc(1, 512)) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED; }
API cublasStatus_t cublasLtCreate(cublasLtHandle_t *h) { return make((void **)h); }
API cublasStatus_t cublasLtDestroy(cublasLtHandle_t h) { free(h); return CUBLAS_STATUS_SUCCESS; }
API size_t cublasLtGetVersion(void) { return CUBLAS_VERSION; }
API cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t c, cudaDataType_t s) { (void)c; (void)s; return make((void **)d); }
API cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) { free(d); return CUBLAS_STATUS_SUCCESS; }
API cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p) { return make((void **)p); }
API cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) { free(p); return CUBLAS_STATUS_SUCCESS; }
API cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType t, uint64_t r, uint64_t c, int64_t ld) { (void)t; (void)r; (void)c; (void)ld; return make((void **)l); }
API cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) { free(l); return CUBLAS_STATUS_SUCCESS; }
API cublasStatus_t cublasLtMatrixTransformDescCreate(cublasLtMatrixTransformDesc_t *d, cudaDataType s) { (void)s; return make((void **)d); }
API cublasStatus_t cublasLtMatrixTransformDescDestroy(cublasLtMatrixTransformDesc_t d) { free(d); return CUBLAS_STATUS_SUCCESS; }
API cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                                  cublasLtMatrixLayout_t e, cublasLtMatmulPreference_t p, int want, cublasLtMatmulHeuristicResult_t r[], int *got) {
  (void)h; (void)d; (void)a; (void)b; (void)c; (void)e; (void)p;
  *got = want > 0;
  if (want > 0) { memset(r, 0, sizeof *r); r->state = CUBLAS_STATUS_SUCCESS; r->wavesCount = 1; }
  return CUBLAS_STATUS_SUCCESS;
}
#else
static cublasMath_t math;
static cublasPointerMode_t pointer_mode;
API cublasStatus_t cublasCreate_v2(cublasHandle_t *h) { return (*h = calloc(1, 512)) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED; }
API cublasStatus_t cublasDestroy_v2(cublasHandle_t h) { free(h); return CUBLAS_STATUS_SUCCESS; }
API cublasStatus_t cublasGetVersion_v2(cublasHandle_t h, int *v) { (void)h; *v = CUBLAS_VERSION; return CUBLAS_STATUS_SUCCESS; }
API cublasStatus_t cublasGetMathMode(cublasHandle_t h, cublasMath_t *m) { (void)h; *m = math; return CUBLAS_STATUS_SUCCESS; }
API cublasStatus_t cublasSetMathMode(cublasHandle_t h, cublasMath_t m) { (void)h; math = m; return CUBLAS_STATUS_SUCCESS; }
API cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t h, cublasPointerMode_t *m) { (void)h; *m = pointer_mode; return CUBLAS_STATUS_SUCCESS; }
API cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t h, cublasPointerMode_t m) { (void)h; pointer_mode = m; return CUBLAS_STATUS_SUCCESS; }
#endif
