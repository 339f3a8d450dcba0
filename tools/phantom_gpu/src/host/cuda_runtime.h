/* For allocator_hook.cpp: torch's headers ask for the compiler's side of the runtime, of which they need the host's. */
#pragma once
#include <cuda_runtime_api.h>
