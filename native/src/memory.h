// Page-aligned anonymous memory that asks for huge pages (weights, KV cache, scratch), or somebody else's memory.
#pragma once
#include <cstddef>

namespace stoker {

class Memory {
 public:
  Memory() = default;
  // Reserves `size` zeroed bytes; the kernel provides pages as they are touched.
  // Throws std::bad_alloc when the address space is not to be had.
  explicit Memory(size_t size);
  // Memory that belongs to somebody else, outlives this object and is never written to.
  static Memory borrowed(const void* data, size_t size);
  ~Memory();
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
  bool owned_ = false;
};

}  // namespace stoker
