#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernel_test_util.h"

namespace sluice {
namespace {

struct Shape {
  int heads = 2, kv_heads = 2, dim = 32, block_size = 16;
  DType cache = DType::f32;
  AttnParams params;
  float k_scale = 1, v_scale = 1;  // of fp8
  bool alibi = false;
};

struct Piece {  // of one sequence, in one step
  int seq = 0, tokens = 0, len = 0;
};

// Sequences whose whole context lies in a paged cache under random block tables.
class World {
 public:
  World(const Shape& shape, std::vector<int> lens, std::mt19937& rng)
      : shape_(shape),
        lens_(lens),
        max_blocks_(1 + *std::max_element(lens.begin(), lens.end()) / shape.block_size),
        num_blocks_(int(lens.size()) * max_blocks_ + 1),
        cache_(shape.cache, num_blocks_, shape.kv_heads, shape.block_size, shape.dim) {
    cache_.view.k_scale = shape.k_scale, cache_.view.v_scale = shape.v_scale;
    std::vector<int32_t> free(num_blocks_);
    std::iota(free.begin(), free.end(), 0);
    std::shuffle(free.begin(), free.end(), rng);
    tables_.assign(lens.size() * max_blocks_, -1);
    for (size_t s = 0; s < lens.size(); ++s) {
      for (int b = 0; b * shape.block_size < lens[s]; ++b) {
        tables_[s * max_blocks_ + b] = free.back();
        free.pop_back();
      }
      q_.emplace_back(lens[s], shape.heads * shape.dim);
      k_.emplace_back(lens[s], shape.kv_heads * shape.dim);
      v_.emplace_back(lens[s], shape.kv_heads * shape.dim);
    }
    unused_ = free.back();
    // From one that sees a few tokens to one that sees them all, no two alike.
    for (int h = 0; h < shape.heads; ++h)
      slopes_.push_back(float(std::pow(2, -0.7 - 8.0 * h / shape.heads)));
    if (shape.alibi) shape_.params.alibi = Tensor::of(slopes_.data(), DType::f32, {shape.heads});
    randomize(rng);
  }

  void randomize(std::mt19937& rng) {
    for (auto* all : {&q_, &k_, &v_}) {
      for (Matrix& m : *all) m.randomize(rng);
    }
  }

  void fill(Ops& ops) {
    for (size_t s = 0; s < lens_.size(); ++s) {
      std::vector<int32_t> slots;
      for (int t = 0; t < lens_[s]; ++t) slots.push_back(slot(int(s), t));
      ops.write_kv(cache_.view, k_[s].tensor().heads(shape_.dim), v_[s].tensor().heads(shape_.dim),
                   i32(slots));
    }
  }

  // The last `tokens` of the first `len` positions of each piece's sequence, in one call.
  Matrix run(Ops& ops, const std::vector<Piece>& pieces) {
    int n = 0;
    std::vector<int32_t> cu_q = {0}, seq_lens, tables, slots;
    AttnBatch batch;
    for (const Piece& p : pieces) {
      n += p.tokens;
      cu_q.push_back(n);
      seq_lens.push_back(p.len);
      tables.insert(tables.end(), tables_.begin() + p.seq * max_blocks_,
                    tables_.begin() + (p.seq + 1) * max_blocks_);
      // Blocks behind the window went back to the pool: their entries name one full of NaNs.
      const int window = shape_.params.window, first = p.len - p.tokens;
      const int gone = window > 0 ? std::max(first - window + 1, 0) / shape_.block_size : 0;
      std::fill_n(tables.end() - max_blocks_, gone, unused_);
      batch.max_q = std::max(batch.max_q, p.tokens);
      batch.max_seq_len = std::max(batch.max_seq_len, p.len);
    }
    Matrix q(n, shape_.heads * shape_.dim, shape_.heads * shape_.dim + 8);
    Matrix out(n, shape_.heads * shape_.dim, shape_.heads * shape_.dim + 4);
    int64_t row = 0;
    for (const Piece& p : pieces) {
      for (int t = p.len - p.tokens; t < p.len; ++t, ++row) {
        for (int64_t c = 0; c < q.cols(); ++c) q.at(row, c) = q_[p.seq].at(t, c);
      }
    }
    batch.num_seqs = int(pieces.size());
    batch.cu_q = i32(cu_q);
    batch.seq_lens = i32(seq_lens);
    batch.block_tables =
        Tensor::of(tables.data(), DType::i32, {int64_t(pieces.size()), max_blocks_});
    slots.assign(n, 0);
    batch.slot_mapping = i32(slots);
    ops.attention(out.tensor().heads(shape_.dim), q.tensor().heads(shape_.dim), cache_.view, batch,
                  shape_.params);
    EXPECT_TRUE(out.canaries_live());
    return out;
  }

