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

StepLimits limits_of(const Device& device, const Model& model, const RunnerOptions& o) {
  StepLimits l;
  l.overlapped = RankRunner::depth_on(device) > 1;
  if (!device.is_host()) l.pad_slot = o.num_blocks * o.block_size;
  l.max_seqs = o.max_seqs;
  l.max_step_tokens = o.max_step_tokens;
  l.max_model_len = o.max_model_len;
  l.block_size = o.block_size;
  l.groups = grouping_of(kv_shape(model, o)).groups;
  l.vocab_size = model.config().vocab_size;
  l.max_logit_rows = logit_rows(o, l.vocab_size);
  return l;
}

OpsLimits ops_limits(const Model& model, const RunnerOptions& o) {
  OpsLimits l;
  l.max_seqs = o.max_seqs;
  l.max_tokens = o.max_step_tokens;
  l.max_context = o.max_model_len;
  l.max_logit_rows = logit_rows(o, model.config().vocab_size);
  l.vocab_size = model.config().vocab_size;
  l.heads = model.heads();
  l.max_fp8_inputs = model.max_fp8_inputs();
  l.num_experts = model.config().num_experts;
  l.max_expert_rows = o.max_step_tokens * model.config().experts_per_token;
  return l;
}

// Kernels and copies of a captured step, at most. GPT-2's layers have 16, Llama's 9, a mixture of
// experts 18, to which the library may add one for each product that it sums up in parts.
int64_t nodes_of_step(const Model& model) {
  constexpr int64_t kOfLayer = 20, kOfExperts = 8, kOutside = 16;
  int64_t nodes = kOutside;
  for (const LayerConfig& layer : model.config().layers)
    nodes += kOfLayer + (layer.experts ? kOfExperts : 0);
  return nodes;
}

// Of steps that can be captured; none on the host.
std::vector<int> widths_of(const Device& device, const RunnerOptions& o) {
  if (device.is_host()) return {};
  return DecodeCaptures::widths(std::min(o.max_seqs, o.max_step_tokens));
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
// Rows [begin, begin + count), as the device sees them.
SampleOut part_of(const PackedBuffer& buffer, const SampleOut& all, int64_t begin, int64_t count) {
  const auto part = [&](const Tensor& t) { return buffer.on_device(t.rows(begin, count)); };
  return {part(all.token), part(all.logprob), part(all.top_token), part(all.top_logprob)};
}

void append_top(std::vector<TokenLogprob>& to, const SampleOut& out, int64_t row, int count) {
  const auto* tokens = out.top_token.row<int32_t>(row);
  const auto* logprobs = out.top_logprob.row<float>(row);
  for (int i = 0; i < std::min<int64_t>(count, out.top_token.shape[1]); ++i)
    to.push_back({tokens[i], logprobs[i]});
}

void clear(StepResult& r) {
  r.device_time = {};
  r.eager = false;
  r.first.assign(1, 0);
  r.tokens.clear();
  r.logprobs.clear();
  r.top.clear();
  r.prompt.clear();
}

}  // namespace

KvShape kv_shape(const Model& model, const RunnerOptions& o) {
  KvShape shape = model.kv_shape();
  shape.block_size = o.block_size;
  shape.dtype = o.kv_dtype;
  for (LayerKv& l : shape.layers)
    if (l.window >= o.max_model_len) l.window = 0;
  return shape;
}

// A device of its own computes one step while the host prepares the next.
int RankRunner::depth_on(const Device& device) { return device.is_host() ? 1 : 2; }

RankRunner::Flight::Flight(Device& device, const StepLimits& l, const Model& model, Arena& scratch)
    : inputs(device, l, model.config().eos_ids),
      inputs_base(inputs.base()),
      captures(device, scratch),
      outputs(device,
              output_bytes(l.max_seqs, kUsualTop) + output_bytes(l.max_step_tokens, kUsualTop)) {
  result.first.reserve(size_t(l.max_seqs) + 1);
  result.tokens.reserve(size_t(l.max_seqs));
  result.logprobs.reserve(size_t(l.max_seqs));
}

