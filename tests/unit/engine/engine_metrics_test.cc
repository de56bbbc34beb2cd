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
           "sluice_preemptions_by_mode_total{mode=\"swap\",model_name=\"m\"} 0",
           "sluice_preemptions_by_mode_total{mode=\"recompute\",model_name=\"m\"} 0",
           "sluice_preemptions_by_reason_total{model_name=\"m\",reason=\"memory\"} 0",
           "sluice_preemptions_by_reason_total{model_name=\"m\",reason=\"proactive\"} 0",
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
  s.proactive += 2;
  s.blocks_out += 5;
  s.blocks_in += 4;
  s.host_cached_tokens += 32;
  s.wasted_deadline += 11;
  s.waiting_at[2] = 6;
  s.swapped = 1;
  s.used_host_blocks = 8;
  s.total_host_blocks = 9;
  const CostModel model(StepCost{.per_decode_row = 0.5});
  const CopyProgress copies{.blocks = 12, .time = std::chrono::milliseconds(250)};
  for (int again = 0; again < 2; ++again) {  // nothing new: nothing counted twice
    told.publish(s, model, copies);
    EXPECT_EQ(metrics.preemptions.Value(), 7);
    EXPECT_EQ(metrics.preemptions_by_mode("swap").Value(), 3);
    EXPECT_EQ(metrics.preemptions_by_mode("recompute").Value(), 4);
    EXPECT_EQ(metrics.preemptions_by_reason("proactive").Value(), 2);
    EXPECT_EQ(metrics.preemptions_by_reason("memory").Value(), 5);
    EXPECT_EQ(metrics.swapped_blocks("out").Value(), 5);
    EXPECT_EQ(metrics.swapped_bytes("out").Value(), 5000);
    EXPECT_EQ(metrics.swapped_bytes("in").Value(), 4000);
    EXPECT_EQ(metrics.host_prefix_hits.Value(), 32);
    EXPECT_EQ(metrics.wasted_tokens("deadline").Value(), 11);
    EXPECT_EQ(metrics.copied_blocks.Value(), 12);
    EXPECT_EQ(metrics.copy_seconds.Value(), 0.25);
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
