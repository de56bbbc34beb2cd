#pragma once

#include <vector>

#include "kvcache/block_pool.h"
#include "scheduler/request.h"

namespace sluice {

//            add                    schedule
//   (new) ---------->  waiting  ---------------->  running ----> ended
//                       |  ^   preempt: recompute   |  ^           ^
//     found on the host |  +------------------------+  | copies    |
//                       |            preempt: swap  |  | done      |
//                       |                           v  |           |
//                       +--> arriving <-- schedule -- swapped -----+ (cancel, any state)
//                              |__________________________^ (copies done: running)
//
// "Prefill" and "decode" are not states. A sequence has num_tokens known and
// num_computed in the cache; every step moves the second towards the first.
//
// One per sample. What belongs to the request as a whole (state, arrival, last_run, num_preempted,
// the last plan that touches it, prompt logprobs) lives once, in a record private to the scheduler:
// its samples are preempted and resumed together.
enum class SeqState : uint8_t { waiting, running, swapped, arriving };

// What every step touches fills the first cache line.
struct alignas(64) Sequence {
  RequestId id = 0;
  const GenerateRequest* request = nullptr;  // its `prompt` is empty: moved to `tokens`
  std::vector<TokenId> tokens;               // prompt, then output
  int num_prompt = 0;
  int num_scheduled = 0;  // computed once every launched step has ended; >= num_tokens()
                          // means that the tokens in between are on the device
  int num_computed = 0;   // tokens whose K/V are in `blocks`
  int num_cached = 0;     // of those, how many came from the prefix cache
  int seq_slot = -1;      // stable row on the device while running, in [0, max_seqs)
  uint16_t sample = 0;
  bool ended = false;  // rows still in flight are discarded

  std::vector<BlockId> blocks;       // the block table, from first_block on
  std::vector<BlockId> host_blocks;  // while swapped: where its content is
  int first_block = 0;               // those before it were given back: no token to come sees them
  std::vector<BlockHash> hashes;     // one per full block of `tokens`, extended lazily

  int num_tokens() const { return int(tokens.size()); }
  bool is_decoding() const { return num_computed >= num_prompt; }
  BlockId block(int index) const { return blocks[size_t(index - first_block)]; }
  int end_block() const { return first_block + int(blocks.size()); }
};

}  // namespace sluice
