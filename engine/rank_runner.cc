#include "engine/rank_runner.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace sluice {
namespace {

int logit_rows(const RunnerOptions& o, int vocab_size) {
  const int64_t fit = std::max<int64_t>(o.logit_bytes / (int64_t(vocab_size) * 4), 16);
  return int(std::min<int64_t>(fit, std::max(o.max_seqs, o.max_step_tokens)));
}

StepLimits limits_of(const Model& model, const RunnerOptions& o) {
  StepLimits l;
  l.max_seqs = o.max_seqs;
  l.max_step_tokens = o.max_step_tokens;
  l.max_model_len = o.max_model_len;
  l.block_size = o.block_size;
  l.vocab_size = model.config().vocab_size;
  l.max_logit_rows = logit_rows(o, l.vocab_size);
  return l;
}

KvShape shape_of(const Model& model, const RunnerOptions& o) {
  KvShape shape = model.kv_shape();
  shape.block_size = o.block_size;
  shape.dtype = o.kv_dtype;
  return shape;
}

// Token, logprob, and `top` alternatives of `n` draws or targets.
size_t output_bytes(int64_t n, int64_t top) {
  return 2 * PackedBuffer::bytes_of(DType::i32, n) +
         2 * PackedBuffer::bytes_of(DType::i32, n * top);
}
SampleOut take_output(PackedBuffer& buffer, int64_t n, int64_t top) {
  SampleOut out;
  out.token = buffer.take(DType::i32, {n});
  out.logprob = buffer.take(DType::f32, {n});
  out.top_token = buffer.take(DType::i32, {n, top});
  out.top_logprob = buffer.take(DType::f32, {n, top});
  return out;
}
SampleOut part_of(const SampleOut& all, int64_t begin, int64_t count) {
  return {all.token.rows(begin, count), all.logprob.rows(begin, count),
          all.top_token.rows(begin, count), all.top_logprob.rows(begin, count)};
}
constexpr int kUsualTop = 20;  // alternatives that the protocol allows

void append_top(std::vector<TokenLogprob>& to, const SampleOut& out, int64_t row, int count) {
  const auto* tokens = out.top_token.row<int32_t>(row);
  const auto* logprobs = out.top_logprob.row<float>(row);
  for (int i = 0; i < std::min<int64_t>(count, out.top_token.shape[1]); ++i)
    to.push_back({tokens[i], logprobs[i]});
}

// Sequences out of thin air for warm_up(): no scheduler knows them.
struct FakeWork {
  GenerateRequest request;
  std::vector<Sequence> sequences;
  StepPlan plan;

  void add(int tokens, BlockId first_block, int block_size, int vocab_size) {
    Sequence& s = sequences.emplace_back();
    s.request = &request;
    s.num_prompt = tokens;
    for (int i = 0; i < tokens; ++i) s.tokens.push_back(i % vocab_size);
    for (int i = 0; i * block_size < tokens; ++i) s.blocks.push_back(first_block + i);
  }
  void make_plan() {  // once all sequences are there: the rows point at them
    for (const Sequence& s : sequences) {
      plan.rows.push_back({&s, 0, s.num_prompt, 1, 1});
      plan.num_tokens += s.num_prompt;
    }
  }
};

}  // namespace

RankRunner::RankRunner(Device& device, Model& model, const RunnerOptions& options)
    : device_(device),
      model_(model),
      options_(options),
      kv_(device, shape_of(model, options), options.num_blocks),
      scratch_(device, model.scratch_bytes(options.max_step_tokens,
                                           logit_rows(options, model.config().vocab_size))),
      inputs_(device, limits_of(model, options), model.config().eos_ids),
      outputs_(device, output_bytes(options.max_seqs, kUsualTop) +
                           output_bytes(options.max_step_tokens, kUsualTop)) {
  for (StepResult* r : {&result_, &spare_}) {
    r->first.reserve(size_t(options.max_seqs) + 1);
    r->tokens.reserve(options.max_seqs);
    r->logprobs.reserve(options.max_seqs);
  }
}

size_t RankRunner::scratch_bytes(const Model& model, const RunnerOptions& o) {
  const StepLimits l = limits_of(model, o);
  return model.scratch_bytes(o.max_step_tokens, l.max_logit_rows) + StepInputs::reserve_bytes(l) +
         output_bytes(o.max_seqs, kUsualTop) + output_bytes(o.max_step_tokens, kUsualTop);
}

