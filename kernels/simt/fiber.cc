#include "kernels/simt/fiber.h"

#include <cstdint>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#endif

#if defined(__x86_64__)
extern "C" void sluice_simt_switch(void** save, void* load);
// Callee-saved registers go to the stack, and the stack pointer to *save. No kernel changes the
// control words of x87 and SSE.
asm(R"(
.text
.type sluice_simt_switch, @function
sluice_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size sluice_simt_switch, .-sluice_simt_switch
)");
#endif

namespace sluice::simt::emulator {
namespace {

// Making a kernel's hundreds of stacks anew would cost more than many a kernel.
struct Stack {
  std::unique_ptr<char[]> bytes = std::make_unique_for_overwrite<char[]>(Context::kStackBytes);
#if defined(__SANITIZE_THREAD__)
  void* tsan = __tsan_create_fiber(0);
#endif
};
thread_local std::vector<Stack> stacks;

}  // namespace

#if defined(__SANITIZE_THREAD__)
Quiet::Quiet() {
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
}
Quiet::~Quiet() {
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}
void acquire(void* p) { __tsan_acquire(p); }
void release(void* p) { __tsan_release(p); }
#else
Quiet::Quiet() {}
Quiet::~Quiet() {}
void acquire(void*) {}
void release(void*) {}
#endif

void Context::use_stack(size_t i) {
  while (stacks.size() <= i) stacks.emplace_back();
  stack_ = stacks[i].bytes.get();
  bottom_ = stack_;
  size_ = kStackBytes;
#if defined(__SANITIZE_THREAD__)
  tsan_ = stacks[i].tsan;
#endif
}

void Context::use_own_stack() {
#if defined(__SANITIZE_THREAD__)
  tsan_ = __tsan_get_current_fiber();
#endif
}

void Context::reset(void (*entry)()) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack_, kStackBytes);  // the one before never returned
#endif
#if defined(__x86_64__)
  const auto top = reinterpret_cast<uintptr_t>(stack_ + kStackBytes) & ~uintptr_t{63};
  auto** sp = reinterpret_cast<void**>(top);
  *--sp = nullptr;  // where a call would have left its return address: keeps the alignment
  *--sp = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--sp = nullptr;
  stack_pointer_ = sp;
#else
  getcontext(&registers_);
  registers_.uc_stack.ss_sp = stack_;
  registers_.uc_stack.ss_size = kStackBytes;
  registers_.uc_link = nullptr;
  makecontext(&registers_, entry, 0);
#endif
}

// TSan must not count what is read here: who ends cannot look away and never look back.
__attribute__((no_sanitize("thread"))) void Context::switch_to(Context& to,
                                                               [[maybe_unused]] bool ends) {
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(to.tsan_, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(ends ? nullptr : &fake_stack_, to.bottom_, to.size_);
#endif
#if defined(__x86_64__)
  sluice_simt_switch(&stack_pointer_, to.stack_pointer_);
#else
  swapcontext(&registers_, &to.registers_);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
}

void Context::entered([[maybe_unused]] Context& caller) {
#if defined(__SANITIZE_ADDRESS__)
  // The first to come from the thread's own stack learns where that is.
  const void* bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  if (caller.bottom_ == nullptr) caller.bottom_ = bottom, caller.size_ = size;
#endif
}

}  // namespace sluice::simt::emulator
