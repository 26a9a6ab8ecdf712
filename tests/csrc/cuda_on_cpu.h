// A CUDA kernel on the CPU. Include this before the kernel's source and the host's compiler takes it; cuda_on_cpu::launch runs it.
// Each CUDA thread is a fiber: a stack of its own, left where the thread waits for others. One block runs after another, on one
// thread of the operating system, in an order that the test chooses and can repeat. What hardware leaves undefined is an error.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#define CUDA_ON_CPU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CUDA_ON_CPU_ASAN 1
#endif
#endif

#if !defined(__x86_64__) && !defined(CUDA_ON_CPU_PORTABLE)
#define CUDA_ON_CPU_PORTABLE  // can also be defined from outside, to test it
#endif

#if defined(CUDA_ON_CPU_ASAN) && !defined(CUDA_ON_CPU_STACK)
#define CUDA_ON_CPU_STACK 524288  // its frames are wider
#elif !defined(CUDA_ON_CPU_STACK)
#define CUDA_ON_CPU_STACK 65536  // bytes for each thread; a multiple of the page's size
#endif

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(CUDA_ON_CPU_PORTABLE)
#include <ucontext.h>
#endif
#if defined(CUDA_ON_CPU_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace cuda_on_cpu {

// --- fibers ----------------------------------------------------------------------------------------------------------------

#if defined(CUDA_ON_CPU_PORTABLE)
using Context = ucontext_t;

inline void prepare(Context* context, char* stack, void (*body)()) {
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = CUDA_ON_CPU_STACK;
  context->uc_link = nullptr;
  makecontext(context, body, 0);
}

inline void switch_context(Context* from, Context* to) { swapcontext(from, to); }
#else
using Context = void*;  // the stack pointer; on the stack are the registers that a function has to keep

inline void prepare(Context* context, char* stack, void (*body)()) {
  void** top = reinterpret_cast<void**>(stack + CUDA_ON_CPU_STACK);
  *--top = nullptr;  // where `body` would return to, which it never does
  *--top = reinterpret_cast<void*>(body);
  *context = top - 6;
}

#if defined(__clang__)
__attribute__((naked, noinline))
#else
__attribute__((naked, noipa))  // or the caller is compiled as if only the registers named below changed
#endif
inline void switch_context(Context* /*from: rdi*/, Context* /*to: rsi*/) {
  __asm__(
      "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
      "movq %rsp, (%rdi)\n movq (%rsi), %rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n"
      "ret");
}
#endif

