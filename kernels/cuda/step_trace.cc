#include "kernels/cuda/step_trace.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <span>

#include "base/check.h"

namespace sluice::cuda {

void StepTrace::Ops::add(const char* name, std::initializer_list<const Tensor*> operands) {
  Op op;
  op.name = name;
  CHECK(operands.size() <= op.operands.size());
  Operand* to = op.operands.data();
  for (const Tensor* t : operands) *to++ = {t->dtype, t->rank, t->shape};
  add(op, 1);
}

void StepTrace::Ops::add(const Ops& o) {
  for (int i = 0; i < o.size_; ++i) add(o.ops_[size_t(i)], o.times_[size_t(i)]);
  num_others_ += o.num_others_;
}

// Layers repeat: what follows an op once follows it again.
void StepTrace::Ops::add(const Op& op, int times) {
  for (int i = 1; i <= size_; ++i) {
    const int at = (last_ + i) % size_;
    if (ops_[size_t(at)] != op) continue;
    times_[size_t(at)] += times;
    last_ = at;
    return;
  }
  if (size_ == kMost) {
    num_others_ += times;
    return;
  }
  last_ = size_++;
  ops_[size_t(last_)] = op, times_[size_t(last_)] = times;
}

std::string StepTrace::Ops::to_text() const {
  std::string text;
  for (int i = 0; i < size_; ++i) {
    const Op& op = ops_[size_t(i)];
    std::string shapes;
    for (const Operand& o : op.operands) {
      if (o.rank == 0) continue;
      const std::span<const int64_t> dims(o.shape.data(), size_t(o.rank));
      shapes += fmt::format("{} {} [{}]", shapes.empty() ? "" : ",", name_of(o.dtype),
                            fmt::join(dims, ", "));
    }
    text += fmt::format("    {}:{}", op.name, shapes);
    if (times_[size_t(i)] > 1) text += fmt::format("; {} times", times_[size_t(i)]);
    text += i == last_ ? "  <- the last\n" : "\n";
  }
  if (num_others_ > 0) text += fmt::format("    and {} others\n", num_others_);
  return text;
}

void StepTrace::begin_step(const AttnBatch& host) {
  std::lock_guard lock(mutex_);
  steps_[++num_steps_ % 2] = {host.num_seqs,
                              host.num_decodes,
                              host.cu_q.as<const int32_t>()[host.num_seqs],
                              host.max_seq_len,
                              {}};
}

void StepTrace::add(const char* name, std::initializer_list<const Tensor*> operands) {
  std::lock_guard lock(mutex_);
  (captured_ ? *captured_ : steps_[num_steps_ % 2].ops).add(name, operands);
}

void StepTrace::begin_capture() {
  std::lock_guard lock(mutex_);
  captured_.emplace();
}

StepTrace::Ops StepTrace::end_capture() {
  std::lock_guard lock(mutex_);
  const Ops ops = *captured_;
  captured_.reset();
  return ops;
}

void StepTrace::replay(const Ops& captured) {
  std::lock_guard lock(mutex_);
  steps_[num_steps_ % 2].ops.add(captured);
}

std::string StepTrace::to_text() const {
  std::lock_guard lock(mutex_);
  std::string text;
  if (captured_) text = "  captured just now, for later steps:\n" + captured_->to_text();
  for (uint64_t age = 0; age <= std::min<uint64_t>(num_steps_, 1); ++age) {
    const uint64_t number = num_steps_ - age;
    const Step& s = steps_[number % 2];
    text += number == 0 ? "  before the first step:\n"
                        : fmt::format(
                              "  step {}: {} sequences, of them {} decoding, {} tokens, longest "
                              "context {}\n",
                              number, s.num_seqs, s.num_decodes, s.num_tokens, s.longest);
    text += s.ops.to_text();
  }
  return text;
}

}  // namespace sluice::cuda
