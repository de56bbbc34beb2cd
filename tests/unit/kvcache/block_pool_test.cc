#include "kvcache/block_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <random>
#include <set>

namespace sluice {
namespace {

const BlockHasher kHasher(0x0706050403020100ull, 0x0f0e0d0c0b0a0908ull);

struct Chain {
  std::vector<TokenId> tokens;
  std::vector<BlockHash> hashes;
};

Chain make_chain(int num_blocks, int block_size, TokenId first) {
  Chain c;
  BlockHash h = kHasher.root(0);
  for (int b = 0; b < num_blocks; ++b) {
    for (int i = 0; i < block_size; ++i) c.tokens.push_back(first++);
    h = kHasher.chain(h, std::span(c.tokens).last(size_t(block_size)));
    c.hashes.push_back(h);
  }
  return c;
}

void publish_all(BlockPool& pool, const Chain& c, const std::vector<BlockId>& blocks) {
  const size_t bs = size_t(pool.block_size());
  for (size_t i = 0; i < blocks.size(); ++i) {
    pool.publish(blocks[i], c.hashes[i], std::span(c.tokens).subspan(i * bs, bs));
  }
}

// The published vector of SipHash-2-4-128 for the 8-byte message 00..07 and the key 00..0f.
TEST(BlockHasher, IsSipHash) {
  const BlockHash h = kHasher.root(0x0706050403020100ull);
  EXPECT_EQ(h.lo, 0x61f55862baa9623bull);
  EXPECT_EQ(h.hi, 0xb49714f364e2830full);
}

TEST(BlockHasher, EverythingCounts) {
  const std::vector<TokenId> a{1, 2, 3}, b{1, 2, 4}, longer{1, 2, 3, 0};
  const BlockHash root = kHasher.root(0);
  const BlockHash h = kHasher.chain(root, a);
  EXPECT_EQ(h, kHasher.chain(root, a));
  EXPECT_NE(h, kHasher.chain(root, b));
  EXPECT_NE(h, kHasher.chain(root, longer));
  EXPECT_NE(h, kHasher.chain(kHasher.root(1), a));          // another salt
  EXPECT_NE(h, BlockHasher(1, 2).chain(root, a));           // another key
  EXPECT_NE(BlockHasher().root(0), BlockHasher().root(0));  // a key of its own per process
}

TEST(BlockPool, AllocatesAllOrNothing) {
  BlockPool pool(3, 4);
  std::vector<BlockId> a, b;
  EXPECT_TRUE(pool.allocate(2, a));
  EXPECT_FALSE(pool.allocate(2, b));
  EXPECT_TRUE(b.empty());
  EXPECT_EQ(pool.num_available(), 1);
  EXPECT_TRUE(pool.allocate(1, b));
  EXPECT_EQ(std::set<BlockId>({a[0], a[1], b[0]}).size(), 3u);
  pool.release(a);
  EXPECT_TRUE(a.empty());
  EXPECT_EQ(pool.num_available(), 2);
  pool.check_invariants();
}

TEST(BlockPool, EvictsTailsBeforeHeads) {
  BlockPool pool(4, 2);
  const Chain c = make_chain(4, 2, 10);
  std::vector<BlockId> blocks, other, again;
  ASSERT_TRUE(pool.allocate(4, blocks));
  publish_all(pool, c, blocks);
  pool.release(blocks);
  for (int left = 3; left >= 0; --left) {
    ASSERT_TRUE(pool.allocate(1, other));
    EXPECT_EQ(pool.match(c.hashes, c.tokens, again), left);
    pool.release(again);
    pool.check_invariants();
  }
}

TEST(BlockPool, EvictsTheOldestReleased) {
  BlockPool pool(2, 2);
  const Chain a = make_chain(1, 2, 10), b = make_chain(1, 2, 20);
  std::vector<BlockId> x, y, again;
  ASSERT_TRUE(pool.allocate(1, x) && pool.allocate(1, y));
  publish_all(pool, a, x);
  publish_all(pool, b, y);
  pool.release(y);
  pool.release(x);
  EXPECT_EQ(pool.match(b.hashes, b.tokens, again), 1);  // used again: now the youngest
  pool.release(again);
  ASSERT_TRUE(pool.allocate(1, x));
  EXPECT_EQ(pool.probe(a.hashes, a.tokens).blocks, 0);
  EXPECT_EQ(pool.probe(b.hashes, b.tokens).blocks, 1);
}

TEST(BlockPool, TakesWorthlessBlocksFirst) {
  BlockPool pool(2, 2);
  const Chain a = make_chain(1, 2, 10);
  std::vector<BlockId> x, y;
  ASSERT_TRUE(pool.allocate(1, x) && pool.allocate(1, y));
  publish_all(pool, a, x);
  pool.release(x);
  pool.release(y);  // released later, but it holds nothing
  ASSERT_TRUE(pool.allocate(1, x));
  EXPECT_EQ(pool.probe(a.hashes, a.tokens).blocks, 1);
}

TEST(BlockPool, ComparesTokensOnEveryHit) {
  BlockPool pool(2, 2);
  const std::array<TokenId, 2> t{1, 2}, u{3, 4};
  const std::array hash{BlockHash{5, 6}};
  std::vector<BlockId> b, c;
  ASSERT_TRUE(pool.allocate(1, b));
  pool.publish(b[0], hash[0], t);
  EXPECT_EQ(pool.match(hash, u, c), 0);
  EXPECT_EQ(pool.probe(hash, u).blocks, 0);
  EXPECT_EQ(pool.match(hash, std::span(t).first(1), c), 0);  // fewer tokens than it holds
  EXPECT_EQ(pool.match(hash, t, c), 1);
}

TEST(BlockPool, MatchTakesReferences) {
  BlockPool pool(3, 2);
  const Chain c = make_chain(2, 2, 10);
  std::vector<BlockId> a, b;
  ASSERT_TRUE(pool.allocate(2, a));
  publish_all(pool, c, a);
  EXPECT_EQ(pool.match(c.hashes, c.tokens, b), 2);
  EXPECT_EQ(a, b);
  EXPECT_EQ(pool.refs(a[0]), 2);
  EXPECT_EQ(pool.probe(c.hashes, c.tokens).held, 2);
  pool.release(a);
  EXPECT_EQ(pool.num_available(), 1);
  pool.retain(b);
  EXPECT_EQ(pool.refs(b[1]), 2);
  std::vector<BlockId> copy = b;
  pool.release(b);
  pool.release(copy);
  EXPECT_EQ(pool.num_available(), 3);
  EXPECT_EQ(pool.probe(c.hashes, c.tokens).blocks, 2);
  EXPECT_EQ(pool.probe(c.hashes, c.tokens).held, 0);
}

TEST(BlockPool, FirstPublishedKeepsTheHash) {
  BlockPool pool(2, 2);
  const Chain c = make_chain(1, 2, 10);
  std::vector<BlockId> a, b, found;
  ASSERT_TRUE(pool.allocate(1, a) && pool.allocate(1, b));
  publish_all(pool, c, a);
  publish_all(pool, c, b);
  EXPECT_EQ(pool.match(c.hashes, c.tokens, found), 1);
  EXPECT_EQ(found, a);
  pool.release(b);
  pool.check_invariants();
}

TEST(BlockPool, PartialBlockIsReplacedWhenFull) {
  BlockPool pool(2, 4);
  const std::vector<TokenId> t{1, 2, 3, 4, 5};
  const BlockHash part = kHasher.chain(kHasher.root(0), std::span(t).first(3));
  const BlockHash full = kHasher.chain(kHasher.root(0), std::span(t).first(4));
  std::vector<BlockId> a, found;
  ASSERT_TRUE(pool.allocate(1, a));
  pool.publish(a[0], part, std::span(t).first(3));
  EXPECT_EQ(pool.match(std::array{part, full}, t, found), 1);  // nothing follows a partial block
  pool.release(found);
  pool.publish(a[0], full, std::span(t).first(4));
  EXPECT_EQ(pool.probe(std::array{part}, t).blocks, 0);
  EXPECT_EQ(pool.probe(std::array{full}, t).blocks, 1);
  pool.check_invariants();
}

// Against a plain model: whatever it says is cached matches, until it is given to somebody else.
TEST(BlockPool, RandomTrafficAgreesWithAModel) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    std::mt19937_64 rng(seed);
    const int n = 1 + int(rng() % 12), bs = 1 + int(rng() % 4);
    BlockPool pool(n, bs, kHasher);
    std::vector<std::vector<BlockId>> held;
    std::map<BlockId, int> refs;
    std::map<BlockId, Chain> content;  // published, by block
    int next = 0;
    for (int step = 0; step < 200; ++step) {
      const int what = int(rng() % 4);
      if (what == 0) {
        const int want = 1 + int(rng() % 3);
        std::vector<BlockId> got;
        const bool ok = pool.allocate(want, got);
        ASSERT_EQ(ok, want <= n - int(refs.size()));
        for (BlockId b : got) {
          ASSERT_EQ(refs.count(b), 0u);
          refs[b] = 1;
          content.erase(b);
        }
        if (ok) held.push_back(got);
      } else if (what == 1 && !held.empty()) {
        const size_t i = rng() % held.size();
        for (BlockId b : held[i]) {
          if (--refs[b] == 0) refs.erase(b);
        }
        pool.release(held[i]);
        held.erase(held.begin() + ptrdiff_t(i));
      } else if (what == 2 && !held.empty()) {
        const BlockId b = held[rng() % held.size()][0];
        if (content.count(b) == 0) {
          const Chain c = make_chain(1, bs, next += 100);
          pool.publish(b, c.hashes[0], c.tokens);
          content[b] = c;
        }
      } else if (!content.empty()) {
        auto it = content.begin();
        std::advance(it, ptrdiff_t(rng() % content.size()));
        std::vector<BlockId> got;
        ASSERT_EQ(pool.match(it->second.hashes, it->second.tokens, got), 1);
        ASSERT_EQ(got[0], it->first);
        ++refs[got[0]];
        held.push_back(got);
      }
      pool.check_invariants();
      ASSERT_EQ(pool.num_available(), n - int(refs.size()));
      for (const auto& [b, count] : refs) ASSERT_EQ(pool.refs(b), count);
    }
  }
}

}  // namespace
}  // namespace sluice