RankRunner::RankRunner(Device& device, Model& model, const RunnerOptions& options)
    : device_(device),
      model_(model),
      options_(options),
      kv_(device, kv_shape(model, options), options.num_blocks,
          {options.num_host_blocks, options.before_block_copy}),
      scratch_(device, model.scratch_bytes(options.max_step_tokens,
                                           logit_rows(options, model.config().vocab_size))) {
  const StepLimits limits = limits_of(device, model, options);
  for (int i = 0; i < depth_on(device); ++i)
    flights_.push_back(std::make_unique<Flight>(device, limits, model, scratch_));
  spares_.reserve(flights_.size());
  widths_ = widths_of(device, options);
  if (limits.overlapped)
    slots_ = device.allocate(size_t(options.max_seqs) * sizeof(TokenId), Memory::device);
  device.ops().reserve(ops_limits(model, options));
}

size_t RankRunner::scratch_bytes() const {
  size_t bytes = scratch_.capacity() + device_.ops().workspace_bytes(ops_limits(model_, options_));
  for (const auto& f : flights_) bytes += f->inputs.capacity_bytes() + f->outputs.capacity();
  return bytes;
}

size_t RankRunner::scratch_bytes(Device& device, const Model& model, const RunnerOptions& o) {
  const StepLimits l = limits_of(device, model, o);
  const size_t flight = StepInputs::reserve_bytes(l) + output_bytes(o.max_seqs, kUsualTop) +
                        output_bytes(o.max_step_tokens, kUsualTop);
  return model.scratch_bytes(o.max_step_tokens, l.max_logit_rows) +
         device.ops().workspace_bytes(ops_limits(model, o)) + size_t(depth_on(device)) * flight;
}

size_t RankRunner::graph_bytes(const Device& device, const Model& model, const RunnerOptions& o) {
  if (o.graph_bytes) return *o.graph_bytes;
  const size_t steps = widths_of(device, o).size() * size_t(depth_on(device));
  return steps * size_t(nodes_of_step(model)) * device.bytes_per_node();
}

size_t RankRunner::graph_bytes() const {
  int64_t nodes = 0;
  for (const auto& f : flights_) nodes += f->captures.num_nodes();
  return size_t(nodes) * device_.bytes_per_node();
}

RankRunner::KernelTimes RankRunner::take_times() {
  last_end_ = {};
  return std::exchange(times_, {});
}

void RankRunner::add_times(const Flight& f) {
  times_.steps += device_.between(f.first_kernel, f.end);
  if (last_end_.handle != nullptr) times_.between += device_.between(last_end_, f.first_kernel);
  last_end_ = f.end;
}

ForwardContext RankRunner::context(const Flight& f) {
  return {device_.ops(), comm_, kv_, scratch_, f.inputs.attn()};
}

Forward RankRunner::forward(const ForwardContext& context, const StepInputs& inputs) {
  Forward f;
  f.hidden = model_.hidden(context, inputs.ids(), inputs.positions());
  if (inputs.padded_sample_rows())
    f.logits = model_.logits(context, f.hidden, inputs.padded_sample_rows());
  return f;
}

Forward RankRunner::forward_or_replay(const ForwardContext& context, Flight& f, bool as_captured) {
  const int width = f.inputs.width();
  f.can_replay = as_captured && width > 0;
  if (f.inputs.base() != f.inputs_base) {  // a step beyond what was foreseen made the buffer grow
    f.captures.forget();
    f.inputs_base = f.inputs.base();
  }
  if (f.can_replay && f.captures.has(width)) return f.captures.replay(width);
  f.result.eager = width > 0;
  if (f.can_replay) f.captures.note_eager(width);
  return forward(context, f.inputs);
}

void RankRunner::sample(const ForwardContext& context, Flight& f, const Forward& step) {
  f.drawn = take_output(f.outputs, f.inputs.num_draws(), f.inputs.top_logprobs());
  for (const SampleChunk& chunk : f.inputs.samples()) {
    const Arena::Scope scope(scratch_);
    const Tensor logits =
        step.logits ? step.logits : model_.logits(context, step.hidden, chunk.rows);
    context.ops.sample(part_of(f.outputs, f.drawn, chunk.first_draw, chunk.batch.num_draws), logits,
                       chunk.batch);
  }
}

