// The kernels on the host: a block at a time, its threads as fibers. For tests only.
//
// Exact where a reading of the code is most easily wrong: the places of a fragment's entries in the
// lanes of a warp, what is visible after which barrier, groups of asynchronous copies. Copies
// arrive when they are waited for and no earlier; shared memory begins as NaN; between barriers a
// warp runs as far as it gets before the next one, in rising or falling order, so that a missing
// barrier shows. Says nothing about
// speed, alignment of addresses, or registers.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __restrict__
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace evariste::cuda_emulated {

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};
struct Fiber {
  ucontext_t start;
  jmp_buf state;  // once it runs: a switch by setjmp takes no system call
  bool started = false;
  std::vector<char> stack;
  std::vector<std::vector<Copy>> groups;  // the last one is open
  bool done;
  bool waits;  // for the block
};
/// Threads that wait for each other.
struct Meeting {
  unsigned members = 0, arrived = 0, generation = 0;
  void* brought[32];
};

inline std::vector<Fiber> fibers;
inline std::vector<Meeting> warps;
inline Meeting block;
inline jmp_buf scheduler;
inline unsigned current;
inline std::vector<unsigned char> shared;
inline std::function<void()> body;
inline bool falling = false;  // the order of threads between barriers

[[gnu::noinline]] inline void yield() {
  if (_setjmp(fibers[current].state) == 0) _longjmp(scheduler, 1);
}
[[gnu::noinline]] inline void resume(Fiber& fiber) {
  if (_setjmp(scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.state, 1);
  fiber.started = true;
  setcontext(&fiber.start);
}

inline void wait(Meeting& meeting) {
  if (++meeting.arrived == meeting.members) {
    meeting.arrived = 0;
    ++meeting.generation;
    if (&meeting == &block)
      for (auto& fiber : fibers) fiber.waits = false;
    return;
  }
  for (const auto generation = meeting.generation; meeting.generation == generation;) {
    fibers[current].waits = &meeting == &block;
    yield();
  }
}

/// The last lane of a warp to arrive does `work` on what all have brought.
template <class Work>
void together(void* mine, const Work& work) {
  auto& warp = warps[current / 32];
  warp.brought[current % 32] = mine;
  if (warp.arrived + 1 == warp.members) work(warp.brought);
  wait(warp);
}

inline void enter() {
  for (;;) {  // a block after the other
    body();
    fibers[current].done = true;
    yield();
  }
}

/// Warp after warp, each as far as it gets: the first one is a whole barrier ahead of the last.
inline void run_block(unsigned threads) {
  if (fibers.size() < threads) fibers.resize(threads);
  const unsigned count = (threads + 31) / 32;
  warps.assign(count, {});
  for (unsigned w = 0; w < count; ++w) warps[w].members = std::min(32u, threads - 32 * w);
  block = {};
  block.members = threads;
  for (unsigned i = 0; i < threads; ++i) {
    auto& fiber = fibers[i];
    fiber.groups.assign(1, {});
    fiber.done = fiber.waits = false;
    if (fiber.started) continue;
    fiber.stack.resize(1 << 16);
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.data();
    fiber.start.uc_stack.ss_size = fiber.stack.size();
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, enter, 0);
  }
  for (bool busy = true; busy;) {
    busy = false;
    for (unsigned w = 0; w < count; ++w) {
      const unsigned warp = falling ? count - 1 - w : w;
      for (bool moves = true; moves;) {
        moves = false;
        for (unsigned i = 0; i < warps[warp].members; ++i) {
          current = 32 * warp + (falling ? warps[warp].members - 1 - i : i);
          if (fibers[current].done || fibers[current].waits) continue;
          busy = moves = true;
          threadIdx = dim3(current, 0, 0);
          resume(fibers[current]);
        }
      }
    }
  }
  for (unsigned i = 0; i < threads; ++i)
    if (!fibers[i].done) std::abort();  // threads that wait for a barrier others have left out
}

}  // namespace emulation

inline void __syncthreads() { emulation::wait(emulation::block); }
inline void __syncwarp() {
  emulation::together(nullptr, [](void**) {});
}

#define EVARISTE_SHARED(T, name) T* name = reinterpret_cast<T*>(emulation::shared.data())

template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, size_t bytes, cudaStream_t,
           Arguments... arguments) {
  constexpr size_t kGuard = 64;
  if (threads > 1024 || bytes > 227 * 1024 || grid.y > 65535 || grid.z > 65535 || grid.x == 0 ||
      grid.y == 0 || grid.z == 0)
    return 1;
  gridDim = grid;
  blockDim = dim3(threads);
  emulation::body = [=] { kernel(arguments...); };
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        emulation::shared.assign(bytes + kGuard, 0xff);
        emulation::run_block(threads);
        for (size_t i = bytes; i < bytes + kGuard; ++i)
          if (emulation::shared[i] != 0xff) std::abort();  // written beyond the end
      }
  return 0;
}

