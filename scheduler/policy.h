#pragma once

#include <cstdint>

#include "config/config.h"

namespace sluice {

// How the scheduler chooses: five orthogonal choices and the bounds they work within. A system of
// the field is one value of this struct, not a subclass. The enums name what is implemented.
struct Policy {
  // Who comes first, among the running and among the waiting.
  enum class Order : uint8_t {
    fcfs,  // by arrival; a preempted request keeps its place
  };
  // What one step may hold.
  enum class Step : uint8_t {
    chunked,  // decodes first, then chunks of several prompts (Sarathi-Serve, OSDI'24)
  };
  // What a request must find free to come in. One that was preempted max_preemptions times always
  // gets its whole remaining need set aside, whatever stands here: nobody takes from it again.
  enum class Reservation : uint8_t {
    paged,  // blocks of its known tokens (PagedAttention, SOSP'23), and a watermark left over
  };
  // How many tokens a step computes.
  enum class Budget : uint8_t {
    fixed,  // max_step_tokens
  };
  // What happens when a running sequence cannot grow.
  enum class Pressure : uint8_t {
    recompute,  // the last in order, all samples of the request together, gives its blocks back
  };

  Order order = Order::fcfs;
  Step step = Step::chunked;
  Reservation reservation = Reservation::paged;
  Budget budget = Budget::fixed;
  Pressure pressure = Pressure::recompute;

  int max_seqs = 256;
  int max_step_tokens = 512;
  int max_queue = 1024;
  int64_t max_queued_tokens = 0;  // 0: no limit
  int max_preemptions = 4;
  bool prefix_caching = true;

  // Bounded waiting: a waiting request that does not fit is passed over, up to max_passed of them
  // in a step, until max_overtakes later ones have come in before it. From then on it is starving,
  // and nobody behind it comes in until it has.
  int max_overtakes = 32;
  int max_passed = 8;
  // Share of the blocks that stays free when a request comes in while others run: they will grow.
  double watermark = 0.01;

  static Policy from(const Config::Scheduler& c, bool prefix_caching) {
    Policy p;
    p.max_seqs = c.max_seqs;
    p.max_step_tokens = c.max_step_tokens;
    p.max_queue = c.max_queue;
    p.max_queued_tokens = c.max_queued_tokens;
    p.max_preemptions = c.max_preemptions;
    p.prefix_caching = prefix_caching;
    return p;
  }
};

}  // namespace sluice