void RankRunner::sample(const ForwardContext& context, Tensor hidden) {
  drawn_ = take_output(outputs_, inputs_.num_draws(), inputs_.top_logprobs());
  for (const SampleChunk& chunk : inputs_.samples()) {
    const Arena::Scope scope(scratch_);
    const Tensor logits = model_.logits(context, hidden, chunk.rows);
    context.ops.sample(part_of(drawn_, chunk.first_draw, chunk.batch.num_draws), logits,
                       chunk.batch);
  }
}

void RankRunner::score_prompts(const ForwardContext& context, Tensor hidden) {
  const int top = inputs_.prompt_logprobs();
  scored_ = take_output(outputs_, inputs_.num_targets(), top);
  for (const TargetChunk& chunk : inputs_.target_chunks()) {
    const Arena::Scope scope(scratch_);
    const Tensor logits = model_.logits(context, hidden, chunk.rows);
    context.ops.token_logprobs(part_of(scored_, chunk.first_target, chunk.rows.shape[0]), logits,
                               chunk.targets, top);
  }
}

void RankRunner::launch(const StepPlan& plan) {
  CHECK(!pending_ && !plan.empty());
  const auto begin = std::chrono::steady_clock::now();
  kv_.fork(plan.fork_copies);
  inputs_.build(plan);
  outputs_.reset(output_bytes(inputs_.num_draws(), inputs_.top_logprobs()) +
                 output_bytes(inputs_.num_targets(), inputs_.prompt_logprobs()));
  scratch_.reset();
  const ForwardContext context{device_.ops(), comm_, kv_, scratch_, inputs_.attn()};
  const Tensor hidden = model_.hidden(context, inputs_.ids(), inputs_.positions());
  sample(context, hidden);
  score_prompts(context, hidden);
  device_.sync(device_.record(device_.compute_stream()));
  result_ = std::move(spare_);
  result_.id = plan.id;
  fill_result(result_);
  result_.device_time = std::chrono::steady_clock::now() - begin;
  pending_ = true;
}

void RankRunner::fill_result(StepResult& r) const {
  const int draws = inputs_.num_draws();
  const auto* tokens = drawn_.token.as<int32_t>();
  const auto* logprobs = drawn_.logprob.as<float>();
  r.tokens.assign(tokens, tokens + draws);
  r.logprobs.assign(logprobs, logprobs + draws);
  r.top.clear();
  r.prompt.clear();
  if (inputs_.top_logprobs() > 0) r.top.resize(size_t(draws));
  if (inputs_.num_targets() > 0) r.prompt.resize(inputs_.rows().size());
  r.first.clear();
  int draw = 0, target = 0, index = 0;
  for (const RowOutputs& row : inputs_.rows()) {
    r.first.push_back(draw);
    for (int i = 0; i < row.num_draws; ++i, ++draw)
      if (row.top_logprobs > 0) append_top(r.top[draw], drawn_, draw, row.top_logprobs);
    for (int i = 0; i < row.num_targets; ++i, ++target) {
      r.prompt[index].push_back(
          {inputs_.targets().as<int32_t>()[target], scored_.logprob.as<float>()[target]});
      append_top(r.prompt[index], scored_, target, row.prompt_logprobs);
    }
    ++index;
  }
  r.first.push_back(draw);
}

StepResult RankRunner::collect() {
  CHECK(pending_);
  pending_ = false;
  return std::move(result_);
}

void RankRunner::warm_up() {
  kv_.populate();
  const int bs = options_.block_size, vocab = model_.config().vocab_size;
  // A step as full as any: all rows, and what is left of the tokens in chunks of the first ones.
  FakeWork full;
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
  BlockId block = 0;
  for (int others = std::min({options_.max_seqs, left, options_.num_blocks}) - 1; others >= 0;
       --others) {
    const int room = (options_.num_blocks - block - others) * bs;
    const int tokens = std::min({left - others, options_.max_model_len, room});
    full.add(tokens, block, bs, vocab);
    block += (tokens + bs - 1) / bs;
    left -= tokens;
  }
  FakeWork chunk;  // where rows and tokens are equally many, the full step had none
  chunk.add(
      std::min({32, options_.max_step_tokens, options_.max_model_len, options_.num_blocks * bs}), 0,
      bs, vocab);
  for (FakeWork* work : {&full, &chunk}) {
    work->make_plan();
    launch(work->plan);
    reuse(collect());
  }
}

}  // namespace sluice
