#include "kvcache/block_pool.h"

#include <algorithm>
#include <bit>
#include <random>

#include "base/check.h"

namespace sluice {
namespace {

struct SipState {
  uint64_t v0, v1, v2, v3;

  SipState(uint64_t k0, uint64_t k1)
      : v0(k0 ^ 0x736f6d6570736575ull),
        v1(k1 ^ 0x646f72616e646f6dull ^ 0xee),  // 0xee, 0xdd: the 128-bit variant
        v2(k0 ^ 0x6c7967656e657261ull),
        v3(k1 ^ 0x7465646279746573ull) {}

  void round() {
    v0 += v1, v1 = std::rotl(v1, 13) ^ v0, v0 = std::rotl(v0, 32);
    v2 += v3, v3 = std::rotl(v3, 16) ^ v2;
    v0 += v3, v3 = std::rotl(v3, 21) ^ v0;
    v2 += v1, v1 = std::rotl(v1, 17) ^ v2, v2 = std::rotl(v2, 32);
  }
  void absorb(uint64_t word) {
    v3 ^= word;
    round(), round();
    v0 ^= word;
  }
  // `tail`: the last 0 to 7 bytes of the message; `length`: of the whole message, in bytes.
  BlockHash finish(uint64_t tail, size_t length) {
    absorb(tail | uint64_t(length) << 56);
    v2 ^= 0xee;
    for (int i = 0; i < 4; ++i) round();
    BlockHash out;
    out.lo = v0 ^ v1 ^ v2 ^ v3;
    v1 ^= 0xdd;
    for (int i = 0; i < 4; ++i) round();
    out.hi = v0 ^ v1 ^ v2 ^ v3;
    return out;
  }
};

uint64_t random_word() {
  std::random_device source;
  return uint64_t(source()) << 32 | source();
}

}  // namespace

BlockHasher::BlockHasher() : BlockHasher(random_word(), random_word()) {}

// A root hashes 8 bytes and a chain at least 16, so the two never meet.
BlockHash BlockHasher::root(uint64_t salt) const {
  SipState state(key0_, key1_);
  state.absorb(salt);
  return state.finish(0, 8);
}

BlockHash BlockHasher::chain(BlockHash parent, std::span<const TokenId> tokens) const {
  SipState state(key0_, key1_);
  state.absorb(parent.lo);
  state.absorb(parent.hi);
  size_t i = 0;
  for (; i + 2 <= tokens.size(); i += 2) {
    state.absorb(uint32_t(tokens[i]) | uint64_t(uint32_t(tokens[i + 1])) << 32);
  }
  const uint64_t tail = i < tokens.size() ? uint32_t(tokens[i]) : 0;
  return state.finish(tail, 16 + 4 * tokens.size());
}

BlockPool::BlockPool(int num_blocks, int block_size, BlockHasher hasher)
    : hasher_(hasher),
      block_size_(block_size),
      blocks_(size_t(num_blocks) + 1),
      buckets_(std::bit_ceil(size_t(num_blocks) + 1), kNone),
      tokens_(size_t(num_blocks) * size_t(block_size)) {
  CHECK(num_blocks > 0 && block_size > 0);
  blocks_[num_blocks].prev = blocks_[num_blocks].next = num_blocks;
  for (BlockId b = 0; b < num_blocks; ++b) link(b, blocks_[num_blocks].prev);
}

bool BlockPool::allocate(int n, std::vector<BlockId>& out) {
  if (num_available_ < n) return false;
  for (; n > 0; --n) {
    const BlockId b = blocks_[num_blocks()].next;
    unlink(b);
    if (blocks_[b].num_tokens > 0) unpublish(b);
    blocks_[b].refs = 1;
    out.push_back(b);
  }
  return true;
}

BlockId BlockPool::find(const BlockHash& hash, std::span<const TokenId> rest) const {
  BlockId b = bucket(hash);
  while (b != kNone && blocks_[b].hash != hash) b = blocks_[b].next_in_bucket;
  if (b == kNone || size_t(blocks_[b].num_tokens) > rest.size()) return kNone;
  const TokenId* own = &tokens_[size_t(b) * block_size_];
  return std::equal(own, own + blocks_[b].num_tokens, rest.begin()) ? b : kNone;
}

int BlockPool::match(std::span<const BlockHash> hashes, std::span<const TokenId> tokens,
                     std::vector<BlockId>& out, int kind) {
  int n = 0;
  for (const BlockHash& hash : hashes) {
    const size_t begin = size_t(n) * block_size_;
    if (begin >= tokens.size()) break;
    const BlockId b = find(hash.of_kind(kind), tokens.subspan(begin));
    if (b == kNone) break;
    if (blocks_[b].refs++ == 0) unlink(b);
    out.push_back(b);
    ++n;
    if (blocks_[b].num_tokens < block_size_) break;  // nothing can follow a partial block
  }
  return n;
}

BlockPool::Match BlockPool::probe(std::span<const BlockHash> hashes,
                                  std::span<const TokenId> tokens, int kind) const {
  Match m;
  for (const BlockHash& hash : hashes) {
    const size_t begin = size_t(m.blocks) * block_size_;
    if (begin >= tokens.size()) break;
    const BlockId b = find(hash.of_kind(kind), tokens.subspan(begin));
    if (b == kNone) break;
    ++m.blocks;
    m.held += blocks_[b].refs > 0;
    if (blocks_[b].num_tokens < block_size_) break;
  }
  return m;
}

void BlockPool::publish(BlockId b, BlockHash hash, std::span<const TokenId> tokens) {
  Block& block = blocks_[b];
  CHECK(block.refs > 0 && !tokens.empty() && tokens.size() <= size_t(block_size_));
  if (block.num_tokens > 0) {
    if (block.hash == hash) return;
    unpublish(b);
  }
  for (BlockId other = bucket(hash); other != kNone; other = blocks_[other].next_in_bucket) {
    if (blocks_[other].hash == hash) return;
  }
  block.hash = hash;
  block.num_tokens = int(tokens.size());
  std::copy(tokens.begin(), tokens.end(), tokens_.begin() + ptrdiff_t(b) * block_size_);
  block.next_in_bucket = bucket(hash);
  bucket(hash) = b;
}

void BlockPool::prefetch(BlockId b, const BlockHash& hash) const {
  __builtin_prefetch(&blocks_[b], 1);
  __builtin_prefetch(&buckets_[hash.lo & (buckets_.size() - 1)], 1);
  __builtin_prefetch(&tokens_[size_t(b) * block_size_], 1);
}

void BlockPool::unpublish(BlockId b) {
  BlockId* at = &bucket(blocks_[b].hash);
  while (*at != b) at = &blocks_[*at].next_in_bucket;
  *at = blocks_[b].next_in_bucket;
  blocks_[b].next_in_bucket = kNone;
  blocks_[b].num_tokens = 0;
}

void BlockPool::retain(std::span<const BlockId> blocks) {
  for (BlockId b : blocks) {
    CHECK(blocks_[b].refs > 0);
    ++blocks_[b].refs;
  }
}

void BlockPool::release(std::vector<BlockId>& blocks) {
  const BlockId end = num_blocks();
  for (auto it = blocks.rbegin(); it != blocks.rend(); ++it) {
    Block& block = blocks_[*it];
    CHECK(block.refs > 0);
    if (--block.refs > 0) continue;
    link(*it, block.num_tokens > 0 ? blocks_[end].prev : end);
  }
  blocks.clear();
}

void BlockPool::link(BlockId b, BlockId after) {
  const BlockId before = blocks_[after].next;
  blocks_[b].prev = after;
  blocks_[b].next = before;
  blocks_[after].next = b;
  blocks_[before].prev = b;
  ++num_available_;
}

void BlockPool::unlink(BlockId b) {
  blocks_[blocks_[b].prev].next = blocks_[b].next;
  blocks_[blocks_[b].next].prev = blocks_[b].prev;
  --num_available_;
}

void BlockPool::check_invariants() const {
  const BlockId end = num_blocks();
  int available = 0, published = 0, indexed = 0;
  bool cached_seen = false;
  for (BlockId b = blocks_[end].next; b != end; b = blocks_[b].next) {
    CHECK(blocks_[b].refs == 0 && blocks_[blocks_[b].next].prev == b);
    CHECK(!cached_seen || blocks_[b].num_tokens > 0);  // nothing is evicted while a block is free
    cached_seen |= blocks_[b].num_tokens > 0;
    CHECK(++available <= end);
  }
  CHECK(available == num_available_);
  for (BlockId b = 0; b < end; ++b) {
    CHECK(blocks_[b].refs >= 0);
    available += blocks_[b].refs > 0;
    published += blocks_[b].num_tokens > 0;
  }
  CHECK(available == end);
  for (size_t i = 0; i < buckets_.size(); ++i) {
    for (BlockId b = buckets_[i]; b != kNone; b = blocks_[b].next_in_bucket) {
      CHECK(blocks_[b].num_tokens > 0 && (blocks_[b].hash.lo & (buckets_.size() - 1)) == i);
      CHECK(++indexed <= end);
    }
  }
  CHECK(indexed == published);
}

}  // namespace sluice
