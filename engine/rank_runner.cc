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

void append_top(std::vector<TokenLogprob>& to, const SampleOut& out, int64_t row, int count) {
  const auto* tokens = out.top_token.row<int32_t>(row);
  const auto* logprobs = out.top_logprob.row<float>(row);
  for (int i = 0; i < std::min<int64_t>(count, out.top_token.shape[1]); ++i)
    to.push_back({tokens[i], logprobs[i]});
}

void clear(StepResult& r) {
  r.device_time = {};
  r.first.assign(1, 0);
  r.tokens.clear();
  r.logprobs.clear();
  r.top.clear();
  r.prompt.clear();
}

}  // namespace

RankRunner::RankRunner(Device& device, Model& model, const RunnerOptions& options)
    : device_(device),
      model_(model),
      options_(options),
      kv_(device, shape_of(model, options), options.num_blocks,
          {options.num_host_blocks, options.before_block_copy}),
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
  kv_.swap(plan.id, plan.swap_out, plan.swap_in);
  pending_ = true;
  result_ = std::move(spare_);
  result_.id = plan.id;
  if (plan.rows.empty()) return clear(result_);  // copies alone
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
  fill_result(result_);
  result_.device_time = std::chrono::steady_clock::now() - begin;
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

CopyProgress RankRunner::copies() {
  const BlockCopier::Progress p = kv_.copier().progress();
  return {p.done, p.blocks, p.time, p.out};
}

bool RankRunner::on_copies_done(std::function<void()> f) {
  kv_.copier().on_done(std::move(f));
  return true;
}

}  // namespace sluice
