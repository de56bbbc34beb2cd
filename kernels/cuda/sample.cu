#include "kernels/cuda/sample.h"

#include <algorithm>

#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/simt/launch.h"

namespace sluice::cuda {
namespace {

// Some sixteen tokens a thread, and more only when there are no more threads.
int threads_of(int64_t vocab) {
  return int(std::clamp<int64_t>((vocab / 16 + 31) / 32 * 32, 64, kSampleThreads));
}

// One value a draw, or none at all.
template <class T>
const T* values_of(const Tensor& t) {
  CHECK(t.rank == 0 || t.contiguous());
  return t.as<const T>();
}

LogprobParams raw_params(const SampleOut& out, const Tensor& logits, int top) {
  CHECK(logits.dtype == DType::f32 && logits.shape[1] > 0 && top <= kSampleBins);
  LogprobParams p;
  p.logits = logits.as<float>(), p.stride = logits.stride[0];
  p.vocab = int32_t(logits.shape[1]), p.top = top;
  p.logprob = out.logprob.as<float>();
  p.top_token = out.top_token.as<int32_t>(), p.top_token_stride = out.top_token.stride[0];
  p.top_logprob = out.top_logprob.as<float>(), p.top_logprob_stride = out.top_logprob.stride[0];
  return p;
}

bool by_4(const Tensor& logits) { return wide(logits.shape[1], {&logits}); }

}  // namespace

size_t sample_scratch_bytes(int64_t vocab, int blocks) {
  return size_t(vocab) * size_t(blocks) * sizeof(float);
}

void sample(Stream stream, const SampleOut& out, Tensor logits, const SampleBatch& b, void* scratch,
            int blocks) {
  SampleParams p;
  p.raw = raw_params(out, logits, b.top_logprobs);
  p.token = out.token.as<int32_t>();
  p.scratch = static_cast<float*>(scratch);
  p.num_draws = b.num_draws, p.row = values_of<int32_t>(b.row);
  p.temperature = values_of<float>(b.temperature);
  p.top_p = values_of<float>(b.top_p), p.min_p = values_of<float>(b.min_p);
  p.top_k = values_of<int32_t>(b.top_k);
  p.seed = values_of<uint64_t>(b.seed), p.position = values_of<int32_t>(b.position);
  p.presence = values_of<float>(b.presence), p.frequency = values_of<float>(b.frequency);
  p.repetition = values_of<float>(b.repetition);
  p.history = {values_of<int32_t>(b.history_offsets), values_of<int32_t>(b.history_ids)};
  p.history_counts = values_of<int32_t>(b.history_counts);
  p.unseen = values_of<int32_t>(b.unseen);
  p.biases = {values_of<int32_t>(b.bias_offsets), values_of<int32_t>(b.bias_ids)};
  p.bias_values = values_of<float>(b.bias_values);
  p.allowed_mask = b.allowed_mask.as<uint32_t>(), p.mask_stride = b.allowed_mask.stride[0];
  simt::launch<SampleParams>(
      by_4(logits) ? sample_kernel<4> : sample_kernel<1>,
      {std::min(blocks, b.num_draws), threads_of(p.raw.vocab), sizeof(SampleShared)}, stream, p);
}

void token_logprobs(Stream stream, const SampleOut& out, Tensor logits, Tensor targets, int top) {
  TokenLogprobParams p;
  p.raw = raw_params(out, logits, top);
  p.targets = values_of<int32_t>(targets);
  simt::launch<TokenLogprobParams>(
      by_4(logits) ? token_logprobs_kernel<4> : token_logprobs_kernel<1>,
      {int(targets.shape[0]), threads_of(p.raw.vocab), sizeof(SampleShared)}, stream, p);
}

}  // namespace sluice::cuda