  std::vector<double> exact(const std::vector<Piece>& pieces) const {
    std::vector<double> want;
    for (const Piece& p : pieces) {
      for (int t = p.len - p.tokens; t < p.len; ++t) {
        for (int h = 0; h < shape_.heads; ++h) {
          const std::vector<double> o = exact_head(p.seq, t, h);
          want.insert(want.end(), o.begin(), o.end());
        }
      }
    }
    return want;
  }

 private:
  int slot(int s, int t) const {
    return tables_[s * max_blocks_ + t / shape_.block_size] * shape_.block_size +
           t % shape_.block_size;
  }
  std::vector<double> exact_head(int s, int t, int h) const {
    const int kv = h / (shape_.heads / shape_.kv_heads) * shape_.dim;
    const int first = shape_.params.window > 0 ? std::max(0, t - shape_.params.window + 1) : 0;
    std::vector<double> scores, out(shape_.dim, 0);
    for (int j = first; j <= t; ++j) {
      double score = 0;
      for (int d = 0; d < shape_.dim; ++d) {
        score += double(q_[s].at(t, h * shape_.dim + d)) *
                 Layer::stored(k_[s].at(j, kv + d), shape_.cache, shape_.k_scale);
      }
      score *= shape_.params.scale;
      const double cap = shape_.params.softcap;
      if (cap > 0) score = cap * std::tanh(score / cap);
      scores.push_back(shape_.alibi ? score - double(slopes_[h]) * (t - j) : score);
    }
    const double top = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (double& x : scores) sum += x = std::exp(x - top);
    for (int j = first; j <= t; ++j) {
      for (int d = 0; d < shape_.dim; ++d) {
        out[d] += scores[j - first] / sum *
                  Layer::stored(v_[s].at(j, kv + d), shape_.cache, shape_.v_scale);
      }
    }
    return out;
  }

