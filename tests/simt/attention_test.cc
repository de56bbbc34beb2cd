// Paged attention on the emulator, against softmax in double precision.
#include "base/float8.h"
#include "kernels/cuda/attention_work.h"
#include "kernels/cuda/launch.h"
#include "tests/simt/kernel_test.h"

namespace sluice::cuda {
namespace {

using simt::Array;
using simt::Bf16;
using simt::E4m3;
using simt::F16;

struct Shape {
  int head_dim = 64, num_kv_heads = 2, group = 4, block_size = 16;
  int window = 0;
  float softcap = 0;
  float k_scale = 1, v_scale = 1;  // of a cache in E4m3
  bool alibi = false;
  int share = 1;  // as PagedKv has it
};
struct Sequence {
  int num_queries = 1, seq_len = 1;  // the queries included
  uint32_t seed = 0;                 // of its content
};

template <class T>
float value_of(T v) {
  return simt::to_float(v);
}
float value_of(E4m3 v) { return from_e4m3(v.bits); }

// A step's attention over a cache whose blocks lie in random order; what no sequence holds is NaN.
template <class T, class Kv = T>
class Step {
 public:
  Step(const Shape& shape, std::vector<Sequence> sequences, uint32_t seed = 1)
      : shape_(shape),
        sequences_(std::move(sequences)),
        cu_q_(sequences_.size() + 1),
        seq_lens_(sequences_.size()),
        q_(count_tokens() * size_t(heads() * shape.head_dim)),
        out_(q_.size()),
        lse_(count_tokens() * size_t(heads())),
        sequence_lse_(sequences_.size() * size_t(heads())),
        slopes_(size_t(heads())) {
    // From one that sees a few tokens to one that sees them all, no two alike.
    for (size_t h = 0; h < slopes_.size(); ++h)
      slopes_[h] = float(std::pow(2, -0.7 - 8.0 * double(h) / double(slopes_.size())));
    for (size_t s = 0; s < sequences_.size(); ++s) seq_lens_[s] = sequences_[s].seq_len;
    make_cache(seed);
    fill_content();
  }

  // From now on sequences of one query are chunks of prompts, too; the last query is `whole`'s.
  void continue_prompt(const Step& whole) {
    prompts_only_ = true;
    const size_t row = size_t(heads() * shape_.head_dim);
    std::copy_n(whole.q_.data() + whole.q_.size() - row, row, q_.data() + q_.size() - row);
  }
  void run(int blocks = 3, int64_t max_partials = 1 << 20) {
    AttentionWork work;
    plan_attention(cu_q_, seq_lens_, num_decodes(),
                   {shape_.num_kv_heads * shape_.share, shape_.group / shape_.share, shape_.window},
                   max_partials, work);
    const auto scores = AttentionScores::of(shape_.k_scale / std::sqrt(float(shape_.head_dim)),
                                            shape_.window, shape_.softcap);
    const PagedKv<Kv> kv{cache_->data(),
                         cache_->data() + size_t(shape_.num_kv_heads) * head_size(),
                         block_size(),
                         head_size(),
                         std::countr_zero(unsigned(shape_.block_size)),
                         shape_.share};
    const int64_t stride = heads() * shape_.head_dim;
    Array<float> partial_out(size_t(work.num_partials) * size_t(shape_.head_dim));
    Array<float> partial_stats(size_t(work.num_partials) * 2);
    std::vector<uint32_t> tickets(sequences_.size() * size_t(shape_.num_kv_heads * shape_.share));
    const float* alibi = shape_.alibi ? slopes_.data() : nullptr;
    DecodeParams<T, Kv> d{};
    d.q = q_.data(), d.out = out_.data(), d.q_stride = d.out_stride = stride, d.kv = kv;
    d.block_tables = tables_.data(), d.table_stride = table_stride_.data();
    d.seq_lens = seq_lens_.data(), d.token_of = work.token_of.data();
    d.num_items = num_items_.data();
    d.partial_of = work.partial_of.data(), d.partial_out = partial_out.data();
    d.partial_stats = partial_stats.data(), d.tickets = tickets.data();
    d.lse = sequence_lse_.data();
    d.num_kv_heads = shape_.num_kv_heads * shape_.share, d.group = shape_.group / shape_.share;
    d.scores = scores, d.value_scale = shape_.v_scale, d.alibi = alibi;
    for (int begin = 0; const int32_t end : work.round_ends) {
      num_items_[0] = end - begin;
      d.items = work.decode.data() + begin;
      attention_decode(Stream{}, d, shape_.head_dim, blocks);
      begin = end;
    }
    EXPECT_EQ(tickets, std::vector<uint32_t>(tickets.size()));  // ready for the next launch

    PrefillParams<T, Kv> p{};
    p.q = q_.data(), p.out = out_.data(), p.q_stride = p.out_stride = stride, p.kv = kv;
    p.block_tables = tables_.data(), p.table_stride = table_stride_.data();
    p.seq_lens = seq_lens_.data(), p.cu_q = cu_q_.data(), p.items = work.prefill.data();
    p.lse = lse_.data();
    p.num_kv_heads = d.num_kv_heads, p.group = d.group;
    p.scores = scores, p.value_scale = shape_.v_scale, p.alibi = alibi;
    attention_prefill(Stream{}, p, shape_.head_dim, int(work.prefill.size()));
  }

