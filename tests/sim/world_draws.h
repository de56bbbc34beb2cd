#pragma once

#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <random>
#include <vector>

#include "scheduler/policy.h"
#include "scheduler/request.h"

// What a random world is made of: a policy, the sizes of pools, and requests, all from one seed.
namespace sluice {

inline constexpr int kVocab = 40;
inline constexpr TokenId kWorldEos = 3;

class WorldDraws {
 protected:
  // `choices`: the policy's five choices are taken from there, or drawn too.
  WorldDraws(uint64_t seed, const std::optional<Policy>& choices) : rng_(seed) {
    draw_policy(choices);
    for (auto& prefix : prefixes_) {
      for (int k = rnd(1, std::max(1, max_prompt_ - 2)); k-- > 0;) {
        prefix.push_back(rnd(0, kVocab - 1));
      }
    }
  }

  int rnd(int a, int b) { return a + int(rng_() % uint64_t(b - a + 1)); }

  // Sizes small enough that memory, slots and the step's tokens are all short.
  void draw_policy(const std::optional<Policy>& choices) {
    block_size_ = rnd(1, 16);
    max_prompt_ = rnd(4, 60);
    max_out_ = rnd(1, 30);
    most_samples_ = rnd(0, 1) ? 1 : 4;
    max_len_ = max_prompt_ + max_out_;
    policy_.max_seqs = rnd(most_samples_, 14);
    policy_.max_step_tokens = rnd(0, 3) ? rnd(1, 64) : rnd(1, 6);
    draw_choices();
    if (choices) take_choices(*choices);
    settle_choices();
    policy_.max_preemptions = rnd(0, 2) ? rnd(0, 4) : 1000;
    policy_.max_overtakes = rnd(1, 6);
    policy_.max_passed = rnd(1, 8);
    policy_.watermark = rnd(0, 1) ? 0.0 : 0.01 * rnd(1, 10);
    policy_.prefix_caching = rnd(0, 3) > 0;
    policy_.max_queue = rnd(0, 4) ? 1000 : rnd(1, 8);
    policy_.max_queued_tokens = rnd(0, 4) ? 0 : rnd(1, 4 * max_prompt_);
  }
  // Half of the worlds are FCFS, where more can be said of who comes when.
  void draw_choices() {
    using P = Policy;
    policy_.order = rnd(0, 1) ? P::Order::mlfq : rnd(0, 2) ? P::Order::fcfs : P::Order::fcfs_strict;
    policy_.step = rnd(0, 1) ? P::Step::chunked : P::Step(rnd(0, 4));
    policy_.reservation = rnd(0, 3) ? P::Reservation::paged : P::Reservation::full;
    policy_.budget = rnd(0, 1) ? P::Budget::fixed : P::Budget(rnd(0, 2));
    policy_.pressure = P::Pressure(rnd(0, 3));
    policy_.proactive = rnd(0, 1);
    policy_.write_behind = rnd(0, 3) > 0;
    policy_.max_rows = rnd(0, 1) ? 0 : rnd(1, policy_.max_seqs);
    policy_.min_residency = rnd(0, 3);
    policy_.token_interval = rnd(0, 1) ? 0 : 1e-3 * rnd(1, 10);
    policy_.max_prefill_steps = rnd(1, 4);
    policy_.tile_tokens = rnd(0, 3) ? 1 : rnd(2, 12);
    policy_.quantum = rnd(0, 1) ? 0 : 1e-4 * rnd(1, 40);
    policy_.promote_after = std::chrono::milliseconds(rnd(1, 200));
    policy_.promote_growth = rnd(1, 2);
    policy_.promotion = P::Promotion(rnd(0, 1));
    policy_.tenant_weights.assign(size_t(rnd(0, 2) ? 1 : 3), 1.0);
    priorities_ = rnd(0, 3) == 0;
    sessions_ = rnd(0, 3) == 0;
  }
  void take_choices(const Policy& p) {
    policy_.order = p.order;
    policy_.step = p.step;
    policy_.reservation = p.reservation;
    policy_.budget = p.budget;
    policy_.pressure = p.pressure;
    policy_.proactive = p.proactive;
    policy_.promotion = p.promotion;
  }
  void settle_choices() {
    using P = Policy;
    whole_ = policy_.step == P::Step::whole || policy_.step == P::Step::prefill_first;
    if (whole_) policy_.max_step_tokens = max_len_ + rnd(0, 20);
    fcfs_ = policy_.order != P::Order::mlfq && !priorities_ && policy_.tenant_weights.size() == 1;
  }

