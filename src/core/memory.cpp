#include "core/memory.h"

#include <limits>  // any header of the C library says whether it is glibc

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace evariste {

void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  mallopt(M_TOP_PAD, 64 << 20);
#endif
}

}  // namespace evariste
