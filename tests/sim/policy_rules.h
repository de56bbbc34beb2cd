#pragma once

#include "tests/sim/rules.h"

// For tests of the policy's choices: costs are round numbers and the clock is the cost model's.
namespace sluice {

using State = RequestInfo::State;
using std::chrono::milliseconds;

class PolicyTest : public Rules {
 protected:
  PolicyTest() {
    // A decode step of one takes 2 ms; a prompt token 1 ms; a block's copy 1 ms.
    cost = {0.001, 0.001, 0, 0.001, 0, 0.001};
    timed = true;
    policy.prefix_caching = false;
    policy.max_step_tokens = 64;
  }
  // Requests of a prompt and an output each, in order, ids from 1.
  void add_all(std::initializer_list<std::pair<int, int>> sizes) {
    for (const auto& [prompt, output] : sizes) {
      ++last_id;
      add(last_id, request(prompt, output, TokenId(1000 * last_id)));
    }
  }
  RequestId last_id = 0;
};

class MlfqTest : public PolicyTest {
 protected:
  MlfqTest() {
    policy.order = Policy::Order::mlfq;
    policy.quantum = 0.004;
    policy.promote_after = std::chrono::hours(1);
  }
};

}  // namespace sluice