  Shape shape_;
  std::vector<int> lens_;
  int max_blocks_, num_blocks_;
  int32_t unused_ = 0;  // a block that nobody writes
  Cache cache_;
  std::vector<int32_t> tables_;
  std::vector<float> slopes_;
  std::vector<Matrix> q_, k_, v_;
};

class Attention : public EachIsa {};
SLUICE_EACH_ISA(Attention);

constexpr double kTolerance = 3e-6;

TEST_P(Attention, CaseTable) {
  std::mt19937 rng(1);
  const Shape shapes[] = {
      {2, 2, 64, 16, DType::f32, {0.125f, 0, 0}},
      {4, 2, 64, 16, DType::bf16, {0.125f, 0, 0}},
      {6, 1, 32, 8, DType::bf16, {0.2f, 0, 0}},
      {3, 3, 20, 5, DType::f32, {0.3f, 0, 0}},
      {2, 1, 80, 32, DType::bf16, {0.11f, 0, 0}},
      {8, 2, 128, 16, DType::bf16, {0.09f, 0, 0}},
      {2, 2, 33, 7, DType::bf16, {0.2f, 0, 0}},
      {1, 1, 1, 1, DType::f32, {1, 0, 0}},
      {2, 1, 32, 16, DType::f32, {0.2f, 10, 0}},
      {2, 1, 32, 16, DType::bf16, {0.2f, 64, 0}},
      {2, 1, 32, 16, DType::f32, {0.2f, 1, 0}},
      {2, 2, 32, 16, DType::f32, {0.5f, 0, 5}},
      {2, 2, 32, 16, DType::bf16, {0.5f, 100, 30}},
      {16, 1, 16, 64, DType::f32, {0.25f, 0, 0}},
      {40, 1, 16, 16, DType::f32, {0.25f, 0, 0}},
      {4, 2, 64, 16, DType::fp8_e4m3, {0.125f, 0, 0}, 0.5f, 0.25f},
      {6, 1, 33, 8, DType::fp8_e4m3, {0.2f, 10, 5}, 0.015625f, 2},
      {71, 1, 16, 16, DType::bf16, {0.25f, 0, 0}, 1, 1, true},
      {130, 2, 16, 16, DType::f32, {0.25f, 20, 0}},
      {4, 4, 64, 16, DType::f32, {0.125f, 0, 0}, 1, 1, true},
      {6, 2, 32, 16, DType::bf16, {0.2f, 40, 0}, 1, 1, true},
      {5, 1, 33, 8, DType::bf16, {0.2f, 0, 5}, 1, 1, true},
      {6, 3, 64, 16, DType::fp8_e4m3, {0.125f, 0, 0}, 0.5f, 0.25f, true},
  };
  const std::vector<int> lens = {1, 5, 16, 63, 64, 65, 130, 200};
  for (const Shape& shape : shapes) {
    SCOPED_TRACE(testing::Message()
                 << shape.heads << "/" << shape.kv_heads << " dim " << shape.dim << " block "
                 << shape.block_size << " window " << shape.params.window << " cap "
                 << shape.params.softcap << (shape.alibi ? " alibi" : ""));
    World world(shape, lens, rng);
    world.fill(ops());
    std::vector<Piece> decode, prefill, mixed;
    for (int s = 0; s < int(lens.size()); ++s) {
      decode.push_back({s, 1, lens[s]});
      prefill.push_back({s, lens[s], lens[s]});
      mixed.push_back({s, s % 2 ? 1 : std::max(1, lens[s] / 3), lens[s]});
    }
    for (const auto& pieces : {decode, prefill, mixed}) {
      EXPECT_LT(error_of(world.run(ops(), pieces), world.exact(pieces)), kTolerance);
    }
  }
}

// Past a span, and spans computed apart (one KV head leaves few tasks for eight threads).
TEST_P(Attention, LongContexts) {
  std::mt19937 rng(2);
  for (const int window : {0, 1500, 300}) {
    Shape shape{2, 1, 32, 16, DType::bf16, {0.3f, window, 0}};
    shape.alibi = window == 0;
    World world(shape, {2500, 1024, 1025}, rng);
    world.fill(ops());
    const std::vector<Piece> pieces = {{0, 3, 2500}, {1, 1, 1024}, {2, 2, 1025}};
    const Matrix out = world.run(ops(), pieces);
    EXPECT_LT(error_of(out, world.exact(pieces)), kTolerance);
    TestDevice one(GetParam(), 1), eight(GetParam(), 8);
    EXPECT_TRUE(world.run(one.ops, pieces).same_rows(out, 0, 0, 6));
    EXPECT_TRUE(world.run(eight.ops, pieces).same_rows(out, 0, 0, 6));
    // The same queries inside a chunk long enough that each task does all its spans.
    const Matrix chunk = world.run(ops(), {{0, 700, 2500}});
    EXPECT_TRUE(chunk.same_rows(out, 697, 0, 3));
  }
}

// Every token of a sequence as a decode row has the bits it has in any chunking of the prefill,
// beside any neighbours.
TEST_P(Attention, BitsDoNotDependOnChunks) {
  std::mt19937 rng(3);
  for (const int window : {0, 37}) {
    for (const DType type : {DType::f32, DType::bf16, DType::fp8_e4m3}) {
      const int len = 150;
      World world({4, 2, 48, 16, type, {0.2f, window, 0}, 1, 1, window == 0}, {len, 90, 33}, rng);
      world.fill(ops());
      const Matrix whole = world.run(ops(), {{0, len, len}});
      for (int t = 0; t < len; ++t) {
        const Matrix row = world.run(ops(), {{0, 1, t + 1}});
        ASSERT_TRUE(row.same_rows(whole, 0, t, 1)) << "decode of " << t;
      }
      for (const int chunk : {2, 7, 16, 31, 64, 100}) {
        for (int begin = 0; begin < len; begin += chunk) {
          const int count = std::min(chunk, len - begin);
          const Matrix part =
              world.run(ops(), {{1, 1, 90}, {0, count, begin + count}, {2, 33, 33}});
          ASSERT_TRUE(part.same_rows(whole, 1, begin, count)) << "chunks of " << chunk;
        }
      }
    }
  }
}

// The same bits under any block size and any block table.
TEST_P(Attention, BitsDoNotDependOnBlocks) {
  Matrix first(1, 1);
  for (const int block_size : {1, 5, 16, 64, 256}) {
    std::mt19937 tables(block_size), values(9);
    Shape shape{2, 1, 64, block_size, DType::bf16, {0.125f, 0, 0}};
    World world(shape, {200}, tables);
    world.randomize(values);
    world.fill(ops());
    const Matrix out = world.run(ops(), {{0, 20, 200}});
    if (block_size == 1) {
      first = out;
    } else {
      EXPECT_TRUE(out.same_rows(first, 0, 0, 20)) << block_size;
    }
  }
}

TEST_P(Attention, RandomBatches) {
  std::mt19937 rng(5);
  const auto pick = [&](int low, int high) { return low + int(rng() % (high - low + 1)); };
  for (int round = 0; round < 60; ++round) {
    Shape shape;
    shape.kv_heads = pick(1, 3);
    shape.heads = shape.kv_heads * pick(1, 5);
    shape.dim = pick(1, 12) * 8;
    shape.block_size = 1 << pick(0, 5);
    shape.cache = round % 2 ? DType::bf16 : DType::f32;
    shape.params.scale = 1 / std::sqrt(float(shape.dim));
    shape.params.window = round % 3 == 0 ? pick(1, 150) : 0;
    shape.params.softcap = round % 5 == 0 ? 20 : 0;
    shape.alibi = round % 4 == 0;
    std::vector<int> lens;
    for (int s = pick(1, 6); s > 0; --s) lens.push_back(pick(1, 220));
    World world(shape, lens, rng);
    world.fill(ops());
    std::vector<Piece> pieces;
    for (int s = 0; s < int(lens.size()); ++s) {
      const int len = pick(1, lens[s]);
      pieces.push_back({s, pick(0, 2) ? 1 : pick(1, len), len});
    }
    ASSERT_LT(error_of(world.run(ops(), pieces), world.exact(pieces)), kTolerance)
        << "round " << round;
  }
}

}  // namespace
}  // namespace sluice