class Fiber {
 public:
  explicit Fiber(void (*body)()) : guard_(sysconf(_SC_PAGESIZE)), body_(body) {
    void* memory = mmap(nullptr, guard_ + CUDA_ON_CPU_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<char*>(memory);
    mprotect(memory_, guard_, PROT_NONE);  // a stack that overflows is a segmentation fault
    prepare(&context_, memory_ + guard_, &start);
  }
  Fiber(const Fiber&) = delete;
  ~Fiber() {
#if defined(CUDA_ON_CPU_ASAN)
    __asan_unpoison_memory_region(memory_ + guard_, CUDA_ON_CPU_STACK);  // the next to get this memory finds no traces
#endif
    munmap(memory_, guard_ + CUDA_ON_CPU_STACK);
  }

  // From the scheduler into the fiber, until that leaves.
  void enter() {
    running_ = this;
#if defined(CUDA_ON_CPU_ASAN)
    void* fake_stack;
    __sanitizer_start_switch_fiber(&fake_stack, memory_ + guard_, CUDA_ON_CPU_STACK);
#endif
    switch_context(&scheduler_, &context_);
#if defined(CUDA_ON_CPU_ASAN)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }

  // From the running fiber back to the scheduler, until that enters the fiber again.
  static void leave() {
    Fiber* self = running_;
#if defined(CUDA_ON_CPU_ASAN)
    __sanitizer_start_switch_fiber(&self->fake_stack_, scheduler_stack_, scheduler_stack_size_);
#endif
    switch_context(&self->context_, &scheduler_);
    self->arrived();
  }

 private:
  static void start() {
    running_->arrived();
    running_->body_();
  }

  void arrived() {
#if defined(CUDA_ON_CPU_ASAN)
    __sanitizer_finish_switch_fiber(fake_stack_, &scheduler_stack_, &scheduler_stack_size_);
#endif
  }

  inline static Fiber* running_;
  inline static Context scheduler_;
  size_t guard_;
  char* memory_;
  void (*body_)();
  Context context_;
#if defined(CUDA_ON_CPU_ASAN)
  void* fake_stack_ = nullptr;
  inline static const void* scheduler_stack_;
  inline static size_t scheduler_stack_size_;
#endif
};

// --- a launch --------------------------------------------------------------------------------------------------------------

enum class Order { kNatural, kReversed, kShuffled };

struct Settings {
  Order order = Order::kNatural;  // of the blocks, and of the threads that can run, anew each time round
  uint64_t seed = 0;
};

struct Dimensions {
  unsigned x, y, z;
};
// Of a launch, in blocks.
struct Grid {
  Grid(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  unsigned x, y, z;
};

inline Dimensions thread_index{0, 0, 0}, block_index{0, 0, 0}, block_size{1, 1, 1}, grid_size{1, 1, 1};

constexpr unsigned kWarp = 32;

struct Where {
  const char* file;
  int line;
};

// As a default argument: where the function is called that has it.
constexpr Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }

// What a thread waits at. Threads can meet where all of this is the same.
struct Call {
  const char* operation;
  Where where;
  uint32_t mask;  // 0 for __syncthreads
  int width;

  bool meets(const Call& other) const {
    const auto same = [](const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; };
    return same(operation, other.operation) && same(where.file, other.where.file) && where.line == other.where.line &&
           mask == other.mask && width == other.width;
  }

  std::string text() const {
    const std::string place = std::string(operation) + " (" + where.file + ":" + std::to_string(where.line);
    char rest[48] = ")";
    if (mask != 0) std::snprintf(rest, sizeof rest, ", mask 0x%08x, width %d)", mask, width);
    return place + rest;
  }
};

struct Thread {
  enum State { kReady, kWaiting, kReturned } state;
  Call call;                     // while it waits
  uint64_t value;                // what it brings to a warp operation
  unsigned source;               // the lane whose value it takes away
  uint64_t result;               // that value
  uint32_t ballot;               // the lanes of the mask whose value is not zero
  std::unique_ptr<Fiber> fiber;  // from its start until it returns
};

class Launch {
 public:
  Launch(const Settings& settings, std::function<void()> kernel) : settings_(settings), kernel_(std::move(kernel)) {}

  void run(Grid grid, unsigned block) {
    if (current != nullptr) throw std::runtime_error("a kernel cannot launch another one");
    const unsigned count = grid.x * grid.y * grid.z;
    if (count < 1 || block < 1 || block > 1024 || grid.y > 65535 || grid.z > 65535) {
      throw std::runtime_error("cannot launch " + std::to_string(count) + " blocks of " + std::to_string(block) + " threads");
    }
    struct Running {
      explicit Running(Launch* launch) { current = launch; }
      ~Running() { current = nullptr; }
    } running(this);
    grid_size = {grid.x, grid.y, grid.z}, block_size.x = block;
    threads_ = std::vector<Thread>(block);
    ranks_.resize((block + kWarp - 1) / kWarp);
    std::vector<unsigned> blocks(count);
    std::iota(blocks.begin(), blocks.end(), 0u);
    arrange(blocks);
    for (const unsigned index : blocks) run_block(index);
  }

  // The calling thread waits until the whole block is at this call.
  void meet_block(const Call& call) {
    if (at_barrier_ == 0) first_at_barrier_ = running_;
    const Call& expected = threads_[first_at_barrier_].call;
    if (at_barrier_ != 0 && !expected.meets(call)) {
      fail(at(first_at_barrier_, expected) + ", but " + at(running_, call));
    }
    if (returned_ != 0) fail(at(running_, call) + ", but " + returned(call));
    wait(call);
    if (++at_barrier_ == threads_.size()) {
      at_barrier_ = 0;
      for (Thread& thread : threads_) thread.state = Thread::kReady;
    }
    Fiber::leave();
  }

  // The calling thread waits until all lanes of the mask are at this call; then its `result` and `ballot` are right.
  const Thread& meet_warp(const Call& call, uint64_t value, unsigned source) {
    const unsigned lane = running_ % kWarp, first = running_ - lane;
    const auto names = [](const Call& a_call, unsigned a_lane) { return (a_call.mask >> a_lane & 1) != 0; };
    const auto lane_text = [](unsigned a_lane) { return "lane " + std::to_string(a_lane); };
    if (!names(call, lane)) fail(at(running_, call) + ", but is " + lane_text(lane) + ", which the mask does not name");
    if (!names(call, source)) fail(at(running_, call) + " and reads " + lane_text(source) + ", which the mask does not name");
    bool all_here = true;
    for (unsigned i = 0; i < kWarp; ++i) {
      if (first + i >= threads_.size()) {
        if (names(call, i)) fail(at(running_, call) + " for " + lane_text(i) + ", but the block ends before it");
        continue;
      }
      const Thread& other = threads_[first + i];
      const bool at_warp = other.state == Thread::kWaiting && other.call.mask != 0;
      if (at_warp && (names(call, i) || names(other.call, lane)) && !other.call.meets(call)) {
        fail(at(first + i, other.call) + ", but " + at(running_, call));
      }
      if (names(call, i) && other.state == Thread::kReturned) fail(at(running_, call) + ", but " + returned(call));
      all_here = all_here && (!names(call, i) || at_warp || i == lane);
    }
    Thread& self = threads_[running_];
    self.value = value, self.source = source;
    wait(call);
    if (all_here) {
      uint32_t ballot = 0;
      for (unsigned i = 0; i < kWarp; ++i) ballot |= uint32_t{names(call, i) && threads_[first + i].value != 0} << i;
      for (unsigned i = 0; i < kWarp; ++i) {
        if (!names(call, i)) continue;
        Thread& thread = threads_[first + i];
        thread.state = Thread::kReady, thread.ballot = ballot, thread.result = threads_[first + thread.source].value;
      }
    }
    Fiber::leave();
    return self;
  }

  [[noreturn]] static void fail(const std::string& what) {
    std::string index = std::to_string(block_index.x);
    if (grid_size.y * grid_size.z > 1) index += ", " + std::to_string(block_index.y) + ", " + std::to_string(block_index.z);
    throw std::runtime_error("block " + index + ": " + what);
  }

  inline static Launch* current = nullptr;

 private:
  void run_block(unsigned index) {
    block_index = {index % grid_size.x, index / grid_size.x % grid_size.y, index / grid_size.x / grid_size.y};
    returned_ = at_barrier_ = 0;
    for (Thread& thread : threads_) thread.state = Thread::kReady;
    const uint64_t ranks = settings_.order == Order::kShuffled ? uint64_t{1} << random() % 4 : 1;
    for (uint64_t& rank : ranks_) rank = random() % ranks;
    while (returned_ < threads_.size()) {
      choose_round();
      if (round_.empty()) fail("deadlock: " + who_waits());
      for (turn_ = 0; turn_ < round_.size();) {
        Thread& thread = take_turn();
        if (thread.fiber == nullptr && !idle_.empty()) {
          thread.fiber = std::move(idle_.back());
          idle_.pop_back();
        } else if (thread.fiber == nullptr) {
          thread.fiber = std::make_unique<Fiber>([] {
            for (;; Fiber::leave()) current->run_threads();
          });
        }
        thread.fiber->enter();
        if (failure_) std::rethrow_exception(failure_);
      }
    }
  }

  // The threads that can run, in their order; but of a shuffled block those of the lowest rank only. So some warps run far ahead
  // of others, as they may on a GPU, where otherwise a step of one would always go with a step of each other.
  void choose_round() {
    round_.clear();
    uint64_t lowest = ~uint64_t{0};
    for (unsigned i = 0; i < threads_.size(); ++i) {
      const uint64_t rank = ranks_[i / kWarp];
      if (threads_[i].state != Thread::kReady || rank > lowest) continue;
      if (rank < lowest) round_.clear();
      lowest = rank;
      round_.push_back(i);
    }
    arrange(round_);
  }

  Thread& take_turn() {
    running_ = thread_index.x = round_[turn_++];
    return threads_[running_];
  }

  // In a fiber: one thread after another, for as long as none has to wait.
  void run_threads() {
    try {
      for (;;) {
        kernel_();
        Thread& thread = threads_[running_];
        thread.state = Thread::kReturned;
        ++returned_;
        check_return();
        std::unique_ptr<Fiber> fiber = std::move(thread.fiber);
        if (turn_ == round_.size() || threads_[round_[turn_]].fiber != nullptr) return idle_.push_back(std::move(fiber));
        take_turn().fiber = std::move(fiber);
      }
    } catch (...) {
      failure_ = std::current_exception();
    }
  }

  void check_return() const {
    const auto awaits = [&](unsigned i, const Call& call) { fail(at(i, call) + ", but " + returned(call)); };
    if (at_barrier_ != 0) awaits(first_at_barrier_, threads_[first_at_barrier_].call);
    const unsigned lane = running_ % kWarp, first = running_ - lane;
    for (unsigned i = first; i < first + kWarp && i < threads_.size(); ++i) {
      const Thread& other = threads_[i];
      if (other.state == Thread::kWaiting && (other.call.mask >> lane & 1) != 0) awaits(i, other.call);
    }
  }

  void wait(const Call& call) {
    threads_[running_].state = Thread::kWaiting;
    threads_[running_].call = call;
  }

  uint64_t random() {  // SplitMix64: G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", 2014
    uint64_t x = settings_.seed += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
  }

  void arrange(std::vector<unsigned>& items) {
    if (settings_.order == Order::kReversed) std::reverse(items.begin(), items.end());
    if (settings_.order != Order::kShuffled) return;
    for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[(random() >> 32) * i >> 32]);
  }

  static std::string at(unsigned thread, const Call& call) {
    return "thread " + std::to_string(thread) + " is at " + call.text();
  }

  // "threads 0-3, 7"
  static std::string list(const std::vector<unsigned>& threads) {
    std::string text = threads.size() == 1 ? "thread " : "threads ";
    for (size_t i = 0, last; i < threads.size(); i = last + 1) {
      for (last = i; last + 1 < threads.size() && threads[last + 1] == threads[last] + 1;) ++last;
      text += (i == 0 ? "" : ", ") + std::to_string(threads[i]) + (last == i ? "" : "-" + std::to_string(threads[last]));
    }
    return text;
  }

  // Of those that a thread of the running one's warp waits for.
  std::string returned(const Call& call) const {
    std::vector<unsigned> them;
    for (unsigned i = 0; i < threads_.size(); ++i) {
      const bool awaited = call.mask == 0 || (i / kWarp == running_ / kWarp && (call.mask >> i % kWarp & 1) != 0);
      if (awaited && threads_[i].state == Thread::kReturned) them.push_back(i);
    }
    return list(them) + " returned from the kernel";
  }

  std::string who_waits() const {
    std::vector<bool> told(threads_.size());
    std::string text;
    for (unsigned i = 0; i < threads_.size(); ++i) {
      std::vector<unsigned> them;
      for (unsigned j = i; j < threads_.size(); ++j) {
        if (threads_[j].state != Thread::kWaiting || told[j] || !threads_[j].call.meets(threads_[i].call)) continue;
        them.push_back(j);
        told[j] = true;
      }
      if (!them.empty()) text += (text.empty() ? "" : "; ") + list(them) + " at " + threads_[i].call.text();
    }
    return text;
  }

  inline static std::vector<std::unique_ptr<Fiber>> idle_;  // kept from launch to launch
  Settings settings_;
  std::function<void()> kernel_;
  std::vector<Thread> threads_;   // of the block; those that an error leaves behind take their fibers with them
  std::vector<uint64_t> ranks_;   // of its warps
  std::vector<unsigned> round_;   // the threads whose turn it is before all others are looked at again
  size_t turn_ = 0;               // the next one's place in it
  unsigned running_ = 0;
  unsigned returned_ = 0, at_barrier_ = 0, first_at_barrier_ = 0;
  std::exception_ptr failure_;
};

// kernel<<<grid, block>>>(arguments...), with a copy of the arguments for each thread. Throws std::runtime_error where the kernel
// does what it may not, and what the kernel itself throws.
template <class... Parameters, class... Arguments>
void launch(const Settings& settings, void (*kernel)(Parameters...), Grid grid, unsigned block,
            const Arguments&... arguments) {
  Launch(settings, [&] { kernel(arguments...); }).run(grid, block);
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), Grid grid, unsigned block, const Arguments&... arguments) {
  launch(Settings{}, kernel, grid, block, arguments...);
}

