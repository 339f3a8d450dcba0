// Loaded by the runtime at its first cudaMalloc: torch's caching allocator says when it hands out a block. Its contents
// are then not known any more, whatever an earlier tensor held there.
#include <c10/cuda/CUDACachingAllocator.h>

extern "C" void phantom_forget(const void* at, size_t bytes);

extern "C" void phantom_attach() {
  using c10::CachingDeviceAllocator::TraceEntry;
  c10::cuda::CUDACachingAllocator::attachAllocatorTraceTracker([](const TraceEntry& entry) {
    if (entry.action_ == TraceEntry::ALLOC) phantom_forget(reinterpret_cast<const void*>(entry.addr_), entry.size_);
  });
}