  StepCost draw_cost() {
    StepCost c;
    c.per_block_copy = rnd(0, 1) ? 1e-6 : 1e-3;
    return c;
  }
  // From exactly the worst request's need to roomy.
  int draw_blocks() {
    const int worst = most_samples_ * ((max_len_ + block_size_ - 1) / block_size_);
    return rnd(0, 2) ? worst + rnd(0, 1) : rnd(worst, 6 * worst);
  }

  GenerateRequest draw_request(Instant now) {
    GenerateRequest q;
    q.prompt = prefixes_[size_t(rnd(0, 2))];
    for (int k = rnd(0, 12); k-- > 0;) q.prompt.push_back(rnd(0, kVocab - 1));
    if (int(q.prompt.size()) > max_prompt_) q.prompt.resize(size_t(max_prompt_));
    q.sampling.max_tokens = rnd(0, 9) ? rnd(1, max_out_) : 1;
    q.sampling.min_tokens = rnd(0, 3) ? 0 : rnd(0, q.sampling.max_tokens);
    q.sampling.seed = rng_() % 5;
    q.sampling.ignore_eos = rnd(0, 1);
    if (rnd(0, 3) == 0) q.sampling.stop_tokens = {TokenId(rnd(0, kVocab - 1))};
    if (rnd(0, 7) == 0) q.sampling.prompt_logprobs = rnd(0, 2);
    if (rnd(0, 7) == 0) q.sampling.top_logprobs = rnd(1, 3);
    q.cache_salt = rnd(0, 5) == 0;
    q.num_samples = rnd(1, most_samples_);
    if (priorities_) q.priority = rnd(-2, 2);
    q.tenant = uint32_t(rnd(0, int(policy_.tenant_weights.size()) - 1));
    if (rnd(0, 9) == 0) q.token_interval = std::chrono::milliseconds(rnd(1, 20));
    if (rnd(0, 9) == 0) q.first_token_by = now + std::chrono::milliseconds(rnd(0, 30));
    if (sessions_ && rnd(0, 1)) next_turn(q);
    if (rnd(0, 12) == 0) q.deadline = now + std::chrono::milliseconds(rnd(0, 300));
    return q;
  }

  // The prompt of a session begins with its last turn, as a client would send it.
  void next_turn(GenerateRequest& q) {
    q.session = uint64_t(rnd(1, 4));
    q.sampling.seed_given = true;
    q.num_samples = rnd(0, 5) ? 1 : q.num_samples;
    std::vector<TokenId> prompt = talks_[q.session];
    if (int(prompt.size()) >= max_prompt_) prompt.clear();
    for (size_t i = 0; int(prompt.size()) < max_prompt_ && i < q.prompt.size(); ++i)
      prompt.push_back(q.prompt[i]);
    q.prompt = std::move(prompt);
  }

  std::mt19937_64 rng_;
  Policy policy_;
  int block_size_ = 1, max_prompt_ = 1, max_out_ = 1, most_samples_ = 1, max_len_ = 1;
  bool priorities_ = false, sessions_ = false, whole_ = false, fcfs_ = false;
  std::map<uint64_t, std::vector<TokenId>> talks_;  // by session: its last turn, answer included
  std::vector<TokenId> prefixes_[3];
};

}  // namespace sluice