  double error() const {
    simt::Error error;
    for (size_t s = 0; s < sequences_.size(); ++s) {
      for (int i = 0; i < sequences_[s].num_queries; ++i) {
        for (int h = 0; h < heads(); ++h) add_error(s, i, h, error);
      }
    }
    return error.relative();
  }

  // Of the last query of sequence s.
  std::vector<uint32_t> last_bits(size_t s) const {
    const std::vector<uint32_t> all = bits(s);
    const size_t tail = size_t(heads() * shape_.head_dim) + size_t(heads());
    return {all.end() - std::ptrdiff_t(tail), all.end()};
  }
  // Of sequence s: its results, and the f32 sums behind them, which rounding does not hide.
  std::vector<uint32_t> bits(size_t s) const {
    std::vector<uint32_t> bits;
    const size_t row = size_t(heads() * shape_.head_dim);
    for (size_t i = size_t(cu_q_[s]) * row; i < size_t(cu_q_[s + 1]) * row; ++i)
      bits.push_back(out_[i].bits);
    for (size_t h = 0; h < size_t(heads()); ++h) {
      const size_t last = size_t(cu_q_[s + 1] - 1) * size_t(heads()) + h;
      const bool decode = int(s) < num_decodes();
      bits.push_back(
          std::bit_cast<uint32_t>(decode ? sequence_lse_[s * size_t(heads()) + h] : lse_[last]));
    }
    return bits;
  }

 private:
  int heads() const { return shape_.num_kv_heads * shape_.group; }
  // Those that come first: a prompt's last token alone is a decode to no test but one.
  int num_decodes() const {
    int n = 0;
    while (!prompts_only_ && n < int(sequences_.size()) && sequences_[size_t(n)].num_queries == 1)
      ++n;
    return n;
  }
  int64_t head_size() const { return int64_t{shape_.block_size} * shape_.head_dim; }
  int64_t block_size() const { return 2 * shape_.num_kv_heads * head_size(); }
  size_t count_tokens() {
    for (size_t s = 0; s < sequences_.size(); ++s)
      cu_q_[s + 1] = cu_q_[s] + sequences_[s].num_queries;
    return size_t(cu_q_.back());
  }

  void make_cache(uint32_t seed) {
    int most = 1, blocks = 0;
    for (const Sequence& s : sequences_) {
      const int need = (s.seq_len + shape_.block_size - 1) / shape_.block_size;
      most = std::max(most, need), blocks += need;
    }
    table_stride_[0] = most;
    std::vector<int32_t> order(size_t(blocks) + 2);  // two that nobody holds
    for (size_t i = 0; i < order.size(); ++i) order[i] = int32_t(i);
    std::shuffle(order.begin(), order.end(), std::mt19937(seed + simt::run_seed()));
    cache_.emplace(order.size() * size_t(block_size()));
    tables_.assign(sequences_.size() * size_t(most), order.back());
    size_t next = 0;
    for (size_t s = 0; s < sequences_.size(); ++s) {
      const int need = (sequences_[s].seq_len + shape_.block_size - 1) / shape_.block_size;
      // Blocks behind the window went back to the pool: what the table says of them is stale.
      const int gone =
          shape_.window > 0
              ? std::max(sequences_[s].seq_len - sequences_[s].num_queries + 1 - shape_.window, 0) /
                    shape_.block_size
              : 0;
      for (int b = gone; b < need; ++b) tables_[s * size_t(most) + size_t(b)] = order[next++];
    }
  }

