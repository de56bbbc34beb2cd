#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "base/status.h"
#include "base/types.h"

namespace sluice {

// One request of a simulation.
struct SimRequest {
  double arrival = 0;  // seconds since the start; of a later turn: since the former one ended
  int prompt = 1, output = 1;  // tokens
  int shared = 0;              // first tokens of the prompt that it has in common with all others
  uint32_t tenant = 0;
  int priority = 0;
  int samples = 1;
  int next = -1;         // the turn that follows this one
  bool follows = false;  // it is such a turn
  bool is_long = false;  // the one long prompt among short ones
  uint64_t session = 0;  // 0: none
  uint64_t content = 0;  // same content: same tokens at the same positions
  size_t first_block = 0;
  int num_blocks =
      0;  // recorded ones, in Workload::blocks: they, and not `content`, say the tokens
};

// Requests, and what their tokens are: any numbers will do, as long as equal prefixes are equal.
struct Workload {
  std::string name;
  std::vector<SimRequest> requests;
  std::vector<int> order;        // those that follow none, by arrival
  int clients = 0;               // > 0: closed loop; arrivals do not count
  int tenants = 1;               //
  int skipped = 0;               // of a recording: refused then
  std::vector<uint64_t> blocks;  // identities of recorded blocks
  int block_tokens = 1;

  TokenId token(const SimRequest& r, int position, int sample = 0) const {
    uint64_t base = 0;
    if (position >= r.shared) {
      base = sample > 0 && position >= r.prompt ? mix64(r.content, uint64_t(sample)) : r.content;
      if (position / block_tokens < r.num_blocks) {
        base = blocks[r.first_block + size_t(position / block_tokens)];
      }
    }
    return TokenId((uint32_t(mix64(base)) + uint32_t(position) * 0x9e3779b1u) & 0x7fffffffu);
  }
  std::vector<TokenId> prompt_of(const SimRequest& r) const {
    std::vector<TokenId> tokens(static_cast<size_t>(r.prompt));
    for (int i = 0; i < r.prompt; ++i) tokens[size_t(i)] = token(r, i);
    return tokens;
  }
};

// How requests come: as the workload says, with exponential or gamma distributed gaps, whenever one
// of so many clients has its answer, or all at once.
enum class Arrivals : uint8_t { standard, poisson, gamma, closed, batch };

struct WorkloadOptions {
  std::string name = "sharegpt-2turn";
  int requests = 1000;
  double seconds = 0;  // > 0: at most as many requests as come in so much time
  double rate = 1;     // requests a second
  Arrivals arrivals = Arrivals::standard;
  double cv = 1;     // gamma: coefficient of variation of the gaps
  int clients = 16;  // closed
  uint64_t seed = 1;
  int max_context = 8192;   // chat-sessions: longest prompt plus output
  double think = 30;        // chat-sessions: mean seconds between an answer and the next turn
  double ratio = 1;         // ratio-sweep: prompt to output
  int total = 1024;         // ratio-sweep: prompt plus output
  int prefix = 80;          // shared-prefix: tokens in common
  int long_prompt = 32768;  // short-plus-long; 0: leave it out
  double long_at = -1;      // short-plus-long: seconds; negative: half-way
  int prompt_len = 0, output_len = 0;  // > 0: of every request, instead of the workload's
  double scale = 1;                    // all lengths times this, at least one token
  std::string lengths;                 // a CSV file of prompt,output lengths, used in turn
  std::string trace;                   // a recording (engine/recording.h)
};

// The named workloads, each with what it is and where its figures come from.
struct WorkloadKind {
  std::string_view name, about;
};
std::vector<WorkloadKind> workload_kinds();
// What "standard" arrivals are for this workload.
Arrivals standard_arrivals(const WorkloadOptions&);

// The same seed gives the same requests at every rate, only closer together. Errors name the
// option. A trace comes as recorded where rate is 0.
absl::StatusOr<Workload> make_workload(const WorkloadOptions&);

}  // namespace sluice
