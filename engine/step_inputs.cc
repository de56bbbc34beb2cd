#include "engine/step_inputs.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/decode_captures.h"

namespace sluice {
namespace {

// Positions of a row whose next prompt token's logprob is wanted: [first, first + count).
struct Targets {
  int first = 0, count = 0;
};
Targets targets_of(const StepRow& row) {
  if (row.seq->request->sampling.prompt_logprobs < 0) return {};
  const int end = row.begin + row.count;
  const int first = end - row.num_logits;
  return {first, std::max(0, std::min(end, row.seq->num_prompt - 1) - first)};
}

int blocks_for(int tokens, int block_size) { return (tokens + block_size - 1) / block_size; }

int tables_of(const StepLimits& limits) {
  int n = 0;
  for (const KvGroup& g : limits.groups) n += g.width;
  return n;
}

}  // namespace

size_t StepInputs::Need::bytes() const {
  const auto i32 = [](int64_t n) { return PackedBuffer::bytes_of(DType::i32, n); };
  return 2 * i32(tokens) + i32(tables * tokens) + i32(rows + 1) + i32(rows) +
         i32(rows * tables * blocks) + i32(sample_rows) + 2 * i32(targets) + 2 * i32(unknown) +
         2 * i32(unseen) + 2 * i32(kept);
}

StepInputs::StepInputs(Device& device, const StepLimits& limits, std::vector<TokenId> eos_ids)
    : limits_(limits),
      num_tables_(tables_of(limits)),
      sampler_(limits.vocab_size, std::move(eos_ids)),
      buffer_(device, reserve_bytes(limits)) {
  CHECK(limits.max_seqs > 0 && limits.max_step_tokens > 0 && limits.max_logit_rows > 0);
  CHECK(limits.block_size > 0 && limits.vocab_size > 0 && limits.max_model_len > 0);
  const auto chunks = [&](int n) { return size_t(n / limits.max_logit_rows + 1); };
  draws_.reserve(limits.max_seqs);
  sample_tokens_.reserve(limits.max_seqs);
  rows_.reserve(limits.max_seqs);
  samples_.reserve(chunks(limits.max_seqs));
  target_chunks_.reserve(chunks(limits.max_step_tokens));
}

size_t StepInputs::reserve_bytes(const StepLimits& l) {
  const int moved = l.overlapped ? l.max_seqs : 0;
  const Need need{.tables = tables_of(l),
                  .tokens = l.max_step_tokens,
                  .rows = l.max_seqs,
                  .blocks = blocks_for(l.max_model_len, l.block_size),
                  .sample_rows = l.max_seqs,
                  .targets = l.max_step_tokens,
                  .unknown = moved,
                  .unseen = moved,
                  .kept = moved};
  return need.bytes() + Sampler::reserve_bytes(l.max_seqs, l.max_model_len, l.vocab_size);
}

// Counts, and collects the draws: their number decides how much room the rest needs.
StepInputs::Need StepInputs::survey(const StepPlan& plan) {
  Need need{.tables = num_tables_};
  draws_.clear();
  sample_tokens_.clear();
  rows_.clear();
  prompt_logprobs_ = 0;
  need.rows = int64_t(plan.rows.size());
  for (const StepRow& row : plan.rows) {
    const Sequence& seq = *row.seq;
    const SamplingParams& sampling = seq.request->sampling;
    const int end = row.begin + row.count;
    const bool unknown = limits_.overlapped && row.count == 1 && row.begin == seq.num_tokens();
    CHECK(row.count > 0 && row.begin >= 0 && (end <= seq.num_tokens() || unknown));
    CHECK(row.num_logits <= row.count && (row.num_samples == 0 || row.num_logits > 0));
    const int blocks = blocks_for(end, limits_.block_size);
    CHECK(blocks <= seq.end_block());
    need.tokens += row.count;
    need.unknown += unknown;
    need.unseen += unknown && row.num_samples == 1 && has_penalties(sampling);
    need.kept += limits_.overlapped && row.num_samples == 1;
    need.blocks = std::max(need.blocks, int64_t(blocks));
    const int targets = targets_of(row).count;
    need.targets += targets;
    if (targets > 0) prompt_logprobs_ = std::max(prompt_logprobs_, sampling.prompt_logprobs);
    rows_.push_back({row.num_samples, sampling.top_logprobs, targets, sampling.prompt_logprobs});
    if (row.num_samples == 0) continue;
    const int logits_row = int(sample_tokens_.size());
    sample_tokens_.push_back(int32_t(need.tokens - 1));
    for (int i = 0; i < row.num_samples; ++i)
      draws_.push_back({row.seq, end, row.num_samples > 1 ? i : seq.sample,
                        logits_row % limits_.max_logit_rows});
  }
  need.sample_rows = int64_t(sample_tokens_.size());
  return need;
}

void StepInputs::write_row(const StepRow& row, int index, int first_token, int first_target) {
  const Sequence& seq = *row.seq;
  const int end = row.begin + row.count;
  auto* ids = ids_.as<int32_t>() + first_token;
  auto* positions = positions_.as<int32_t>() + first_token;
  for (int i = 0; i < row.count; ++i) {
    const int position = row.begin + i;
    const bool known = position < seq.num_tokens();
    const TokenId id = known ? seq.tokens[size_t(position)] : 0;
    CHECK(id >= 0 && id < limits_.vocab_size);
    ids[i] = id;
    positions[i] = position;
  }
  attn_.cu_q.as<int32_t>()[index + 1] = first_token + row.count;
  attn_.seq_lens.as<int32_t>()[index] = end;
  write_blocks(row, index, first_token);
  attn_.max_q = std::max(attn_.max_q, row.count);
  attn_.max_seq_len = std::max(attn_.max_seq_len, end);

  const Targets t = targets_of(row);
  for (int i = 0; i < t.count; ++i) {
    target_rows_.as<int32_t>()[first_target + i] = first_token + t.first + i - row.begin;
    targets_.as<int32_t>()[first_target + i] = seq.tokens[t.first + i + 1];
  }
}

// Of each table: where the row's tokens go, and what it names.
void StepInputs::write_blocks(const StepRow& row, int index, int first_token) {
  const int bs = limits_.block_size;
  const int stretches = blocks_for(row.begin + row.count, bs);
  const int64_t columns = attn_.max_blocks(), tokens = attn_.slot_mapping.shape[0] / num_tables_;
  auto* slots = attn_.slot_mapping.as<int32_t>() + first_token;
  auto* line = attn_.block_tables.row<int32_t>(index);
  for (size_t g = 0; g < limits_.groups.size(); ++g) {
    const BlockTable& t = row.seq->tables[g];
    for (int k = 0; k < t.width; ++k, slots += tokens, line += columns) {
      for (int i = 0; i < row.count; ++i) {
        const int position = row.begin + i;
        slots[i] = t.block(position / bs, k) * bs + position % bs;
      }
      // What is before and behind the table's own is never read, and never wild.
      std::fill_n(line, t.first, 0);
      for (int s = t.first; s < stretches; ++s) line[s] = t.block(s, k);
      std::fill(line + stretches, line + columns, 0);
    }
  }
}

// In the order of survey(), which counted them.
void StepInputs::write_moves(const StepPlan& plan) {
  int32_t token = 0, draw = 0, unknown = 0, unseen = 0, kept = 0;
  const auto put = [](TokenMoves& moves, int32_t& at, int32_t from, int32_t to) {
    moves.from.as<int32_t>()[at] = from;
    moves.to.as<int32_t>()[at++] = to;
  };
  for (const StepRow& row : plan.rows) {
    const int32_t slot = row.seq->seq_slot;
    CHECK(!limits_.overlapped || (slot >= 0 && slot < limits_.max_seqs));
    // Samples that fork go on from tokens that the scheduler knows.
    const bool one = row.num_samples == 1;
    if (row.begin == row.seq->num_tokens()) {
      put(ids_from_slots_, unknown, slot, token);
      if (one && has_penalties(row.seq->request->sampling))
        put(unseen_from_slots_, unseen, slot, draw);
    }
    if (limits_.overlapped && one) put(draws_to_slots_, kept, draw, slot);
    token += row.count;
    draw += row.num_samples;
  }
}

void StepInputs::cut_chunks(const Need& need) {
  samples_.clear();
  target_chunks_.clear();
  const int64_t size = limits_.max_logit_rows;
  size_t draw = 0, row = 0;
  for (int64_t begin = 0; begin < need.sample_rows; begin += size) {
    const int64_t count = std::min(size, need.sample_rows - begin);
    const size_t first_draw = draw;
    for (int64_t left = count; left > 0; ++row) {
      draw += size_t(rows_[row].num_draws);
      if (rows_[row].num_draws > 0) --left;
    }
    samples_.push_back({sample_rows_.rows(begin, count), int(first_draw),
                        slice(batch_, int(first_draw), int(draw - first_draw))});
  }
  for (int64_t begin = 0; begin < need.targets; begin += size) {
    const int64_t count = std::min(size, need.targets - begin);
    target_chunks_.push_back(
        {target_rows_.rows(begin, count), targets_.rows(begin, count), int(begin)});
  }
}

// What a captured step reads comes first: where it lies depends on the width alone.
void StepInputs::take_arrays(const Need& need) {
  const int64_t tokens = std::max(need.tokens, int64_t(width_));
  const int64_t rows = std::max(need.rows, int64_t(width_));
  ids_ = buffer_.take(DType::i32, {tokens});
  positions_ = buffer_.take(DType::i32, {tokens});
  attn_ = {};
  attn_.num_seqs = int(need.rows);
  attn_.num_tables = num_tables_;
  attn_.slot_mapping = buffer_.take(DType::i32, {num_tables_ * tokens});
  attn_.cu_q = buffer_.take(DType::i32, {rows + 1});
  attn_.seq_lens = buffer_.take(DType::i32, {rows});
  sample_rows_ = buffer_.take(DType::i32, {std::max(need.sample_rows, int64_t(width_))});
  attn_.block_tables = buffer_.take(DType::i32, {need.rows, num_tables_ * need.blocks});
  target_rows_ = buffer_.take(DType::i32, {need.targets});
  targets_ = buffer_.take(DType::i32, {need.targets});
  const auto take_moves = [&](int64_t n) -> TokenMoves {
    if (n == 0) return {};
    return {buffer_.take(DType::i32, {n}), buffer_.take(DType::i32, {n})};
  };
  ids_from_slots_ = take_moves(need.unknown);
  unseen_from_slots_ = take_moves(need.unseen);
  draws_to_slots_ = take_moves(need.kept);
}

void StepInputs::fill_up(int num_rows) {
  for (int i = num_rows; i < width_; ++i) {
    ids_.as<int32_t>()[i] = positions_.as<int32_t>()[i] = 0;
    for (int t = 0; t < num_tables_; ++t)
      attn_.slot_mapping.as<int32_t>()[int64_t{t} * width_ + i] = limits_.pad_slot;
    attn_.cu_q.as<int32_t>()[i + 1] = num_rows;  // no tokens
    attn_.seq_lens.as<int32_t>()[i] = 0;
  }
  for (int i = int(sample_tokens_.size()); i < width_; ++i) sample_rows_.as<int32_t>()[i] = 0;
  padded_sample_rows_ = width_ > 0 && width_ <= limits_.max_logit_rows ? sample_rows_ : Tensor();
}

void StepInputs::build(const StepPlan& plan) {
  const Need need = survey(plan);
  const int num_rows = int(need.rows);
  const int num_decodes = int(std::find_if_not(plan.rows.begin(), plan.rows.end(),
                                               [](const StepRow& r) { return r.is_decode(); }) -
                              plan.rows.begin());
  const bool fixed = limits_.pad_slot >= 0 && num_decodes == num_rows && need.targets == 0;
  const int most = std::min(limits_.max_seqs, limits_.max_step_tokens);
  width_ = fixed ? DecodeCaptures::width_of(num_rows, most) : 0;
  Need room = need;
  room.tokens = std::max(need.tokens, int64_t(width_));
  room.rows = std::max(need.rows, int64_t(width_));
  room.sample_rows = std::max(need.sample_rows, int64_t(width_));
  buffer_.reset(room.bytes() + sampler_.bytes(draws_));
  take_arrays(need);
  attn_.num_decodes = num_decodes;

  attn_.cu_q.as<int32_t>()[0] = 0;
  int first_token = 0, first_target = 0;
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    write_row(plan.rows[i], int(i), first_token, first_target);
    first_token += plan.rows[i].count;
    first_target += rows_[i].num_targets;
  }
  fill_up(num_rows);
  std::copy(sample_tokens_.begin(), sample_tokens_.end(), sample_rows_.as<int32_t>());
  write_moves(plan);
  batch_ = sampler_.write(draws_, buffer_);
  cut_chunks(need);
  upload();
}

void StepInputs::upload() {
  buffer_.upload();
  host_attn_ = attn_;
  const auto give = [&](std::initializer_list<Tensor*> tensors) {
    for (Tensor* t : tensors) *t = buffer_.on_device(*t);
  };
  give(
      {&ids_, &positions_, &attn_.cu_q, &attn_.seq_lens, &attn_.block_tables, &attn_.slot_mapping});
  for (TokenMoves* m : {&ids_from_slots_, &unseen_from_slots_, &draws_to_slots_})
    give({&m->from, &m->to});
  give({&batch_.unseen, &padded_sample_rows_});
  for (SampleChunk& c : samples_) {
    give({&c.rows});
    for (Tensor* t : tensors_of(c.batch)) give({t});
  }
  for (TargetChunk& c : target_chunks_) give({&c.rows, &c.targets});
}

}  // namespace sluice
