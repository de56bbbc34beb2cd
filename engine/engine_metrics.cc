#include "engine/engine_metrics.h"

namespace sluice {

struct EngineMetrics::Counted {
  int64_t Scheduler::Stats::*field;
  prometheus::Counter& (*counter)(Metrics&);
};

using Stats = Scheduler::Stats;

const EngineMetrics::Counted EngineMetrics::kCounted[] = {
    {&Stats::generated_tokens, [](Metrics& m) -> auto& {return m.generation_tokens;
}  // namespace sluice
}
, {&Stats::prompt_tokens, [](Metrics& m) -> auto& {return m.prefix_queries;
}
}
, {&Stats::cached_tokens, [](Metrics& m) -> auto& {return m.prefix_hits;
}
}
, {&Stats::host_cached_tokens, [](Metrics& m) -> auto& {return m.host_prefix_hits;
}
}
, {&Stats::preemptions, [](Metrics& m) -> auto& {return m.preemptions;
}
}
, {&Stats::swaps, [](Metrics& m) -> auto& {return m.preemptions_by_mode("swap");
}
}
, {&Stats::proactive, [](Metrics& m) -> auto& {return m.preemptions_by_reason("proactive");
}
}
, {&Stats::blocks_out, [](Metrics& m) -> auto& {return m.swapped_blocks("out");
}
}
, {&Stats::blocks_in, [](Metrics& m) -> auto& {return m.swapped_blocks("in");
}
}
, {&Stats::written_behind, [](Metrics& m) -> auto& {return m.written_behind_blocks;
}
}
, {&Stats::demotions, [](Metrics& m) -> auto& {return m.demotions;
}
}
, {&Stats::promotions, [](Metrics& m) -> auto& {return m.promotions;
}
}
, {&Stats::livelocks, [](Metrics& m) -> auto& {return m.livelocks;
}
}
, {&Stats::wasted_cancel, [](Metrics& m) -> auto& {return m.wasted_tokens("cancel");
}
}
, {&Stats::wasted_deadline, [](Metrics& m) -> auto& {return m.wasted_tokens("deadline");
}
}
, {&Stats::wasted_recompute, [](Metrics& m) -> auto& {return m.wasted_tokens("recompute");
}
}
,
}
;

namespace {

void raise(prometheus::Counter& counter, double by) {
  if (by > 0) counter.Increment(by);
}

}  // namespace

EngineMetrics::EngineMetrics(Metrics& metrics, const Stats& start)
    : metrics_(metrics), counted_(start) {
  // Every series is there from the start: a rate over one that appears later misses its first
  // count.
  for (const Counted& c : kCounted) counters_.push_back(&c.counter(metrics));
  for (const char* mode : {"swap", "recompute"}) (void)metrics.preemptions_by_mode(mode);
  for (const char* reason : {"memory", "proactive"}) (void)metrics.preemptions_by_reason(reason);
  for (const char* direction : {"out", "in"}) (void)metrics.swapped_bytes(direction);
  for (int i = 0; i < Scheduler::kLevels; ++i) {
    waiting_at_[i] = &metrics.level_requests(i, "waiting");
    running_at_[i] = &metrics.level_requests(i, "running");
  }
  const char* terms[] = {"constant",   "prefill_token", "prefill_pair",
                         "decode_row", "context_token", "block_copy"};
  for (size_t i = 0; i < cost_.size(); ++i) cost_[i] = &metrics.cost_model_seconds(terms[i]);
}

void EngineMetrics::publish(const Stats& s, const CostModel& cost, const CopyProgress& copies) {
  for (size_t i = 0; i < counters_.size(); ++i) {
    const auto field = kCounted[i].field;
    raise(*counters_[i], double(s.*field - counted_.*field));
  }
  // What is not one mode or reason is the other.
  const auto rest = [](const Stats& of, int64_t part) { return of.preemptions - part; };
  if (s.preemptions > counted_.preemptions) {
    raise(metrics_.preemptions_by_mode("recompute"),
          double(rest(s, s.swaps) - rest(counted_, counted_.swaps)));
    raise(metrics_.preemptions_by_reason("memory"),
          double(rest(s, s.proactive) - rest(counted_, counted_.proactive)));
  }
  const auto bytes = [this](const char* direction, int64_t blocks) {
    if (blocks > 0)
      metrics_.swapped_bytes(direction).Increment(double(blocks * metrics_.block_bytes()));
  };
  bytes("out", s.blocks_out - counted_.blocks_out);
  bytes("in", s.blocks_in - counted_.blocks_in);
  raise(metrics_.copied_blocks, double(copies.blocks - copies_.blocks));
  raise(metrics_.copy_seconds, to_seconds(copies.time - copies_.time));

  metrics_.running.Set(s.running);
  metrics_.waiting.Set(s.waiting);
  metrics_.swapped.Set(s.swapped);
  metrics_.waiting_tokens.Set(double(s.waiting_tokens));
  metrics_.kv_usage.Set(s.total_blocks > 0 ? double(s.used_blocks) / s.total_blocks : 0);
  metrics_.host_used_blocks.Set(s.used_host_blocks);
  metrics_.host_blocks.Set(s.total_host_blocks);
  publish_levels(s);
  publish_cost(cost);
  counted_ = s;
  copies_ = copies;
}

void EngineMetrics::publish_levels(const Stats& s) {
  for (int i = 0; i < Scheduler::kLevels; ++i) {
    if (s.waiting_at[i] != counted_.waiting_at[i]) waiting_at_[i]->Set(s.waiting_at[i]);
    if (s.running_at[i] != counted_.running_at[i]) running_at_[i]->Set(s.running_at[i]);
  }
}

void EngineMetrics::publish_cost(const CostModel& model) {
  if (model.observed() == observed_) return;
  observed_ = model.observed();
  const StepCost& c = model.cost();
  metrics_.cost_model_error.Set(model.error());
  const double figures[] = {c.constant,       c.per_prefill_token, c.per_prefill_pair,
                            c.per_decode_row, c.per_context_token, c.per_block_copy};
  for (size_t i = 0; i < cost_.size(); ++i) cost_[i]->Set(figures[i]);
}

void EngineMetrics::ended(const RequestTrace& trace) {
  metrics_.request_preemptions.Observe(trace.swaps + trace.recomputes);
  if (trace.swaps > 0) metrics_.request_swapped_seconds.Observe(to_seconds(trace.swapped_time));
}

}  // namespace sluice
