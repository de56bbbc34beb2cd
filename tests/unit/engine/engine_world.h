#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "tests/sim/ledger.h"

namespace sluice {

inline const std::vector<TokenId> kEos = {0};
inline constexpr int kVocab = 50;  // an eos now and then

inline Instant soon(Nanos d) { return std::chrono::steady_clock::now() + d; }

// What a request got. Checks the promise to every client: one final event a sample, the last.
struct Answer {
  std::vector<TokenId> tokens;
  FinishReason finish = FinishReason::none;
  std::string refusal;
};
class Inbox final : public OutputSink {
 public:
  void deliver(std::span<TokenEvent> events) override {
    std::lock_guard lock(mutex_);
    EXPECT_FALSE(events.empty());
    for (const TokenEvent& e : events) {
      Answer& a = answers_[{e.request, e.sample}];
      EXPECT_EQ(a.finish, FinishReason::none) << "an event after the last one";
      EXPECT_TRUE(e.token >= 0 || e.finish != FinishReason::none) << "an event of nothing";
      if (e.token >= 0) a.tokens.push_back(e.token);
      a.finish = e.finish;
      a.refusal = e.known().refusal;
      num_finals_ += e.finish != FinishReason::none;
    }
    arrived_.notify_all();
    if (on_deliver) on_deliver();
  }
  // Blocks until so many samples have ended.
  void wait_finals(int n) {
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [&] { return num_finals_ >= n; });
  }
  void wait_tokens(RequestId id, int n) {
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [&] { return int(answers_[{id, 0}].tokens.size()) >= n; });
  }
  Answer answer(RequestId id, int sample = 0) {
    std::lock_guard lock(mutex_);
    return answers_[{id, uint16_t(sample)}];
  }
  int num_finals() {
    std::lock_guard lock(mutex_);
    return num_finals_;
  }

  std::function<void()> on_deliver;  // engine thread

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::map<std::pair<RequestId, uint16_t>, Answer> answers_;
  int num_finals_ = 0;
};

struct Options {
  int depth = 1;
  int num_blocks = 64;
  int max_queue = 1000;
  int max_model_len = 200;
  int inbox = 1000;
  Nanos step_time{0};
  bool sleep = false;
};

// An engine over a ledger instead of a model.
struct World {
  explicit World(Options o = {}) : pool(o.num_blocks, 4), metrics("test") {
    Policy policy;
    policy.max_seqs = 16;
    policy.max_step_tokens = 32;
    policy.max_queue = o.max_queue;
    LedgerOptions ledger;
    ledger.block_size = 4;
    ledger.num_blocks = o.num_blocks;
    ledger.num_slots = 16;
    ledger.depth = o.depth;
    ledger.vocab = kVocab;
    ledger.eos_tokens = kEos;
    ledger.step_time = o.step_time;
    ledger.sleep = o.sleep;
    engine =
        std::make_unique<Engine>(std::make_unique<Scheduler>(policy, CostModel(), pool, nullptr,
                                                             o.depth, kEos, o.max_model_len),
                                 std::make_unique<LedgerRunner>(ledger), inbox, metrics, o.inbox);
  }
  void expect_empty() {
    const Scheduler::Stats s = engine->stats();
    EXPECT_EQ(s.running, 0);
    EXPECT_EQ(s.waiting, 0);
    EXPECT_EQ(s.used_blocks, 0);
    EXPECT_EQ(pool.num_available(), pool.num_blocks());
  }
  BlockPool pool;
  Metrics metrics;
  Inbox inbox;
  std::unique_ptr<Engine> engine;  // last: its thread uses all of the above
};

inline GenerateRequest request(uint64_t seed, int prompt_len = 10, int max_tokens = 20, int n = 1) {
  GenerateRequest r;
  for (int i = 0; i < prompt_len; ++i) r.prompt.push_back(1 + TokenId(mix64(seed, i) % 40));
  r.sampling.seed = seed;
  r.sampling.max_tokens = max_tokens;
  r.num_samples = n;
  return r;
}
inline GenerateRequest endless(uint64_t seed) {
  GenerateRequest r = request(seed, 10, 180);
  r.sampling.ignore_eos = true;
  return r;
}
inline std::vector<TokenId> alone(const GenerateRequest& r, int sample = 0) {
  return ledger_alone(r.prompt, r.sampling, sample, kEos, kVocab);
}

inline LedgerOptions small_ledger(int depth = 1) {
  LedgerOptions o;
  o.block_size = 4;
  o.num_blocks = 64;
  o.num_slots = 256;
  o.depth = depth;
  o.vocab = kVocab;
  o.eos_tokens = kEos;
  return o;
}

}  // namespace sluice
