// What a step costs the scheduler: schedule() and commit() with many sequences decoding, and with
// prompts coming in. Prints microseconds a step; not a test.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "scheduler/scheduler.h"

namespace sluice {
namespace {

double now_us() {
  return std::chrono::duration<double, std::micro>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

StepResult results_of(const StepPlan& plan) {
  StepResult r;
  r.id = plan.id;
  r.device_time = std::chrono::milliseconds(20);
  r.first.push_back(0);
  for (const StepRow& row : plan.rows) {
    for (int i = 0; i < row.num_samples; ++i) {
      r.tokens.push_back(TokenId(100 + (plan.id + r.tokens.size()) % 1000));
      r.logprobs.push_back(-1.0f);
    }
    r.first.push_back(int(r.tokens.size()));
  }
  return r;
}

// `waiting`: requests that stand in the queue behind a full machine.
void measure(const char* name, Policy policy, int num_seqs, int prompt_len, int num_blocks,
             int waiting) {
  BlockPool pool(num_blocks, 16);
  policy.max_seqs = num_seqs;
  policy.max_step_tokens = 2 * num_seqs;
  policy.max_queue = 1 << 20;
  Scheduler scheduler(policy, CostModel(), pool, nullptr, 1, {2}, 1 << 20);
  for (int i = 0; i < num_seqs + waiting; ++i) {
    GenerateRequest q;
    for (int k = 0; k < prompt_len; ++k) q.prompt.push_back(k < 32 ? k : i * 7 + k);
    q.sampling.max_tokens = 4000;
    if (!scheduler.add(RequestId(i + 1), std::move(q), Instant{}).ok()) std::abort();
  }
  std::vector<TokenEvent> events;
  std::vector<double> schedule_us, commit_us, total_us;
  size_t rows = 0;
  for (int step = 0; step < 2500; ++step) {
    const double t0 = now_us();
    StepPlan plan = scheduler.schedule(Instant{}, {}, events);
    const double t1 = now_us();
    const StepResult result = results_of(plan);
    events.clear();
    const double t2 = now_us();
    scheduler.commit(result, Instant{}, events);
    const double t3 = now_us();
    if (step < 500) continue;
    rows += plan.rows.size();
    schedule_us.push_back(t1 - t0);
    commit_us.push_back(t3 - t2);
    total_us.push_back(t1 - t0 + t3 - t2);
  }
  const auto at = [](std::vector<double>& v, double q) {
    std::sort(v.begin(), v.end());
    return v[size_t(q * double(v.size() - 1))];
  };
  std::printf(
      "%-34s %5.0f rows  schedule %6.1f  commit %6.1f  both %6.1f us median, %6.1f p10"
      "  (%ld preemptions)\n",
      name, double(rows) / double(total_us.size()), at(schedule_us, 0.5), at(commit_us, 0.5),
      at(total_us, 0.5), at(total_us, 0.1), long(scheduler.stats().preemptions));
}

}  // namespace
}  // namespace sluice

int main() {
  using sluice::measure;
  sluice::Policy fcfs, mlfq;
  mlfq.order = sluice::Policy::Order::mlfq;
  mlfq.budget = sluice::Policy::Budget::target;
  mlfq.proactive = true;
  measure("128 decoding", fcfs, 128, 64, 128 * 300, 0);
  measure("1024 decoding", fcfs, 1024, 64, 1024 * 300, 0);
  measure("1024 decoding, 10000 waiting", fcfs, 1024, 64, 1024 * 300, 10000);
  measure("the same, mlfq", mlfq, 1024, 64, 1024 * 300, 10000);
  measure("1024 slots, memory short", fcfs, 1024, 64, 1024 * 40, 10000);
  measure("the same, mlfq", mlfq, 1024, 64, 1024 * 40, 10000);
}
