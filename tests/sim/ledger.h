#pragma once

#include <algorithm>
#include <deque>
#include <random>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/hash.h"
#include "engine/model_runner.h"

// A ModelRunner without a model. A cache slot stores the hash of the whole prefix up to its token,
// and which of the tables it is in; every step re-reads each row's whole context through its block
// table and compares, and the next token is a hash of the context, the seed and the sample. Any
// fault in block tables, prefix reuse, copies, preemption or in what a step is told becomes a wrong
// hash at the step where it happens. As unkind as the interface allows: steps run as late as
// collect() or as early as launch(), and whatever lies behind a row's first token is overwritten
// with poison before the row is computed.
//
// Header only, needs no weights: also the engine under server and load tests. One thread.
namespace sluice {

struct LedgerOptions {
  int block_size = 16, num_blocks = 0;
  int num_host_blocks = 0;
  int num_slots = 256;  // max_seqs
  int depth = 1;
  std::vector<KvGroup> groups = {KvGroup{}};  // a reach is 2 at least
  int vocab = 1000;
  std::vector<TokenId> eos_tokens;  // banned before min_tokens, as in a sampler
  uint64_t seed = 1;                // of when steps run, not of what they compute
  Nanos step_time{1000000};         // reported as device_time
  bool sleep = false;               // collect() takes step_time, to pace a load test
  int copy_delay = 0;  // copies take up to so many steps; both of their ends are watched meanwhile
};

// What the model would say: pure functions of the context, so a test can run a request alone.
inline uint64_t ledger_extend(uint64_t prefix, TokenId t) {
  return mix64(prefix, uint64_t(t) + 0x1ed6e5);
}
inline float ledger_logprob(uint64_t context, TokenId t) {
  return -float(mix64(context, uint64_t(t) + 0x70b) % 4096) / 256;
}
inline bool ledger_banned(const SamplingParams& s, const std::vector<TokenId>& eos, TokenId t) {
  const auto has = [t](const auto& set) {
    return std::find(set.begin(), set.end(), t) != set.end();
  };
  return has(eos) || has(s.stop_tokens);
}
inline TokenId ledger_draw(uint64_t context, const SamplingParams& s, int sample, int num_output,
                           const std::vector<TokenId>& eos, int vocab) {
  const uint64_t h = mix64(context, mix64(s.seed, uint64_t(sample)));
  const TokenId t = TokenId(h % uint64_t(vocab));
  if (num_output >= s.min_tokens) return t;
  for (int i = 0; i < vocab; ++i) {
    const TokenId u = TokenId((t + i) % vocab);
    if (!ledger_banned(s, eos, u)) return u;
  }
  return t;
}
// A request run alone: the definition of a right answer.
inline std::vector<TokenId> ledger_alone(const std::vector<TokenId>& prompt,
                                         const SamplingParams& s, int sample,
                                         const std::vector<TokenId>& eos, int vocab) {
  uint64_t h = 0;
  for (TokenId t : prompt) h = ledger_extend(h, t);
  std::vector<TokenId> out;
  while (int(out.size()) < s.max_tokens) {
    const int n = int(out.size());
    const TokenId t = ledger_draw(h, s, sample, n, eos, vocab);
    out.push_back(t);
    const bool is_eos = std::find(eos.begin(), eos.end(), t) != eos.end();
    const bool is_stop =
        std::find(s.stop_tokens.begin(), s.stop_tokens.end(), t) != s.stop_tokens.end();
    if (n >= s.min_tokens && (is_stop || (is_eos && !s.ignore_eos))) break;
    h = ledger_extend(h, t);
  }
  return out;
}

class LedgerRunner final : public ModelRunner {
 public:
  explicit LedgerRunner(LedgerOptions options)
      : o_(std::move(options)),
        rng_(o_.seed),
        cache_(size_t(o_.num_blocks) * size_t(o_.block_size), kPoison),
        host_(size_t(o_.num_host_blocks) * size_t(o_.block_size), kPoison),
        drawn_(size_t(o_.num_slots) * kMemory) {
    CHECK(o_.depth < kMemory);
    for (const KvGroup& g : o_.groups) CHECK(g.reach != 1);
  }

  int depth() const override { return o_.depth; }