inline const Thread& vote(const char* operation, uint32_t mask, bool value, Where where) {
  return Launch::current->meet_warp({operation, where, mask, int{kWarp}}, value, thread_index.x % kWarp);
}

// As PTX's shfl: the distance counts modulo 32; a lane that would read beyond the end of its segment of `width` lanes (before its
// start, for "up") gets its own value.
enum class Shuffle { kIndex, kUp, kDown, kXor };

template <Shuffle kind, class T>
T shuffle(const char* operation, uint32_t mask, T value, unsigned distance, int width, Where where) {
  static_assert(std::is_trivially_copyable<T>::value && sizeof(T) <= sizeof(uint64_t), "shuffles take up to 8 bytes");
  const Call call{operation, where, mask, width};
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) Launch::fail(call.text() + ": the width is no power of two up to 32");
  const int lane = static_cast<int>(thread_index.x % kWarp), start = lane & -width, last = start + width - 1;
  const int by = static_cast<int>(distance % kWarp);
  const int source = kind == Shuffle::kIndex  ? start + (by & (width - 1))
                     : kind == Shuffle::kUp   ? lane - by
                     : kind == Shuffle::kDown ? lane + by
                                              : lane ^ by;
  const bool inside = kind == Shuffle::kUp ? source >= start : source <= last;
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = Launch::current->meet_warp(call, bits, static_cast<unsigned>(inside ? source : lane)).result;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace cuda_on_cpu

