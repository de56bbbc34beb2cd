#pragma once

#include <array>
#include <vector>

#include "kvcache/block_pool.h"
#include "kvcache/kv_groups.h"
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

// Where the keys and values of one group of layers are. A sequence is cut into stretches of
// block_size tokens; each takes `width` blocks, side by side.
struct BlockTable {
  std::vector<BlockId> blocks;       // from stretch `first` on
  std::vector<BlockId> host_blocks;  // while swapped: where its content is
  int first = 0;                     // those before were given back: no token to come sees them
  int width = 1;

  BlockId block(int stretch, int i = 0) const { return blocks[at(stretch) + size_t(i)]; }
  size_t at(int stretch) const { return size_t(stretch - first) * size_t(width); }
  int end() const {
    const int n = int(blocks.size());
    return first + (width == 1 ? n : n / width);  // mostly it is: spares a division
  }
};

// What every step touches fills the first cache line.
struct alignas(64) Sequence {
  RequestId id = 0;
  const GenerateRequest* request = nullptr;  // its `prompt` is empty: moved to `tokens`
  std::vector<TokenId> tokens;               // prompt, then output
  int num_prompt = 0;
  int num_scheduled = 0;  // computed once every launched step has ended; >= num_tokens()
                          // means that the tokens in between are on the device
  int num_computed = 0;   // tokens whose K/V are in `tables`
  int num_cached = 0;     // of those, how many came from the prefix cache
  int seq_slot = -1;      // stable row on the device while running, in [0, max_seqs)
  uint16_t sample = 0;
  bool ended = false;  // rows still in flight are discarded

  std::array<BlockTable, kMaxKvGroups> tables;  // as many of them as the model has groups
  std::vector<BlockHash> hashes;                // one per full stretch of `tokens`, lazily

  int num_tokens() const { return int(tokens.size()); }
  bool is_decoding() const { return num_computed >= num_prompt; }
  int end_block() const { return tables[0].end(); }  // no other ends behind it
};

}  // namespace sluice
