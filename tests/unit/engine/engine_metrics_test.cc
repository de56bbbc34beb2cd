#include "engine/engine_metrics.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

bool has(const Metrics& metrics, const std::string& line) {
  return metrics.expose().find("\n" + line + "\n") != std::string::npos;
}

TEST(EngineMetrics, EverySeriesIsThereFromTheStart) {
  Metrics metrics("m");
  EngineMetrics told(metrics, {});
  for (const char* line : {
           "sluice_preemptions_total{model_name=\"m\"} 0",
           "sluice_preemptions_by_cause_total"
           "{mode=\"swap\",model_name=\"m\",reason=\"memory\"} 0",
           "sluice_preemptions_by_cause_total"
           "{mode=\"recompute\",model_name=\"m\",reason=\"proactive\"} 0",
           "sluice_step_seconds_count{kind=\"prefill\",model_name=\"m\"} 0",
           "sluice_step_seconds_count{kind=\"decode\",model_name=\"m\"} 0",
           "sluice_step_seconds_count{kind=\"mixed\",model_name=\"m\"} 0",
           "sluice_cancel_to_free_seconds_count{model_name=\"m\"} 0",
           "sluice_swapped_bytes_total{direction=\"in\",model_name=\"m\"} 0",
           "sluice_swapped_blocks_total{direction=\"out\",model_name=\"m\"} 0",
           "sluice_wasted_tokens_total{model_name=\"m\",reason=\"deadline\"} 0",
           "sluice_level_requests{level=\"15\",model_name=\"m\",state=\"waiting\"} 0",
           "sluice_livelocks_total{model_name=\"m\"} 0",
       })
    EXPECT_TRUE(has(metrics, line)) << line;
}

TEST(EngineMetrics, CountersFollowTheScheduler) {
  Metrics metrics("m");
  metrics.set_block_bytes(1000);
  Scheduler::Stats s;
  s.preemptions = 100;  // what was before it looked is not its to count
  EngineMetrics told(metrics, s);
  s.preemptions += 7;
  s.swaps += 3;
  s.proactive += 3;
  s.proactive_swaps += 2;
  s.blocks_out += 5;
  s.blocks_in += 4;
  s.host_cached_tokens += 32;
  s.wasted_deadline += 11;
  s.waiting_at[2] = 6;
  s.swapped = 1;
  s.used_host_blocks = 8;
  s.total_host_blocks = 9;
  const CostModel model(StepCost{.per_decode_row = 0.5});
  const CopyProgress copies{.blocks = 12,
                            .time = std::chrono::microseconds(250000),
                            .out = std::chrono::microseconds(62500)};
  for (int again = 0; again < 2; ++again) {  // nothing new: nothing counted twice
    told.publish(s, model, copies);
    EXPECT_EQ(metrics.preemptions.Value(), 7);
    EXPECT_EQ(metrics.preemptions_by_cause("swap", "memory").Value(), 1);
    EXPECT_EQ(metrics.preemptions_by_cause("swap", "proactive").Value(), 2);
    EXPECT_EQ(metrics.preemptions_by_cause("recompute", "memory").Value(), 3);
    EXPECT_EQ(metrics.preemptions_by_cause("recompute", "proactive").Value(), 1);
    EXPECT_EQ(metrics.swapped_blocks("out").Value(), 5);
    EXPECT_EQ(metrics.swapped_bytes("out").Value(), 5000);
    EXPECT_EQ(metrics.swapped_bytes("in").Value(), 4000);
    EXPECT_EQ(metrics.host_prefix_hits.Value(), 32);
    EXPECT_EQ(metrics.wasted_tokens("deadline").Value(), 11);
    EXPECT_EQ(metrics.copied_blocks.Value(), 12);
    EXPECT_EQ(metrics.copy_seconds("out").Value(), 0.0625);
    EXPECT_EQ(metrics.copy_seconds("in").Value(), 0.1875);
    EXPECT_EQ(metrics.level_requests(2, "waiting").Value(), 6);
    EXPECT_EQ(metrics.swapped.Value(), 1);
    EXPECT_EQ(metrics.host_used_blocks.Value(), 8);
    EXPECT_EQ(metrics.host_blocks.Value(), 9);
    EXPECT_EQ(metrics.cost_model_seconds("decode_row").Value(), 0.5);
  }
  s.waiting_at[2] = 0;
  told.publish(s, model, copies);
  EXPECT_EQ(metrics.level_requests(2, "waiting").Value(), 0);
}

TEST(EngineMetrics, StepsAreTimedByWhatTheyCompute) {
  Metrics metrics("m");
  EngineMetrics told(metrics, {});
  Sequence seq;
  seq.num_prompt = 10;
  const StepRow prefill{&seq, 0, 10, 1, 1}, tail{&seq, 9, 1, 1, 1}, decode{&seq, 10, 1, 1, 1};
  const std::vector<std::vector<StepRow>> plans = {
      {prefill}, {tail}, {decode, decode}, {decode, prefill}, {decode, tail}, {decode}, {}};
  uint64_t id = 0;
  for (const auto& rows : plans) {  // each is in flight while the next one is launched
    StepPlan plan;
    plan.id = ++id;
    plan.rows = rows;
    told.launched(plan);
    StepResult result;
    result.id = id - 1;
    result.device_time = std::chrono::seconds(id - 1);
    if (id > 1) told.committed(result);
  }
  const auto sum = [&](const char* kind) {
    return metrics.step_seconds(kind).Collect().histogram.sample_sum;
  };
  EXPECT_EQ(sum("prefill"), 1 + 2);
  EXPECT_EQ(sum("decode"), 3 + 6);
  EXPECT_EQ(sum("mixed"), 4 + 5);
}

TEST(EngineMetrics, TenantsHaveTheirOwnSeries) {
  Metrics metrics("m");
  EngineMetrics told(metrics, {});
  told.publish_tenant(1, {.running = 2, .waiting = 3, .tokens = 40});
  told.publish_tenant(1, {.running = 2, .waiting = 0, .tokens = 45});
  for (const char* line : {
           "sluice_tenant_tokens_total{model_name=\"m\",tenant=\"0\"} 0",
           "sluice_tenant_tokens_total{model_name=\"m\",tenant=\"1\"} 45",
           "sluice_tenant_requests{model_name=\"m\",state=\"running\",tenant=\"1\"} 2",
           "sluice_tenant_requests{model_name=\"m\",state=\"waiting\",tenant=\"1\"} 0",
       })
    EXPECT_TRUE(has(metrics, line)) << line;
}

TEST(EngineMetrics, EndedRequestsLeaveTheirPreemptions) {
  Metrics metrics("m");
  EngineMetrics told(metrics, {});
  RequestTrace trace;
  told.ended(trace);
  trace.swaps = 1;
  trace.recomputes = 2;
  trace.swapped_time = std::chrono::seconds(3);
  told.ended(trace);
  const auto preemptions = metrics.request_preemptions.Collect().histogram;
  EXPECT_EQ(preemptions.sample_count, 2u);
  EXPECT_EQ(preemptions.sample_sum, 3);
  const auto swapped = metrics.request_swapped_seconds.Collect().histogram;
  EXPECT_EQ(swapped.sample_count, 1u);
  EXPECT_EQ(swapped.sample_sum, 3);
}

}  // namespace
}  // namespace sluice
