#include "engine/engine_metrics.h"

namespace sluice {
namespace {

using Stats = Scheduler::Stats;

void raise(prometheus::Counter& counter, double by) {
  if (by > 0) counter.Increment(by);
}

}  // namespace

// Every series is there from the start: a rate over one that appears later misses its first count.
EngineMetrics::EngineMetrics(Metrics& metrics, const Stats& start)
    : metrics_(metrics),
      counted_(start),
      followed_{
          {&Stats::generated_tokens, &metrics.generation_tokens},
          {&Stats::prompt_tokens, &metrics.prefix_queries},
          {&Stats::cached_tokens, &metrics.prefix_hits},
          {&Stats::host_cached_tokens, &metrics.host_prefix_hits},
          {&Stats::preemptions, &metrics.preemptions},
          {&Stats::blocks_out, &metrics.swapped_blocks("out")},
          {&Stats::blocks_in, &metrics.swapped_blocks("in")},
          {&Stats::written_behind, &metrics.written_behind_blocks},
          {&Stats::demotions, &metrics.demotions},
          {&Stats::promotions, &metrics.promotions},
          {&Stats::livelocks, &metrics.livelocks},
          {&Stats::wasted_cancel, &metrics.wasted_tokens("cancel")},
          {&Stats::wasted_deadline, &metrics.wasted_tokens("deadline")},
          {&Stats::wasted_recompute, &metrics.wasted_tokens("recompute")},
      },
      preemptions_{&metrics.preemptions_by_cause("swap", "memory"),
                   &metrics.preemptions_by_cause("swap", "proactive"),
                   &metrics.preemptions_by_cause("recompute", "memory"),
                   &metrics.preemptions_by_cause("recompute", "proactive")},
      bytes_out_(&metrics.swapped_bytes("out")),
      bytes_in_(&metrics.swapped_bytes("in")),
      seconds_out_(&metrics.copy_seconds("out")),
      seconds_in_(&metrics.copy_seconds("in")),
      prefill_(&metrics.step_seconds("prefill")),
      decode_(&metrics.step_seconds("decode")),
      mixed_(&metrics.step_seconds("mixed")) {
  for (int i = 0; i < Scheduler::kLevels; ++i) {
    waiting_at_[i] = &metrics.level_requests(i, "waiting");
    running_at_[i] = &metrics.level_requests(i, "running");
  }
  const char* terms[] = {"constant",   "prefill_token", "prefill_pair",
                         "decode_row", "context_token", "block_copy"};
  for (size_t i = 0; i < cost_.size(); ++i) cost_[i] = &metrics.cost_model_seconds(terms[i]);
}

void EngineMetrics::publish(const Stats& s, const CostModel& cost, const CopyProgress& copies) {
  for (const Followed& f : followed_) raise(*f.counter, double(s.*f.field - counted_.*f.field));
  publish_preemptions(s);
  const auto bytes = [&](int64_t blocks) { return double(blocks * metrics_.block_bytes()); };
  raise(*bytes_out_, bytes(s.blocks_out - counted_.blocks_out));
  raise(*bytes_in_, bytes(s.blocks_in - counted_.blocks_in));
  raise(metrics_.copied_blocks, double(copies.blocks - copies_.blocks));
  const Nanos out = copies.out - copies_.out;
  raise(*seconds_out_, to_seconds(out));
  raise(*seconds_in_, to_seconds(copies.time - copies_.time - out));

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

// What is not one mode or reason is the other.
void EngineMetrics::publish_preemptions(const Stats& s) {
  const int64_t all = s.preemptions - counted_.preemptions, swaps = s.swaps - counted_.swaps,
                ahead = s.proactive - counted_.proactive,
                both = s.proactive_swaps - counted_.proactive_swaps;
  raise(*preemptions_.swapped_for_memory, double(swaps - both));
  raise(*preemptions_.swapped_ahead, double(both));
  raise(*preemptions_.recomputed_for_memory, double(all - swaps - ahead + both));
  raise(*preemptions_.recomputed_ahead, double(ahead - both));
}

void EngineMetrics::publish_tenant(uint32_t tenant, const Scheduler::TenantStats& t) {
  while (tenants_.size() <= tenant) {
    const int next = int(tenants_.size());
    tenants_.push_back({{},
                        &metrics_.tenant_requests(next, "running"),
                        &metrics_.tenant_requests(next, "waiting"),
                        &metrics_.tenant_tokens(next)});
  }
  TenantSeries& series = tenants_[tenant];
  if (t.running != series.told.running) series.running->Set(t.running);
  if (t.waiting != series.told.waiting) series.waiting->Set(t.waiting);
  raise(*series.tokens, double(t.tokens - series.told.tokens));
  series.told = t;
}

// Decode rows come first in a plan.
void EngineMetrics::launched(const StepPlan& plan) {
  prometheus::Histogram*& seconds = in_flight_[plan.id % kMaxInFlight];
  seconds = nullptr;  // copies alone are no step
  if (plan.rows.empty()) return;
  const bool decodes = plan.rows.front().is_decode(), prefills = !plan.rows.back().is_decode();
  seconds = !decodes ? prefill_ : prefills ? mixed_ : decode_;
  metrics_.step_tokens.Observe(plan.num_tokens);
}

void EngineMetrics::committed(const StepResult& result) {
  prometheus::Histogram* seconds = in_flight_[result.id % kMaxInFlight];
  if (seconds != nullptr) seconds->Observe(to_seconds(result.device_time));
  if (result.eager) metrics_.eager_steps.Increment();
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
