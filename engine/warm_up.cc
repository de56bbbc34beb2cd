// What RankRunner does before it serves, and while it has nothing to serve: makes memory real,
// measures what steps cost, and captures steps of decodes.

#include <algorithm>
#include <deque>
#include <vector>

#include "base/log.h"
#include "base/text.h"
#include "engine/rank_runner.h"

namespace sluice {
namespace {

// Sequences out of thin air: no scheduler knows them.
struct FakeWork {
  const KvGrouping& kv;
  GenerateRequest request;
  std::deque<Sequence> sequences;  // the rows point at them
  StepPlan plan;
  StepWork work;

  // A row that computes the last `count` of `tokens`: a prompt's end, or one token behind it.
  // Its blocks are those from stretch `first` on.
  void add(int tokens, int count, int first, int block_size, int vocab_size) {
    Sequence& s = sequences.emplace_back();
    s.request = &request;
    s.seq_slot = int(sequences.size()) - 1;
    s.num_prompt = std::max(1, tokens - (count == 1));
    for (int i = 0; i < tokens; ++i) s.tokens.push_back(i % vocab_size);
    const int stretches = (tokens + block_size - 1) / block_size;
    BlockId block = first * kv.num_tables();
    for (size_t g = 0; g < kv.groups.size(); ++g) {
      BlockTable& t = s.tables[g];
      t.width = kv.groups[g].width;
      for (int i = 0; i < stretches * t.width; ++i) t.blocks.push_back(block++);
    }
    plan.rows.push_back({&s, tokens - count, count, 1, 1});
    plan.num_tokens += count;
    work.add(tokens - count, count, count == 1);
  }
};

struct Measured {
  StepWork work;
  double seconds = 0;
};

// There are about as many measurements as figures: seen often enough, they outweigh the start.
StepCost fit(const std::vector<Measured>& all) {
  CostModel model(StepCost{0, 0, 0, 0, 0, 0});
  for (int round = 0; round < 200; ++round) {
    for (const Measured& m : all) model.observe(m.work, m.seconds);
  }
  return model.cost();
}

}  // namespace

void RankRunner::warm_up() {
  kv_.populate();
  const int bs = options_.block_size, vocab = model_.config().vocab_size;
  const int stretches = options_.num_blocks / kv_.grouping().num_tables();
  // A step as full as any: all rows, and what is left of the tokens in chunks of the first ones.
  FakeWork full{kv_.grouping()};
  // Everything a draw can ask for, so that the sampler's own scratch grows now.
  SamplingParams& p = full.request.sampling;
  p.temperature = 0.9f;
  p.top_p = 0.9f;
  p.min_p = 0.01f;
  p.top_k = 50;
  p.presence_penalty = 0.1f;
  p.top_logprobs = std::min(kUsualTop, vocab);
  p.logit_bias = {{0, 0.0f}};
  p.prompt_logprobs = 0;
  int left = options_.max_step_tokens;
  int first = 0;
  for (int others = std::min({options_.max_seqs, left, stretches}) - 1; others >= 0; --others) {
    const int room = (stretches - first - others) * bs;
    const int tokens = std::min({left - others, options_.max_model_len, room});
    full.add(tokens, tokens, first, bs, vocab);
    first += (tokens + bs - 1) / bs;
    left -= tokens;
  }
  FakeWork chunk{kv_.grouping()};  // where rows and tokens are equally many, the full step had none
  const int tokens =
      std::min({32, options_.max_step_tokens, options_.max_model_len, stretches * bs});
  chunk.add(tokens, tokens, 0, bs, vocab);
  run_alone(full.plan);
  run_alone(chunk.plan);
}

// While a step is in flight, the newest, if steps of its width keep coming: the device is busy
// meanwhile. With nothing in flight, one that is missing, as if it came: with tokens that nobody
// has, in the block that fills steps up. Those that came most go first, then the narrow ones.
bool RankRunner::work_ahead() {
  if (num_launched_ > num_collected_) {
    Flight& newest = flight(num_launched_ - 1);
    const int width = newest.inputs.width();
    if (newest.has_rows && newest.can_replay && !newest.captures.has(width) &&
        newest.captures.num_eager(width) > 1)
      capture(newest);
    return false;
  }
  const auto missing = [&](int width) {
    return std::any_of(flights_.begin(), flights_.end(),
                       [&](const auto& f) { return !f->captures.has(width); });
  };
  const auto came = [&](int width) {
    int times = 0;
    for (const auto& f : flights_) times += f->captures.num_eager(width);
    return times;
  };
  int next = 0;
  for (const int width : widths_)
    if (missing(width) && (next == 0 || came(width) > came(next))) next = width;
  if (next == 0) {
    tell_of_captures();
    return false;
  }
  // It goes to the flight whose turn it is, which may have this one.
  if (flight(num_launched_).captures.has(next)) ++num_launched_, ++num_collected_;
  FakeWork decodes{kv_.grouping()};
  for (int i = 0; i < next; ++i)
    decodes.add(2, 1, 0, options_.block_size, model_.config().vocab_size);
  for (Sequence& s : decodes.sequences)
    for (BlockTable& t : s.tables) std::fill(t.blocks.begin(), t.blocks.end(), options_.num_blocks);
  for (StepRow& row : decodes.plan.rows) row.num_logits = row.num_samples = 0;
  decodes.plan.id = last_plan_;
  run_alone(decodes.plan);
  capture(flight(num_launched_ - 1));
  return true;
}

void RankRunner::capture(Flight& f) {
  if (widths_.empty()) return;
  if (!free_before_captures_) free_before_captures_ = device_.free_bytes();
  const ForwardContext context = this->context(f);
  const int width = f.inputs.width();
  if (!f.captures.capture(width, [&] { return forward(context, f.inputs); })) {
    log_warn("the device has no memory left to capture steps of {} rows and of others", width);
    widths_.clear();
    return;
  }
  const size_t planned = graph_bytes(device_, model_, options_);
  if (graph_bytes() <= planned) return;
  log_warn(
      "captured steps would take more than the {} set aside: those of {} rows and others are not",
      bytes_text(int64_t(planned)), width);
  f.captures.drop(width);
  widths_.clear();
}

// Once all are there. What else the device's memory is taken for meanwhile, as code that is loaded
// when it is first used, is in the figure.
void RankRunner::tell_of_captures() {
  if (widths_.empty() || told_of_captures_) return;
  told_of_captures_ = true;
  const size_t before = *free_before_captures_, now = device_.free_bytes();
  log_info("captured {} steps: reckoned {} of {} set aside, free memory fell by {}",
           widths_.size() * flights_.size(), bytes_text(int64_t(graph_bytes())),
           bytes_text(int64_t(graph_bytes(device_, model_, options_))),
           bytes_text(before > now ? int64_t(before - now) : 0));
}

double RankRunner::run_alone(const StepPlan& plan) {
  launch(plan);
  StepResult result = collect();
  const double seconds = to_seconds(result.device_time);
  reuse(std::move(result));
  return seconds;
}

// The full step of warm_up() is not among these: it pays for pages, and its draws ask for more than
// a client's would.
StepCost RankRunner::measure() {
  const int bs = options_.block_size, vocab = model_.config().vocab_size;
  const KvGrouping& kv = kv_.grouping();
  const int stretches = options_.num_blocks / kv.num_tables();
  const int most = std::min({1024, options_.max_model_len, stretches * bs});
  const int brief = std::min(16, most), brief_blocks = (brief + bs - 1) / bs;
  const int rows =
      std::min({16, options_.max_seqs, options_.max_step_tokens, stretches / brief_blocks});
  // Memory that was never written is one page of zeros: reading it is faster than life.
  kv_.populate_now(std::max(rows * brief_blocks, (most + bs - 1) / bs) * kv.num_tables());

  std::vector<Measured> all;
  // The best of several, in a small model; once is precise enough where a step takes long.
  const auto time = [&](const FakeWork& w) {
    double best = run_alone(w.plan), spent = best;
    for (int runs = 1; runs < 8 && spent < 0.015; ++runs) {
      const double seconds = run_alone(w.plan);
      best = std::min(best, seconds);
      spent += seconds;
    }
    all.push_back({w.work, best});
    return best;
  };
  FakeWork one{kv}, some{kv}, far{kv}, chunk{kv}, far_chunk{kv};
  one.add(brief, 1, 0, bs, vocab);
  for (int i = 0; i < rows; ++i) some.add(brief, 1, i * brief_blocks, bs, vocab);
  far.add(most, 1, 0, bs, vocab);
  const bool slow = time(one) > 0.05;  // then shorter chunks must do
  const int longest = std::min({slow ? 32 : 64, options_.max_step_tokens, most});
  chunk.add(longest, longest, 0, bs, vocab);
  far_chunk.add(most, std::min(longest, slow ? 16 : 32), 0, bs, vocab);
  for (const FakeWork* w : {&some, &far, &chunk, &far_chunk}) time(*w);

  StepCost cost = fit(all);
  cost.per_block_copy = seconds_per_copy();
  return cost;
}

double RankRunner::seconds_per_copy() {
  const int n = std::min({4, options_.num_blocks, options_.num_host_blocks});
  if (n == 0) return StepCost{}.per_block_copy;
  std::vector<BlockCopy> copies;
  for (int i = 0; i < n; ++i) copies.push_back({i, i});
  const auto round = [&] {
    kv_.swap(0, copies, copies);
    kv_.copier().wait();
    return kv_.copier().progress();
  };
  const BlockCopier::Progress first = round();  // pays for pages
  const BlockCopier::Progress second = round();
  return to_seconds(second.time - first.time) / double(second.blocks - first.blocks);
}

}  // namespace sluice