template <int kBytes>
void copy_async(void* to, const void* from, bool valid) {
  std::memset(to, 0xff, kBytes);
  emulation::fibers[emulation::current].groups.back().push_back(
      {to, valid ? from : nullptr, kBytes});
}
inline void copy_commit() { emulation::fibers[emulation::current].groups.push_back({}); }
template <int kGroups>
void copy_wait() {
  auto& groups = emulation::fibers[emulation::current].groups;
  while (groups.size() > kGroups + 1) {
    for (const auto& copy : groups.front())
      if (copy.from)
        std::memcpy(copy.to, copy.from, copy.bytes);
      else
        std::memset(copy.to, 0, copy.bytes);
    groups.erase(groups.begin());
  }
}

inline float bf16_value(uint32_t bits) { return std::bit_cast<float>(bits << 16); }
inline uint32_t bf16_bits(float x) {  // to nearest, ties to even
  const auto bits = std::bit_cast<uint32_t>(x);
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}
inline uint32_t to_bf16_pair(float low, float high) {
  return bf16_bits(low) | (bf16_bits(high) << 16);
}
inline uint32_t to_tf32(float x) {  // to nearest, ties away from zero
  return (std::bit_cast<uint32_t>(x) + 0x1000) & ~0x1fffu;
}

namespace emulation {

struct Fragments {
  float* d;
  const uint32_t *a, *b;
};

/// d += a b with kDepth columns of a; the entries' places as device.cuh states them.
template <int kDepth>
void multiply(void** lanes) {
  constexpr int kHalf = kDepth / 2;
  float a[16][kDepth], b[kDepth][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& f = *static_cast<Fragments*>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int r = 0; r < 4; ++r) {
      const int row = g + 8 * (r % 2);
      if constexpr (kDepth == 16) {
        a[row][2 * t + kHalf * (r / 2)] = bf16_value(f.a[r] & 0xffff);
        a[row][2 * t + 1 + kHalf * (r / 2)] = bf16_value(f.a[r] >> 16);
      } else {
        a[row][t + kHalf * (r / 2)] = std::bit_cast<float>(f.a[r]);
      }
    }
    for (int r = 0; r < 2; ++r) {
      if constexpr (kDepth == 16) {
        b[2 * t + kHalf * r][g] = bf16_value(f.b[r] & 0xffff);
        b[2 * t + 1 + kHalf * r][g] = bf16_value(f.b[r] >> 16);
      } else {
        b[t + kHalf * r][g] = std::bit_cast<float>(f.b[r]);
      }
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const auto& f = *static_cast<Fragments*>(lanes[lane]);
    for (int r = 0; r < 4; ++r) {
      const int row = lane / 4 + 8 * (r / 2), column = 2 * (lane % 4) + r % 2;
      for (int k = 0; k < kDepth; ++k) f.d[r] += a[row][k] * b[k][column];
    }
  }
}

}  // namespace emulation

inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulation::Fragments mine{d, a, b};
  emulation::together(&mine, emulation::multiply<16>);
}
inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulation::Fragments mine{d, a, b};
  emulation::together(&mine, emulation::multiply<8>);
}

constexpr unsigned kWholeWarp = 0xffffffffu;

namespace emulation {
/// Every lane gets what lane from(lane) has, or its own where that is outside the warp.
template <class T, class From>
T shuffle(T x, const From& from) {
  struct Place {
    T in, out;
  } mine{x, x};
  together(&mine, [&](void** lanes) {
    for (int lane = 0; lane < 32; ++lane) {
      const int source = from(lane);
      auto& place = *static_cast<Place*>(lanes[lane]);
      if (source >= 0 && source < 32) place.out = static_cast<Place*>(lanes[source])->in;
    }
  });
  return mine.out;
}
}  // namespace emulation

template <class T>
T __shfl_xor_sync(unsigned, T x, int mask) {
  return emulation::shuffle(x, [=](int lane) { return lane ^ mask; });
}
template <class T>
T __shfl_down_sync(unsigned, T x, int by) {
  return emulation::shuffle(x, [=](int lane) { return lane + by; });
}
template <class T>
T __shfl_up_sync(unsigned, T x, int by) {
  return emulation::shuffle(x, [=](int lane) { return lane - by; });
}
template <class T>
T __shfl_sync(unsigned, T x, int source) {
  return emulation::shuffle(x, [=](int) { return source; });
}
inline unsigned __ballot_sync(unsigned, bool is_set) {
  struct Place {
    bool in;
    unsigned out;
  } mine{is_set, 0};
  emulation::together(&mine, [](void** lanes) {
    unsigned all = 0;
    for (int lane = 0; lane < 32; ++lane)
      all |= static_cast<unsigned>(static_cast<Place*>(lanes[lane])->in) << lane;
    for (int lane = 0; lane < 32; ++lane) static_cast<Place*>(lanes[lane])->out = all;
  });
  return mine.out;
}

inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32);
}
template <class T>
T add_rounded(T a, T b) {
  volatile T product = a;
  return product + b;
}
inline float __uint_as_float(uint32_t bits) { return std::bit_cast<float>(bits); }

}  // namespace evariste::cuda_emulated
