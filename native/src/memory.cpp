#include "memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

namespace stoker {

// GCC says it by a macro, clang by a feature.
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define STOKER_ADDRESS_SANITIZER
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define STOKER_ADDRESS_SANITIZER
#endif

#if defined(STOKER_ADDRESS_SANITIZER)

// From the heap, where AddressSanitizer sees an access beyond the end.
Memory::Memory(size_t size) : size_(size), owned_(true) {
  if (size == 0) return;
  if (posix_memalign(&data_, 64, size) != 0) throw std::bad_alloc();
  std::memset(data_, 0, size);
}

Memory::~Memory() {
  if (owned_) std::free(data_);
}

#else

namespace {
constexpr size_t kHugePage = size_t{2} << 20;
}

Memory::Memory(size_t size) : size_(size), owned_(true) {
  if (size == 0) return;
  if (size >= kHugePage) size_ = (size + kHugePage - 1) / kHugePage * kHugePage;
  data_ = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data_ == MAP_FAILED) {
    data_ = nullptr;
    throw std::bad_alloc();
  }
#ifdef MADV_HUGEPAGE
  // A hint: where huge pages are switched off, ordinary ones serve.
  if (size_ >= kHugePage) madvise(data_, size_, MADV_HUGEPAGE);
#endif
}

Memory::~Memory() {
  if (owned_ && data_ != nullptr) munmap(data_, size_);
}

#endif

Memory Memory::borrowed(const void* data, size_t size) {
  Memory memory;
  memory.data_ = const_cast<void*>(data);
  memory.size_ = size;
  return memory;
}

Memory::Memory(Memory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      owned_(std::exchange(other.owned_, false)) {}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(owned_, other.owned_);
  return *this;
}

}  // namespace stoker