void RankRunner::score_prompts(const ForwardContext& context, Flight& f, Tensor hidden) {
  const int top = f.inputs.prompt_logprobs();
  f.scored = take_output(f.outputs, f.inputs.num_targets(), top);
  for (const TargetChunk& chunk : f.inputs.target_chunks()) {
    const Arena::Scope scope(scratch_);
    const Tensor logits = model_.logits(context, hidden, chunk.rows);
    context.ops.token_logprobs(
        part_of(f.outputs, f.scored, chunk.first_target, chunk.rows.shape[0]), logits,
        chunk.targets, top);
  }
}

// Puts a step with rows on the compute stream.
void RankRunner::compute(Flight& f) {
  Ops& ops = device_.ops();
  f.outputs.reset(output_bytes(f.inputs.num_draws(), f.inputs.top_logprobs()) +
                  output_bytes(f.inputs.num_targets(), f.inputs.prompt_logprobs()));
  scratch_.reset();
  const bool as_captured = ops.begin_step(f.inputs.host_attn());
  if (options_.times_kernels) f.first_kernel = device_.record(device_.compute_stream());
  const Tensor slots = Tensor::of(slots_.get(), DType::i32, {options_.max_seqs});
  if (const TokenMoves& m = f.inputs.ids_from_slots(); m.to)
    ops.move_tokens(f.inputs.ids(), m.to, slots, m.from);
  if (const TokenMoves& m = f.inputs.unseen_from_slots(); m.to)
    ops.move_tokens(f.inputs.unseen(), m.to, slots, m.from);
  const ForwardContext context = this->context(f);
  const Forward step = forward_or_replay(context, f, as_captured);
  sample(context, f, step);
  score_prompts(context, f, step.hidden);
  if (const TokenMoves& m = f.inputs.draws_to_slots(); m.to)
    ops.move_tokens(slots, m.to, f.outputs.on_device(f.drawn.token), m.from);
  f.outputs.download();
}

void RankRunner::launch(const StepPlan& plan) {
  CHECK(int(num_launched_ - num_collected_) < depth() && !plan.empty());
  Flight& f = flight(num_launched_++);
  const auto begin = std::chrono::steady_clock::now();
  last_plan_ = plan.id;
  kv_.swap(plan.id, plan.swap_out, plan.swap_in);
  if (!spares_.empty()) {
    f.result = std::move(spares_.back());
    spares_.pop_back();
  }
  f.result.id = plan.id;
  clear(f.result);
  f.has_rows = !plan.rows.empty();
  if (!f.has_rows) return;  // copies alone
  f.begin = device_.record(device_.compute_stream());
  kv_.fork(plan.fork_copies);
  f.inputs.build(plan);
  compute(f);
  f.end = device_.record(device_.compute_stream());
  if (device_.is_host()) f.result.device_time = std::chrono::steady_clock::now() - begin;
}

StepResult RankRunner::collect() {
  CHECK(num_collected_ < num_launched_);
  Flight& f = flight(num_collected_++);
  if (f.has_rows) {
    device_.sync(f.end);
    if (!device_.is_host()) f.result.device_time = device_.between(f.begin, f.end);
    if (options_.times_kernels) add_times(f);
    fill_result(f);
  }
  return std::move(f.result);
}

void RankRunner::fill_result(Flight& f) {
  StepResult& r = f.result;
  const int draws = f.inputs.num_draws();
  const auto* tokens = f.drawn.token.as<int32_t>();
  const auto* logprobs = f.drawn.logprob.as<float>();
  r.tokens.assign(tokens, tokens + draws);
  r.logprobs.assign(logprobs, logprobs + draws);
  if (f.inputs.top_logprobs() > 0) r.top.resize(size_t(draws));
  if (f.inputs.num_targets() > 0) r.prompt.resize(f.inputs.rows().size());
  r.first.clear();
  int draw = 0, target = 0, index = 0;
  for (const RowOutputs& row : f.inputs.rows()) {
    r.first.push_back(draw);
    for (int i = 0; i < row.num_draws; ++i, ++draw)
      if (row.top_logprobs > 0) append_top(r.top[draw], f.drawn, draw, row.top_logprobs);
    for (int i = 0; i < row.num_targets; ++i, ++target) {
      r.prompt[index].push_back(
          {f.inputs.host_targets().as<int32_t>()[target], f.scored.logprob.as<float>()[target]});
      append_top(r.prompt[index], f.scored, target, row.prompt_logprobs);
    }
    ++index;
  }
  r.first.push_back(draw);
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