  void launch(const StepPlan& plan) override {
    CHECK(plan.id == last_id_ + 1 && int(launched_.size()) < o_.depth && !plan.empty());
    last_id_ = plan.id;
    Step step;
    step.forks = plan.fork_copies;
    for (const StepRow& r : plan.rows) {  // read now: later the sequence belongs to the scheduler
      CHECK(!r.seq->ended && r.seq->seq_slot >= 0 && r.seq->seq_slot < o_.num_slots);
      step.rows.push_back({r.seq->tokens, r.seq->tables, r.seq->request->sampling,
                           r.seq->num_prompt, r.begin, r.count, r.num_logits, r.num_samples,
                           r.seq->seq_slot, r.seq->sample});
    }
    const auto swap = [&](const BlockCopy& c, bool out) {
      const BlockId device = out ? c.src : c.dst, host = out ? c.dst : c.src;
      CHECK(device >= 0 && device < o_.num_blocks && host >= 0 && host < o_.num_host_blocks);
      const int steps = o_.copy_delay > 0 ? int(rng_() % uint64_t(o_.copy_delay + 1)) : 0;
      Swap s{plan.id, device, host, out, steps, {}};
      const uint64_t* from = out ? &cache_[index(device)] : &host_[index(host)];
      s.content.assign(from, from + o_.block_size);
      // Not there before its time: whoever reads it sooner reads poison.
      std::fill_n(out ? &host_[index(host)] : &cache_[index(device)], o_.block_size, kPoison);
      swaps_.push_back(std::move(s));
    };
    for (const BlockCopy& c : plan.swap_out) swap(c, true);
    for (const BlockCopy& c : plan.swap_in) swap(c, false);
    step.result.id = plan.id;
    step.result.device_time = o_.step_time;
    launched_.push_back(std::move(step));
    for (size_t k = rng_() % (launched_.size() + 1); k > 0; --k) run_one();
  }

  StepResult collect() override {
    CHECK(!launched_.empty());
    if (o_.sleep) std::this_thread::sleep_for(o_.step_time);
    if (num_run_ == 0) run_one();
    StepResult result = std::move(launched_.front().result);
    launched_.pop_front();
    --num_run_;
    return result;
  }

  CopyProgress copies() override {
    move_copies();
    copied_.done = swaps_.empty() ? last_id_ : swaps_.front().plan - 1;
    return copied_;
  }

  int in_flight() const { return int(launched_.size()); }
  int copies_under_way() const { return int(swaps_.size()); }
  int64_t slots_read() const { return slots_read_; }

 private:
  static constexpr uint64_t kPoison = 0xdeadbeefdeadbeefull;
  struct Row {
    std::vector<TokenId> tokens;
    std::array<BlockTable, kMaxKvGroups> tables;
    SamplingParams sampling;
    int num_prompt, begin, count, num_logits, num_samples, slot, sample;
    std::vector<uint64_t> truth;  // hash of every prefix
    int end() const { return begin + count; }
  };
  struct Swap {
    uint64_t plan;
    BlockId device, host;
    bool out;
    int steps;  // until it is done
    std::vector<uint64_t> content;
  };
  struct Step {
    std::vector<BlockCopy> forks;
    std::vector<Row> rows;
    StepResult result;
  };
  // What a slot of the device remembers: the last tokens drawn there, and after what.
  static constexpr int kMemory = 8;  // more than any depth
  struct Drawn {
    int position = -1;
    uint64_t context = 0;
    TokenId token = -1;
  };

  Drawn& drawn(int slot, int position) {
    return drawn_[size_t(slot) * kMemory + size_t(position % kMemory)];
  }
  uint64_t& at(const Row& r, size_t group, int i, int pos) {
    const BlockTable& t = r.tables[group];
    CHECK(pos / o_.block_size >= t.first && pos / o_.block_size < t.end());
    const BlockId block = t.block(pos / o_.block_size, i);
    CHECK(block >= 0 && block < o_.num_blocks);
    return cache_[size_t(block) * o_.block_size + pos % o_.block_size];
  }
  // `f(group, i, kind)` for each of the tables; no content is that of another kind.
  template <class F>
  void for_each_table(F f) const {
    uint64_t kind = 0;
    for (size_t g = 0; g < o_.groups.size(); ++g)
      for (int i = 0; i < o_.groups[g].width; ++i) f(g, i, kind++ * 0x5851f42d4c957f2dull);
  }

  size_t index(BlockId block) const { return size_t(block) * size_t(o_.block_size); }

  // In order: the source must still be as it was, for nobody may use it again before it is copied.
  void move_copies() {
    while (!swaps_.empty() && swaps_.front().steps-- <= 0) {
      const Swap& s = swaps_.front();
      const uint64_t* from = s.out ? &cache_[index(s.device)] : &host_[index(s.host)];
      CHECK(std::equal(s.content.begin(), s.content.end(), from));
      std::copy(s.content.begin(), s.content.end(),
                s.out ? &host_[index(s.host)] : &cache_[index(s.device)]);
      ++copied_.blocks;
      copied_.time += std::chrono::microseconds(10);
      swaps_.pop_front();
    }
  }