// --- CUDA's names ----------------------------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // one copy is enough, for only one block runs at a time; it keeps what the last block left in it

inline constexpr int warpSize = cuda_on_cpu::kWarp;
inline const cuda_on_cpu::Dimensions &threadIdx = cuda_on_cpu::thread_index, &blockIdx = cuda_on_cpu::block_index,
                                     &blockDim = cuda_on_cpu::block_size, &gridDim = cuda_on_cpu::grid_size;

inline void __syncthreads(cuda_on_cpu::Where where = cuda_on_cpu::here()) {
  cuda_on_cpu::Launch::current->meet_block({"__syncthreads", where, 0, 0});
}

inline void __syncwarp(unsigned mask = 0xffffffff, cuda_on_cpu::Where where = cuda_on_cpu::here()) {
  cuda_on_cpu::vote("__syncwarp", mask, false, where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, cuda_on_cpu::Where where = cuda_on_cpu::here()) {
  return cuda_on_cpu::vote("__ballot_sync", mask, predicate != 0, where).ballot;
}

inline int __any_sync(unsigned mask, int predicate, cuda_on_cpu::Where where = cuda_on_cpu::here()) {
  return cuda_on_cpu::vote("__any_sync", mask, predicate != 0, where).ballot != 0;
}

inline int __all_sync(unsigned mask, int predicate, cuda_on_cpu::Where where = cuda_on_cpu::here()) {
  return cuda_on_cpu::vote("__all_sync", mask, predicate != 0, where).ballot == mask;
}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = warpSize, cuda_on_cpu::Where where = cuda_on_cpu::here()) {
  return cuda_on_cpu::shuffle<cuda_on_cpu::Shuffle::kIndex>("__shfl_sync", mask, value, lane, width, where);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize, cuda_on_cpu::Where where = cuda_on_cpu::here()) {
  return cuda_on_cpu::shuffle<cuda_on_cpu::Shuffle::kUp>("__shfl_up_sync", mask, value, delta, width, where);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                   cuda_on_cpu::Where where = cuda_on_cpu::here()) {
  return cuda_on_cpu::shuffle<cuda_on_cpu::Shuffle::kDown>("__shfl_down_sync", mask, value, delta, width, where);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = warpSize, cuda_on_cpu::Where where = cuda_on_cpu::here()) {
  return cuda_on_cpu::shuffle<cuda_on_cpu::Shuffle::kXor>("__shfl_xor_sync", mask, value, lanes, width, where);
}
