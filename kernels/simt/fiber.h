// Stacks to switch between, and what the sanitizers must be told of them. For emulator.cc.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace sluice::simt::emulator {

// The emulator's own book-keeping is no memory traffic of the kernel's: TSan looks away.
struct Quiet {
  Quiet();
  ~Quiet();
};
// What TSan takes for an order of memory; nothing without it.
void acquire(void* p);
void release(void* p);

// Something that runs on a stack of its own: a fiber, or whoever started them all.
class Context {
 public:
  static constexpr size_t kStackBytes = 64 * 1024;

  // A fiber on the i-th stack of this OS thread; they are made once and used again.
  void use_stack(size_t i);
  // The thread's own stack.
  void use_own_stack();

  // It will begin with `entry`, which never returns.
  void reset(void (*entry)());
  // Goes on with `to`; returns when somebody comes back. `ends`: nobody will.
  void switch_to(Context& to, bool ends = false);
  // What `entry` does first; `caller`: what use_own_stack() was called on.
  static void entered(Context& caller);

 private:
  char* stack_ = nullptr;  // null: the thread's own
#if defined(__x86_64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t registers_;
#endif
  void* fake_stack_ = nullptr;  // of ASan
  const void* bottom_ = nullptr;
  size_t size_ = 0;
  void* tsan_ = nullptr;
};

}  // namespace sluice::simt::emulator