  void run_one() {
    if (num_run_ == int(launched_.size())) return;
    Step& step = launched_[size_t(num_run_++)];
    // Copies of one step are not ordered among themselves: no target may be another's source.
    for (const BlockCopy& c : step.forks) {
      for (const BlockCopy& d : step.forks) CHECK(&c == &d || (c.dst != d.dst && c.dst != d.src));
      std::copy_n(&cache_[size_t(c.src) * o_.block_size], o_.block_size,
                  &cache_[size_t(c.dst) * o_.block_size]);
    }
    for (Row& r : step.rows) begin_row(r);
    for (Row& r : step.rows) {
      for_each_table([&](size_t g, int i, uint64_t kind) {
        for (int p = r.begin; p < r.end(); ++p) {
          // From the cache and not from the truth: a wrong context spreads, as in a model.
          const uint64_t before = p > 0 ? at(r, g, i, p - 1) ^ kind : 0;
          at(r, g, i, p) = ledger_extend(before, r.tokens[size_t(p)]) ^ kind;
        }
      });
    }
    step.result.first.push_back(0);
    bool any_top = false, any_prompt = false;
    for (const Row& r : step.rows) {
      any_top |= r.sampling.top_logprobs > 0;
      any_prompt |= r.sampling.prompt_logprobs >= 0;
    }
    for (const Row& r : step.rows) {
      for_each_table([&](size_t g, int i, uint64_t kind) {
        const int reach = o_.groups[g].reach;
        const int first = reach > 0 ? std::max(r.begin - reach + 1, 0) : 0;
        for (int p = first; p < r.end(); ++p) CHECK(at(r, g, i, p) == (r.truth[size_t(p)] ^ kind));
        slots_read_ += r.end() - first;
      });
      if (any_prompt) step.result.prompt.push_back(prompt_logprobs(r));
      draw(r, any_top, step.result);
    }
  }

  void begin_row(Row& r) {
    CHECK(r.count > 0);
    CHECK(r.num_logits >= (r.num_samples > 0) && r.num_logits <= r.count);
    for_each_table([&](size_t g, int i, uint64_t) {
      const int capacity = r.tables[g].end() * o_.block_size;
      CHECK(capacity >= r.end() && r.tables[g].width == o_.groups[g].width);
      for (int p = r.begin; p < capacity; ++p) at(r, g, i, p) = kPoison;
    });
    uint64_t h = 0;
    for (int p = 0; p < r.end(); ++p) {
      if (p == int(r.tokens.size())) {  // not yet known to the scheduler: drawn in this slot
        const Drawn& d = drawn(r.slot, p);
        CHECK(r.count == 1 && d.position == p && d.context == h);
        r.tokens.push_back(d.token);
      }
      r.truth.push_back(h = ledger_extend(h, r.tokens[size_t(p)]));
    }
  }

  std::vector<TokenLogprob> prompt_logprobs(const Row& r) const {
    std::vector<TokenLogprob> out;
    const int k = r.sampling.prompt_logprobs;
    for (int p = r.end() - r.num_logits; k >= 0 && p < std::min(r.end(), r.num_prompt - 1); ++p) {
      const TokenId next = r.tokens[size_t(p) + 1];
      out.push_back({next, ledger_logprob(r.truth[size_t(p)], next)});
      for (int i = 0; i < k; ++i) out.push_back({i, ledger_logprob(r.truth[size_t(p)], i)});
    }
    return out;
  }

  void draw(const Row& r, bool any_top, StepResult& result) {
    const uint64_t context = r.truth.back();
    CHECK(r.num_samples == 0 || r.end() == int(r.truth.size()));
    for (int i = 0; i < r.num_samples; ++i) {
      const int sample = r.num_samples > 1 ? i : r.sample;
      const TokenId t =
          ledger_draw(context, r.sampling, sample, r.end() - r.num_prompt, o_.eos_tokens, o_.vocab);
      result.tokens.push_back(t);
      result.logprobs.push_back(ledger_logprob(context, t));
      if (any_top) {
        auto& top = result.top.emplace_back();
        for (int k = 0; k < r.sampling.top_logprobs; ++k) {
          top.push_back({k, ledger_logprob(context, k)});
        }
      }
      // Samples that fork start from tokens that the scheduler knows.
      if (r.num_samples == 1) drawn(r.slot, r.end()) = {r.end(), context, t};
    }
    result.first.push_back(int(result.tokens.size()));
  }

  const LedgerOptions o_;
  std::mt19937_64 rng_;
  std::vector<uint64_t> cache_;  // [num_blocks, block_size]
  std::vector<uint64_t> host_;   // [num_host_blocks, block_size]
  std::deque<Swap> swaps_;       // under way, in the order of their plans
  CopyProgress copied_;
  std::vector<Drawn> drawn_;   // [num_slots, kMemory]
  std::deque<Step> launched_;  // the first num_run_ have run
  int num_run_ = 0;
  uint64_t last_id_ = 0;
  int64_t slots_read_ = 0;
};

}  // namespace sluice
