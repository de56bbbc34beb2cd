#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "kernels/simt/fiber.h"
#include "kernels/simt/simt.h"

namespace sluice::simt {
namespace emulator {
namespace {

constexpr int kBarriers = 16;

struct Copy {
  unsigned char* dst;
  const void* src;
  bool valid;
};

struct Fiber {
  Context context;
  int tid = 0;
  std::vector<Copy> open;                    // issued, not committed
  std::vector<std::vector<Copy>> committed;  // oldest first
};

struct Barrier {
  int arrived = 0, expected = 0;
  uint64_t generation = 0;
  std::vector<uint32_t> waiting;  // [warps] lanes
  char order[2] = {};             // what TSan knows even and odd generations by
};

struct Warp {
  uint32_t ready = 0;  // lanes
  int arrived = 0;
  const char* call = nullptr;
  void* args[32] = {};
  uint64_t generation = 0;
  char order[2] = {};
};

// A place for a resident block; its fibers serve one block after the other.
struct Block {
  int id = 0, live = 0;
  unsigned char* shared = nullptr;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Barrier barriers[kBarriers];
};

struct Free {
  void operator()(void* p) const { std::free(p); }
};

struct Machine {
  LaunchConfig config;
  EmulatorOptions options;
  std::function<void()> body;
  std::vector<Block> blocks;
  std::vector<std::pair<int, int>> warps;  // (block, warp): the first that is ready runs
  std::vector<int> order;                  // of blocks
  size_t next_block = 0;
  std::mt19937_64 random;
  // Kept to the end: TSan must not see an address twice.
  std::vector<std::unique_ptr<void, Free>> shared;
  Context caller;
  Block* block = nullptr;  // of the running fiber
  Fiber* fiber = nullptr;  // null: the caller runs
  bool until_wait = false;
  char begin = 0, end = 0;
};

thread_local Machine* machine = nullptr;
thread_local EmulatorOptions options;
thread_local EmulatorCounters counters;

Machine& running() {
  if (machine == nullptr || machine->fiber == nullptr) die("a kernel's call outside of a kernel");
  return *machine;
}

// ---- scheduling of fibers ----

// The next to run becomes the running fiber; the caller then switches to it.
Context& choose() {
  Machine& m = *machine;
  const Order order = m.options.order;
  if (order == Order::random && m.random() % 64 == 0)
    std::shuffle(m.warps.begin(), m.warps.end(), m.random);
  for (const auto& [slot, warp] : m.warps) {
    Block& block = m.blocks[size_t(slot)];
    const uint32_t ready = block.warps[size_t(warp)].ready;
    if (ready == 0) continue;
    int lane = std::countr_zero(ready);
    if (order == Order::reverse) lane = 31 - std::countl_zero(ready);
    if (order == Order::random) {
      const int turn = int(m.random() % 32);
      lane = (std::countr_zero(std::rotr(ready, turn)) + turn) % 32;
    }
    ++counters.switches;
    m.block = &block;
    m.fiber = &block.fibers[size_t(warp * 32 + lane)];
    return m.fiber->context;
  }
  die("deadlock: some threads wait at a barrier or collective that the others never reach");
}

// Others run; returns when this fiber is chosen again.
void yield(Fiber& self) {
  Context& next = choose();
  if (machine->fiber != &self) self.context.switch_to(next);
}

void set_waiting(Machine& m) {
  m.block->warps[size_t(m.fiber->tid / 32)].ready &= ~(1u << (m.fiber->tid % 32));
}

[[noreturn]] void end_fiber(Machine* m) {
  release(&m->end);
  Context *self, *next;
  {
    Quiet quiet;
    Fiber& fiber = *m->fiber;
    if (!fiber.open.empty() || !fiber.committed.empty())
      die("a thread ended with cp.async in flight");
    set_waiting(*m);
    self = &fiber.context;
    if (--m->block->live > 0) {
      next = &choose();
    } else {
      m->fiber = nullptr;
      next = &m->caller;
    }
  }
  self->switch_to(*next, true);
  std::abort();
}

void fiber_main() {
  Machine* m;
  {
    Quiet quiet;  // read before the fiber is in any order with the launch
    m = machine;
    Context::entered(m->caller);
  }
  acquire(&m->begin);
  m->body();
  if (m->until_wait) die("a kernel that does not wait for earlier ones");
  end_fiber(m);
}

void start_next(Block& block) {
  Machine& m = *machine;
  block.id = m.order[m.next_block++];
  block.live = m.config.num_threads;
  const size_t bytes = std::max<size_t>(m.config.shared_bytes, 16);
  void* p = nullptr;
  if (posix_memalign(&p, 128, bytes) != 0) die("no memory for a block");
  m.shared.emplace_back(p);
  std::memset(p, 0xff, bytes);  // NaN as any float; -1 as an integer
  block.shared = static_cast<unsigned char*>(p);
  for (Fiber& f : block.fibers) f.context.reset(fiber_main);
  for (Warp& w : block.warps) w.ready = ~0u;
}

void build(Machine& m) {
  const int num_warps = m.config.num_threads / 32;
  const int num_blocks = m.until_wait ? 1 : m.config.num_blocks;
  for (int i = 0; i < num_blocks; ++i) m.order.push_back(i);
  m.blocks.resize(size_t(std::min(m.options.resident_blocks, num_blocks)));
  for (int b = 0; b < int(m.blocks.size()); ++b) {
    for (int w = 0; w < num_warps; ++w) m.warps.push_back({b, w});
  }
  if (m.options.order == Order::reverse) {
    std::reverse(m.order.begin(), m.order.end());
    std::reverse(m.warps.begin(), m.warps.end());
  }
  if (m.options.order == Order::random) {
    std::shuffle(m.order.begin(), m.order.end(), m.random);
    std::shuffle(m.warps.begin(), m.warps.end(), m.random);
  }
  size_t next_stack = 0;
  for (Block& block : m.blocks) {
    block.fibers.resize(size_t(m.config.num_threads));
    block.warps.resize(size_t(num_warps));
    for (Barrier& b : block.barriers) b.waiting.assign(size_t(num_warps), 0);
    for (int t = 0; t < m.config.num_threads; ++t) {
      Fiber& f = block.fibers[size_t(t)];
      f.tid = t;
      f.context.use_stack(next_stack++);
    }
    start_next(block);
  }
}

}  // namespace

void die(const char* rule) {
  std::fflush(stdout);
  std::fprintf(stderr, "simt: %s\n", rule);
  std::_Exit(3);
}

int thread_id() { return running().fiber->tid; }
int num_threads() { return running().config.num_threads; }
int block_id() { return running().block->id; }
int num_blocks() { return running().config.num_blocks; }

void check_waited() {
  if (machine != nullptr && machine->until_wait)
    die("a kernel does something before it waits for earlier ones");
}

unsigned char* shared_memory(size_t bytes) {
  check_waited();
  if (bytes > running().config.shared_bytes) die("launched with too little shared memory");
  return running().block->shared;
}

void let_others_run() {
  check_waited();
  Quiet quiet;
  yield(*running().fiber);
}

void barrier(int id, int expected) {
  check_waited();
  Barrier* b;
  char* order;
  {
    Quiet quiet;
    Machine& m = running();
    if (id < 0 || id >= kBarriers) die("a barrier that does not exist");
    if (expected % 32 != 0 || expected > m.config.num_threads)
      die("a barrier for a number of threads that cannot meet");
    b = &m.block->barriers[id];
    if (b->arrived == 0) b->expected = expected;
    if (b->expected != expected) die("a barrier is used with two thread counts at once");
    order = &b->order[b->generation % 2];
  }
  release(order);
  {
    Quiet quiet;
    Machine& m = running();
    Fiber& self = *m.fiber;
    b->waiting[size_t(self.tid / 32)] |= 1u << (self.tid % 32);
    set_waiting(m);
    if (++b->arrived == b->expected) {
      b->arrived = 0;
      ++b->generation;
      for (size_t w = 0; w < b->waiting.size(); ++w)
        m.block->warps[w].ready |= std::exchange(b->waiting[w], 0);
    }
    yield(self);
  }
  acquire(order);
}

void collective(const char* call, void* args, WarpOp op) {
  check_waited();
  Quiet quiet;
  Machine& m = running();
  Fiber& self = *m.fiber;
  Warp& w = m.block->warps[size_t(self.tid / 32)];
  if (w.arrived == 0) w.call = call;
  if (std::strcmp(w.call, call) != 0) die("the lanes of a warp met in different collectives");
  w.args[self.tid % 32] = args;
  set_waiting(m);
  if (++w.arrived == 32) {
    w.arrived = 0;
    ++w.generation;
    op(w.args);
    w.ready = ~0u;
  }
  yield(self);
}

void check_aligned_16(const void* p) {
  check_waited();
  if (reinterpret_cast<uintptr_t>(p) % 16 != 0) die("address not 16-byte aligned");
}

void check_shared(const void* p, size_t bytes) {
  check_waited();
  const Machine& m = running();
  const auto* c = static_cast<const unsigned char*>(p);
  if (c < m.block->shared || c + bytes > m.block->shared + m.config.shared_bytes)
    die("address outside the block's shared memory");
}

void check_shared_16(const void* p) {
  check_shared(p, 16);
  check_aligned_16(p);
}

void cp_async_wait(size_t pending) {
  std::vector<std::vector<Copy>>& groups = running().fiber->committed;
  while (groups.size() > pending) {
    for (const Copy& c : groups.front()) {
      if (c.valid) {
        std::memcpy(c.dst, c.src, 16);
      } else {
        std::memset(c.dst, 0, 16);
      }
    }
    groups.erase(groups.begin());
  }
}

}  // namespace emulator

EmulatorOptions& emulator_options() { return emulator::options; }
EmulatorCounters& emulator_counters() { return emulator::counters; }

namespace emulator {
namespace {

void run(const LaunchConfig& config, std::function<void()> body, bool until_wait) {
  if (machine != nullptr) die("a launch inside of a kernel");
  if (config.num_threads < 32 || config.num_threads > 1024 || config.num_threads % 32 != 0)
    die("a launch needs whole warps, at most 32 of them");
  if (config.num_blocks < 1) die("a launch needs a block");
  Machine m;
  m.config = config;
  m.options = options;
  m.body = std::move(body);
  m.until_wait = until_wait;
  m.random.seed(m.options.seed);
  m.caller.use_own_stack();
  machine = &m;
  build(m);
  counters.launches += !until_wait;
  release(&m.begin);
  for (size_t resident = m.blocks.size(); resident > 0;) {
    Quiet quiet;
    Context& next = choose();
    m.caller.switch_to(next);  // back when a block has ended, which is m.block
    if (m.next_block < m.order.size()) {
      start_next(*m.block);
    } else {
      --resident;
    }
  }
  acquire(&m.end);
  machine = nullptr;
}

}  // namespace
}  // namespace emulator

void emulate(const LaunchConfig& config, std::function<void()> body) {
  emulator::run(config, std::move(body), false);
}

void emulate_until_wait(const void* kernel, const LaunchConfig& config,
                        std::function<void()> body) {
  static thread_local std::set<const void*> seen;
  if (seen.insert(kernel).second) emulator::run(config, std::move(body), true);
}

void wait_for_earlier() {
  using namespace emulator;
  if (running().until_wait) end_fiber(machine);
}

void sync_warp() {
  emulator::Warp* w;
  char* order;
  {
    emulator::Quiet quiet;
    emulator::Machine& m = emulator::running();
    w = &m.block->warps[size_t(m.fiber->tid / 32)];
    order = &w->order[w->generation % 2];
  }
  emulator::release(order);
  emulator::collective("sync_warp", nullptr, [](void* const*) {});
  emulator::acquire(order);
}

uint32_t atomic_add_acq_rel(uint32_t* p, uint32_t v) {
  const uint32_t old = __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL);
  emulator::let_others_run();  // another block may come between
  return old;
}

uint32_t atomic_add_shared(uint32_t* p, uint32_t v) {
  emulator::check_shared(p, sizeof(*p));
  const uint32_t old = __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
  emulator::let_others_run();  // in whatever order
  return old;
}

void cp_async_16(void* dst, const void* src, bool valid) {
  emulator::check_shared_16(dst);
  emulator::check_aligned_16(src);
  std::memset(dst, 0xff, 16);
  emulator::Quiet quiet;
  ++emulator::counters.cp_async;
  emulator::running().fiber->open.push_back({static_cast<unsigned char*>(dst), src, valid});
}

void cp_async_commit() {
  emulator::Quiet quiet;
  emulator::Fiber& f = *emulator::running().fiber;
  f.committed.push_back(std::exchange(f.open, {}));
}

}  // namespace sluice::simt
