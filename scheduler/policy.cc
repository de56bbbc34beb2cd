#include "scheduler/policy.h"

#include <array>
#include <string_view>
#include <utility>

namespace sluice {
namespace {

template <class E>
using Names = std::initializer_list<std::pair<std::string_view, E>>;

template <class E>
absl::Status read_choice(std::string_view knob, std::string_view text, Names<E> names, E& out) {
  for (const auto& [name, value] : names) {
    if (name != text) continue;
    out = value;
    return absl::OkStatus();
  }
  return invalid_argument("{}: '{}' is not a value that is known here", knob, text);
}

absl::Status read_choices(const Config::Scheduler& c, Policy& p) {
  using P = Policy;
  bool on = false;
  for (const absl::Status& status : {
           read_choice("scheduler.order", c.order,
                       Names<P::Order>{{"fcfs", P::Order::fcfs},
                                       {"fcfs_strict", P::Order::fcfs_strict},
                                       {"mlfq", P::Order::mlfq}},
                       p.order),
           read_choice("scheduler.step", c.step,
                       Names<P::Step>{{"chunked", P::Step::chunked},
                                      {"whole", P::Step::whole},
                                      {"prefill_first", P::Step::prefill_first},
                                      {"batch", P::Step::batch},
                                      {"ratio", P::Step::ratio}},
                       p.step),
           read_choice("scheduler.reservation", c.reservation,
                       Names<P::Reservation>{{"paged", P::Reservation::paged},
                                             {"full", P::Reservation::full}},
                       p.reservation),
           read_choice("scheduler.budget", c.budget,
                       Names<P::Budget>{{"fixed", P::Budget::fixed},
                                        {"target", P::Budget::target},
                                        {"split_fuse", P::Budget::split_fuse}},
                       p.budget),
           read_choice("scheduler.pressure", c.pressure,
                       Names<P::Pressure>{{"recompute", P::Pressure::recompute},
                                          {"swap", P::Pressure::swap},
                                          {"swap_groups", P::Pressure::swap_groups},
                                          {"cheapest", P::Pressure::cheapest}},
                       p.pressure),
           read_choice("scheduler.proactive", c.proactive,
                       Names<bool>{{"on", true}, {"off", false}}, on),
           read_choice("scheduler.promotion", c.promotion,
                       Names<P::Promotion>{{"restart", P::Promotion::restart},
                                           {"visit", P::Promotion::visit}},
                       p.promotion),
       }) {
    if (!status.ok()) return status;
  }
  p.proactive = on;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Policy> Policy::from(const Config::Scheduler& c, const Config::Cache& cache) {
  Policy p;
  if (absl::Status status = read_choices(c, p); !status.ok()) return status;
  if (c.max_step_tokens < 1)
    return invalid_argument("scheduler.max_step_tokens: {} is not positive", c.max_step_tokens);
  p.max_seqs = c.max_seqs;
  p.max_rows = c.max_rows;
  p.max_step_tokens = c.max_step_tokens;
  p.max_queue = c.max_queue;
  p.max_queued_tokens = c.max_queued_tokens;
  p.max_preemptions = c.max_preemptions;
  p.min_residency = c.min_residency;
  p.prefix_caching = p.write_behind = cache.prefix_caching;
  p.token_interval = c.token_interval_ms / 1e3;
  p.interval_factor = c.interval_factor;
  p.max_prefill_steps = c.max_prefill_steps;
  p.tile_tokens = c.tile_tokens;
  p.quantum = c.quantum_ms / 1e3;
  p.promote_after =
      std::chrono::duration_cast<Nanos>(std::chrono::duration<double, std::milli>(c.promote_ms));
  p.promote_growth = c.promote_growth;
  p.waiting_ratio = c.waiting_ratio;
  p.max_waiting_steps = c.max_waiting_steps;
  return p;
}

}  // namespace sluice
