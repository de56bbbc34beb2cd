#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/types.h"

namespace sluice {

using BlockId = int32_t;
struct BlockCopy {
  BlockId src, dst;
};  // between pools (swap), or within one (fork)

// Identity of a block's content: its tokens, everything before them, and a salt
// (model, adapter, tenant, session), as a 128-bit chained hash.
struct BlockHash {
  uint64_t hi = 0, lo = 0;
  bool operator==(const BlockHash&) const = default;
};
BlockHash chain_hash(BlockHash parent, std::span<const TokenId> block_tokens);

// The book-keeping of cache blocks: who holds them, which are shareable, which
// are free. Knows no sequence, no tensor, no device, no thread. A block is
//   free      refs == 0, no hash          -> on the free list
//   cached    refs == 0, hash published   -> on the free list, oldest released goes first
//   held      refs  > 0
// There is one pool for the device and one for the host: same class.
class BlockPool {
 public:
  BlockPool(int num_blocks, int block_size);

  // Appends `n` fresh blocks to `out`, or changes nothing and returns false.
  bool allocate(int n, std::vector<BlockId>& out);
  // Appends the longest cached prefix, taking a reference on each. Token ids are compared
  // on every hit, which catches a collision in that block but not in its parent: so the
  // hash is 128 bits and keyed per process.
  int match(std::span<const BlockHash> hashes, std::span<const TokenId> tokens,
            std::vector<BlockId>& out);
  // A held block's content is final up to `tokens`: from now on it is shareable. A full
  // block, or the partial last block of a session (appended to in place at refs() == 1,
  // copied before writing otherwise; publishing it again when full replaces the hash).
  void publish(BlockId, BlockHash, std::span<const TokenId> tokens);
  void retain(std::span<const BlockId> blocks);  // fork: one more reference on each
  int refs(BlockId) const;                       // > 1: copy before writing
  // Drops one reference on each, last block first (so tails are evicted before
  // the heads they depend on), and clears the vector.
  void release(std::vector<BlockId>& blocks);

  int block_size() const;
  int num_available() const;  // free + cached
  int num_blocks() const;
  void check_invariants() const;  // tests and the idle loop call this
};

}  // namespace sluice