  Kv* slot(size_t s, int position, int kv_head, bool value) {
    const int block = tables_[s * size_t(table_stride_[0]) + size_t(position / shape_.block_size)];
    return cache_->data() + block * block_size() +
           (kv_head + (value ? shape_.num_kv_heads : 0)) * head_size() +
           position % shape_.block_size * shape_.head_dim;
  }

  void fill_content() {
    for (size_t s = 0; s < sequences_.size(); ++s) {
      const Sequence& sequence = sequences_[s];
      std::mt19937 random(sequence.seed + 1000 + simt::run_seed());
      std::normal_distribution<float> normal(0, 1);
      keys_.emplace_back(), values_.emplace_back();
      const int seen_from =
          shape_.window > 0
              ? std::max(sequence.seq_len - sequence.num_queries + 1 - shape_.window, 0)
              : 0;
      for (int position = 0; position < sequence.seq_len; ++position) {
        for (int h = 0; h < shape_.num_kv_heads; ++h) {
          for (int i = 0; i < 2 * shape_.head_dim; ++i) {
            const float scale = i < shape_.head_dim ? shape_.k_scale : shape_.v_scale;
            Kv v;
            simt::from_float(v, 1.5f * normal(random) / scale);
            (i < shape_.head_dim ? keys_ : values_).back().push_back(value_of(v) * scale);
            if (position < seen_from) continue;
            slot(s, position, h, i >= shape_.head_dim)[i % shape_.head_dim] = v;
          }
        }
      }
      const size_t row = size_t(heads() * shape_.head_dim);
      for (size_t i = size_t(cu_q_[s]) * row; i < size_t(cu_q_[s + 1]) * row; ++i)
        simt::from_float(q_[i], 2 * normal(random));
    }
  }

  void add_error(size_t s, int query, int head, simt::Error& error) const {
    const int dim = shape_.head_dim, kv_head = head / shape_.group;
    const size_t row = (size_t(cu_q_[s] + query) * size_t(heads()) + size_t(head)) * size_t(dim);
    const int end = sequences_[s].seq_len - sequences_[s].num_queries + query + 1;
    const int begin = shape_.window > 0 ? std::max(end - shape_.window, 0) : 0;
    std::vector<double> weight, want(size_t(dim), 0.0);
    double top = -1e30, sum = 0;
    const auto at = [&](int position) {
      return size_t(position * shape_.num_kv_heads + kv_head) * size_t(dim);
    };
    for (int position = begin; position < end; ++position) {
      double dot = 0;
      for (int i = 0; i < dim; ++i)
        dot += double(simt::to_float(q_[row + size_t(i)])) * keys_[s][at(position) + size_t(i)];
      dot /= std::sqrt(double(dim));
      if (shape_.softcap > 0) dot = shape_.softcap * std::tanh(dot / shape_.softcap);
      if (shape_.alibi) dot -= double(slopes_[size_t(head)]) * (end - 1 - position);
      weight.push_back(dot);
      top = std::max(top, dot);
    }
    for (double& w : weight) sum += w = std::exp(w - top);
    for (int position = begin; position < end; ++position) {
      for (int i = 0; i < dim; ++i)
        want[size_t(i)] +=
            weight[size_t(position - begin)] / sum * values_[s][at(position) + size_t(i)];
    }
    for (int i = 0; i < dim; ++i) error.add(simt::to_float(out_[row + size_t(i)]), want[size_t(i)]);
  }

