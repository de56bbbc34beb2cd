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
  // Of the `kind`-th block that the same tokens take: those of different layers.
  BlockHash of_kind(int kind) const {
    return {hi ^ uint64_t(kind) * 0x9e3779b97f4a7c15ull,
            lo ^ uint64_t(kind) * 0xc2b2ae3d27d4eb4full};
  }
};

// Keyed, so that nobody outside can construct two prefixes with one hash: a collision in a parent
// would show one client another's context. SipHash-2-4 with 128 bits (Aumasson and Bernstein,
// "SipHash: a fast short-input PRF", 2012).
class BlockHasher {
 public:
  BlockHasher();  // a key from the system's random source
  BlockHasher(uint64_t key0, uint64_t key1) : key0_(key0), key1_(key1) {}

  BlockHash root(uint64_t salt) const;  // the parent of a first block
  BlockHash chain(BlockHash parent, std::span<const TokenId> block_tokens) const;

 private:
  uint64_t key0_, key1_;
};

// The book-keeping of cache blocks: who holds them, which are shareable, which
// are free. Knows no sequence, no tensor, no device, no thread. A block is
//   free      refs == 0, no hash          -> on the free list, used first
//   cached    refs == 0, hash published   -> on the free list, oldest released goes first
//   held      refs  > 0
// Every call is O(1) per block named and none of them allocates.
class BlockPool {
 public:
  BlockPool(int num_blocks, int block_size, BlockHasher hasher = BlockHasher());

  // Appends `n` fresh blocks to `out`, or changes nothing and returns false.
  bool allocate(int n, std::vector<BlockId>& out);
  // Appends the longest cached prefix of blocks of one kind (BlockHash::of_kind), taking a
  // reference on each. Token ids are compared
  // on every hit, which catches a collision in that block but not in its parent: so the
  // hash is 128 bits and keyed per process. Returns the number of blocks.
  int match(std::span<const BlockHash> hashes, std::span<const TokenId> tokens,
            std::vector<BlockId>& out, int kind = 0);
  // What match() would find, changing nothing: `held` of the `blocks` are held by somebody, the
  // others count in num_available().
  struct Match {
    int blocks = 0, held = 0;
  };
  Match probe(std::span<const BlockHash> hashes, std::span<const TokenId> tokens,
              int kind = 0) const;
  // A held block's content is final up to `tokens`: from now on it is shareable. A full
  // block, or the partial last block of a session (appended to in place at refs() == 1,
  // copied before writing otherwise; publishing it again when full replaces the hash).
  // The first block published under a hash keeps it: later ones stay private.
  void publish(BlockId, BlockHash, std::span<const TokenId> tokens);
  // What a block was published with; no tokens: it was not. The hash counts only with tokens.
  std::span<const TokenId> published(BlockId b) const {
    return {&tokens_[size_t(b) * size_t(block_size_)], size_t(blocks_[b].num_tokens)};
  }
  const BlockHash& hash(BlockId b) const { return blocks_[b].hash; }
  void prefetch(BlockId, const BlockHash&) const;                // will be published soon
  void retain(std::span<const BlockId> blocks);                  // one more reference on each
  int refs(BlockId block) const { return blocks_[block].refs; }  // > 1: copy before writing
  // Drops one reference on each, last block first (so tails are evicted before
  // the heads they depend on), and clears the vector.
  void release(std::vector<BlockId>& blocks);

  const BlockHasher& hasher() const { return hasher_; }
  int block_size() const { return block_size_; }
  int num_available() const { return num_available_; }  // free + cached
  int num_blocks() const { return int(blocks_.size()) - 1; }
  void check_invariants() const;  // tests and the idle loop call this

 private:
  struct Block {
    BlockHash hash;
    int refs = 0;
    int num_tokens = 0;              // published with; 0: not published
    BlockId prev = 0, next = 0;      // free list, while refs == 0
    BlockId next_in_bucket = kNone;  // hash index, while published
  };
  static constexpr BlockId kNone = -1;

  BlockId find(const BlockHash&, std::span<const TokenId> rest) const;
  void unpublish(BlockId);
  void link(BlockId, BlockId after);
  void unlink(BlockId);
  BlockId& bucket(const BlockHash& h) { return buckets_[h.lo & (buckets_.size() - 1)]; }
  BlockId bucket(const BlockHash& h) const { return buckets_[h.lo & (buckets_.size() - 1)]; }

  BlockHasher hasher_;
  int block_size_;
  int num_available_ = 0;
  std::vector<Block> blocks_;     // [num_blocks + 1]; the last is the free list's sentinel
  std::vector<BlockId> buckets_;  // heads of the hash index's chains; a power of two of them
  std::vector<TokenId> tokens_;   // [num_blocks, block_size] of published blocks
};

}  // namespace sluice