  const Shape shape_;
  const std::vector<Sequence> sequences_;
  std::vector<int32_t> cu_q_, seq_lens_, tables_;
  bool prompts_only_ = false;
  // Where a GPU can read them.
  std::vector<int32_t> table_stride_{0}, num_items_{0};
  Array<T> q_, out_;
  Array<float> lse_, sequence_lse_, slopes_;
  std::optional<Array<Kv>> cache_;
  std::vector<std::vector<float>> keys_, values_;  // [sequence][position, kv head, dim]
};

constexpr double kTolerance = 4e-3;  // of bf16; f16 has three bits more

template <class T, class Kv = T>
void expect_right(const Shape& shape, const std::vector<Sequence>& sequences) {
  Step<T, Kv> step(shape, sequences);
  step.run();
  EXPECT_LT(step.error(), kTolerance)
      << "head_dim " << shape.head_dim << " group " << shape.group << " block " << shape.block_size
      << " window " << shape.window << " softcap " << shape.softcap << " alibi " << shape.alibi;
}

// Lengths on both sides of a warp's tokens, a tile and a chunk, and several chunks.
TEST(DecodeAttention, LengthsAroundEveryBorder) {
  std::vector<Sequence> sequences;
  for (const int len : {1, 15, 16, 17, 63, 64, 65, 300, 511, 512, 513, 1100})
    sequences.push_back({1, len, uint32_t(len)});
  expect_right<Bf16>({}, sequences);
  expect_right<F16>({.num_kv_heads = 1, .group = 2}, sequences);
}

TEST(DecodeAttention, HeadSizesAndGroups) {
  const std::vector<Sequence> sequences = {{1, 70, 1}, {1, 530, 2}};
  for (const int dim : {32, 64, 96, 128, 256})
    expect_right<Bf16>({.head_dim = dim, .num_kv_heads = 1}, sequences);
  for (const int group : {1, 2, 7, 8, 9, 16})
    expect_right<Bf16>({.num_kv_heads = 1, .group = group}, sequences);
}

TEST(DecodeAttention, BlocksWindowsAndSoftCaps) {
  const std::vector<Sequence> sequences = {{1, 5, 1}, {1, 200, 2}, {1, 1300, 3}};
  for (const int block : {16, 32, 64}) expect_right<Bf16>({.block_size = block}, sequences);
  for (const int window : {1, 16, 37, 128, 600, 5000})
    expect_right<Bf16>({.num_kv_heads = 1, .window = window}, sequences);
  expect_right<Bf16>({.num_kv_heads = 1, .softcap = 3}, sequences);
}

TEST(PrefillAttention, PromptsAndChunksOfThem) {
  expect_right<Bf16>({}, {{2, 2, 1}, {33, 33, 2}, {64, 64, 3}, {20, 150, 4}, {70, 135, 5}});
  expect_right<F16>({.num_kv_heads = 1}, {{3, 200, 1}, {40, 40, 2}});
}

TEST(PrefillAttention, HeadSizesAndGroups) {
  const std::vector<Sequence> sequences = {{17, 100, 1}, {40, 40, 2}};
  for (const int dim : {32, 64, 96, 128, 256})
    expect_right<Bf16>({.head_dim = dim, .num_kv_heads = 1}, sequences);
  for (const int group : {1, 3, 8, 16})
    expect_right<Bf16>({.num_kv_heads = 1, .group = group}, sequences);
}

TEST(PrefillAttention, BlocksWindowsAndSoftCaps) {
  const std::vector<Sequence> sequences = {{5, 5, 1}, {30, 200, 2}, {90, 90, 3}};
  for (const int block : {16, 32, 64})
    expect_right<Bf16>({.num_kv_heads = 1, .block_size = block}, sequences);
  for (const int window : {1, 16, 37, 70, 5000})
    expect_right<Bf16>({.num_kv_heads = 1, .window = window}, sequences);
  expect_right<Bf16>({.num_kv_heads = 1, .softcap = 3}, sequences);
}

// Every part of a lane's dims, tokens and heads has a place of its own there: all head sizes, and
// the borders of tiles once.
TEST(Attention, CachesInFp8) {
  const std::vector<Sequence> sequences = {{1, 70, 1}, {1, 530, 2}, {1, 16, 3}, {17, 100, 4}};
  for (const int dim : {32, 64, 96, 128, 256}) {
    expect_right<Bf16, E4m3>(
        {.head_dim = dim, .num_kv_heads = 1, .k_scale = 0.03f, .v_scale = 0.7f}, sequences);
  }
  const Shape scaled{.k_scale = 0.5f, .v_scale = 0.011f};
  expect_right<F16, E4m3>(scaled, sequences);
  Shape shape = scaled;
  shape.group = 12, shape.num_kv_heads = 1, shape.block_size = 32;
  expect_right<Bf16, E4m3>(shape, {{1, 1, 1}, {1, 15, 2}, {1, 65, 3}, {1, 513, 4}, {33, 33, 5}});
  shape = scaled;
  shape.window = 37;
  expect_right<Bf16, E4m3>(shape, sequences);
  shape.window = 0, shape.softcap = 3;
  expect_right<Bf16, E4m3>(shape, sequences);
}

// More query heads to a KV head than a kernel takes at once.
TEST(Attention, ManyQueryHeads) {
  const std::vector<Sequence> sequences = {{1, 70, 1}, {1, 600, 2}, {17, 100, 3}};
  for (const auto& [group, share] : {std::pair{24, 2}, {23, 23}, {64, 4}})
    expect_right<Bf16>({.group = group, .alibi = group == 24, .share = share}, sequences);
}

// Heads of a group have slopes of their own, and rows that are only padding have none.
TEST(Attention, LinearBiases) {
  const std::vector<Sequence> sequences = {{1, 70, 1}, {1, 1300, 2}, {17, 100, 3}, {40, 600, 4}};
  for (const int dim : {64, 128, 256})
    expect_right<Bf16>({.head_dim = dim, .num_kv_heads = 1, .alibi = true}, sequences);
  for (const int group : {1, 3, 12}) expect_right<F16>({.group = group, .alibi = true}, sequences);
  expect_right<Bf16>({.num_kv_heads = 1, .window = 37, .softcap = 3, .alibi = true}, sequences);
  expect_right<Bf16, E4m3>({.k_scale = 0.03f, .v_scale = 0.7f, .alibi = true}, sequences);
}

template <class Kv>
void expect_same_bits_in_every_order() {
  const Shape shape{.head_dim = 128, .num_kv_heads = 1};
  const std::vector<Sequence> sequences = {{1, 600, 1}, {1, 3, 3}, {40, 150, 2}};
  Step<Bf16, Kv> first(shape, sequences);
  first.run();
  simt::in_all_orders([&] {
    for (const int blocks : {1, 2, 5}) {
      Step<Bf16, Kv> again(shape, sequences);
      again.run(blocks);
      for (size_t s = 0; s < sequences.size(); ++s) EXPECT_EQ(again.bits(s), first.bits(s));
    }
  });
}
TEST(Attention, EveryFiberOrderGivesTheSameBits) { expect_same_bits_in_every_order<Bf16>(); }
TEST(Attention, EveryFiberOrderGivesTheSameBitsInFp8) { expect_same_bits_in_every_order<E4m3>(); }

// The same request alone, in other company, and with its blocks elsewhere.
TEST(Attention, ResultsDoNotDependOnTheBatch) {
  const Shape shape{.num_kv_heads = 2, .group = 2};
  const std::vector<Sequence> mine = {{1, 1100, 7}, {30, 200, 8}};
  const std::vector<Sequence> batch = {{1, 20, 1}, mine[0], {1, 513, 3}, {9, 9, 2}, mine[1]};
  Step<Bf16> together(shape, batch, 5);
  together.run(4);
  for (size_t i = 0; i < 2; ++i) {
    Step<Bf16> alone(shape, {mine[i]}, 9);
    alone.run(7);
    EXPECT_EQ(alone.bits(0), together.bits(i == 0 ? 1 : 4));
  }
}

TEST(DecodeAttention, RoundsShareTheMemoryOfPartialResults) {
  const Shape shape{.num_kv_heads = 2, .group = 2};
  const std::vector<Sequence> sequences = {
      {1, 1100, 1}, {1, 20, 2}, {1, 600, 3}, {1, 513, 4}, {1, 1500, 5}};
  Step<Bf16> at_once(shape, sequences), in_rounds(shape, sequences);
  at_once.run();
  in_rounds.run(3, 3 * 4);
  for (size_t s = 0; s < sequences.size(); ++s) EXPECT_EQ(in_rounds.bits(s), at_once.bits(s));
}

TEST(AttentionWork, RoundsEndWhereTheNextSequenceDoesNotFit) {
  AttentionWork work;
  const std::vector<int32_t> cu_q = {0, 1, 2, 3, 4, 5}, lens = {1100, 20, 600, 513, 1500};
  plan_attention(cu_q, lens, 5, {1, 4, 0}, 3 * 4, work);  // chunks: 3, 1, 2, 2, 3
  EXPECT_EQ(work.round_ends, (std::vector<int32_t>{4, 6, 8, 11}));
  EXPECT_EQ(work.partial_of, (std::vector<int32_t>{0, 12, 0, 0, 0}));
  EXPECT_EQ(work.num_partials, 12);
  plan_attention(cu_q, lens, 5, {1, 4, 0}, 4 * 4 + 1, work);
  EXPECT_EQ(work.round_ends, (std::vector<int32_t>{4, 8, 11}));
  EXPECT_EQ(work.partial_of, (std::vector<int32_t>{0, 12, 0, 8, 0}));
  plan_attention(cu_q, lens, 5, {1, 4, 0}, 1000, work);
  EXPECT_EQ(work.round_ends, (std::vector<int32_t>{11}));
  plan_attention(std::vector<int32_t>{0, 5}, std::vector<int32_t>{9}, 0, {1, 4, 0}, 1000, work);
  EXPECT_TRUE(work.round_ends.empty());
}

TEST(PrefillAttention, ALastTokenAloneGivesTheBitsOfItsWholePrompt) {
  for (const int len : {2, 17, 70, 300}) {
    Step<Bf16> whole({}, {{len, len, 5}}), alone({}, {{1, len, 5}});
    alone.continue_prompt(whole);
    whole.run();
    alone.run();
    EXPECT_EQ(alone.bits(0), whole.last_bits(0)) << len;
  }
}

TEST(Attention, NoBankConflicts) {
  const uint64_t before = simt::emulator_counters().bank_conflicts;
  for (const int dim : {32, 64, 96, 128, 256}) {
    Step<Bf16>({.head_dim = dim, .num_kv_heads = 1}, {{1, 80, 1}, {20, 80, 2}}).run();
    Step<Bf16, E4m3>({.head_dim = dim, .num_kv_heads = 1}, {{1, 80, 1}, {20, 80, 2}}).run();
  }
  EXPECT_EQ(simt::emulator_counters().bank_conflicts, before);
}

TEST(AttentionWork, WindowsLeaveChunksOutAndLongItemsComeFirst) {
  AttentionWork work;
  const std::vector<int32_t> cu_q = {0, 1, 2, 202, 202}, lens = {2000, 10, 300, 50};
  plan_attention(cu_q, lens, 2, {2, 4, 0}, 1000, work);
  EXPECT_EQ(work.decode.size(), 2u * (4 + 1));
  EXPECT_EQ(work.num_partials, 4 * 8);  // the second has one chunk
  EXPECT_EQ(work.prefill.size(), 2u * 7);
  EXPECT_EQ(work.prefill[0].first_row, 6 * kPrefillRows);
  EXPECT_EQ(work.prefill.back().first_row, 0);
  plan_attention(cu_q, lens, 2, {2, 4, 100}, 1000, work);
  EXPECT_EQ(work.decode.size(), 2u * (1 + 1));
  EXPECT_EQ(work.decode[0].chunk, 3);
  EXPECT_EQ(work.decode[0].first_chunk, 3);
  EXPECT_EQ(work.num_partials, 0);
}

}  // namespace
}  // namespace sluice::cuda
