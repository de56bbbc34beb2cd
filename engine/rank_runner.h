#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "engine/arena.h"
#include "engine/decode_captures.h"
#include "engine/model.h"
#include "engine/model_runner.h"
#include "engine/step_inputs.h"
#include "kernels/comm.h"
#include "kvcache/kv_store.h"
#include "scheduler/cost_model.h"

namespace sluice {

// What a runner is sized for.
struct RunnerOptions {
  int max_seqs = 0;
  int max_step_tokens = 0;
  int max_model_len = 0;
  int num_blocks = 0;
  int num_host_blocks = 0;  // the second tier; 0: none, and plans have no swaps
  int block_size = 16;
  DType kv_dtype = DType::bf16;
  // Logits of many rows are computed in pieces of about this size (16 rows at least): a full step
  // of prompt logprobs over a large vocabulary would otherwise want hundreds of megabytes.
  int64_t logit_bytes = 64 << 20;
  std::function<void()> before_block_copy;  // for tests; see BlockCopier
  bool times_kernels = false;               // for RankRunner::take_times()
  std::optional<size_t> graph_bytes;        // as graph_bytes(), for tests
};

// The model's cache as the options have it. Windows that no context outgrows are none.
KvShape kv_shape(const Model&, const RunnerOptions&);

// Drives one model on one device. Where the device is the host, launch() computes the step; else it
// puts the step on the compute stream and returns, one step ahead of the one that collect() waits
// for: tokens that the next step needs stay on the device. Swaps run beside steps, on a thread of
// their own. The device and the model must outlive it.
//
// After warm_up() a step allocates nothing, unless some row asked for alternatives to its tokens:
// those travel in vectors of their own.
class RankRunner final : public ModelRunner {
 public:
  RankRunner(Device&, Model&, const RunnerOptions&);

  static int depth_on(const Device&);
  int depth() const override { return int(flights_.size()); }
  void launch(const StepPlan&) override;
  StepResult collect() override;
  CopyProgress copies() override;
  bool on_copies_done(std::function<void()>) override;
  void reuse(StepResult&& result) override { spares_.push_back(std::move(result)); }
  bool work_ahead() override;

  // Runs the largest prefill step and the widest decode step on made-up sequences, so that memory
  // is really there and every scratch has its size. Leaves nothing behind that a scheduler could
  // find. Before the first launch().
  void warm_up();
  // Runs a few small steps, and copies a few blocks, to see what they take: a seed for the
  // scheduler's cost model. After warm_up() and before the first launch().
  StepCost measure();

  const KvStore& kv() const { return kv_; }
  // Memory that steps use beside the weights and the cache.
  size_t scratch_bytes() const;
  // The same, before anything exists.
  static size_t scratch_bytes(Device&, const Model&, const RunnerOptions&);
  // What captured steps may come to beside that; there are none beyond it. 0: the device has none.
  static size_t graph_bytes(const Device&, const Model&, const RunnerOptions&);
  size_t graph_bytes() const;  // what they come to now, as the device reckons

  // Of the steps collected since the last call, where RunnerOptions::times_kernels.
  struct KernelTimes {
    Nanos steps{};    // from a step's first kernel to its end
    Nanos between{};  // from a step's end to the next one's first kernel: uploads, or nothing
  };
  KernelTimes take_times();

 private:
  static constexpr int kUsualTop = 20;  // alternatives to a token that the protocol allows

  // A step between launch() and collect(). Everything the device may still read or write is its
  // own.
  struct Flight {
    Flight(Device&, const StepLimits&, const Model&, Arena& scratch);
    StepInputs inputs;
    const void* inputs_base;  // when `captures` began
    DecodeCaptures captures;
    PackedBuffer outputs;
    SampleOut drawn;   // [draws of the step]
    SampleOut scored;  // [prompt targets of the step]; no tokens
    StepResult result;
    bool has_rows = false;    // or copies alone
    bool can_replay = false;  // it is of a kind that can be captured
    Event begin, first_kernel, end;
  };
  Flight& flight(uint64_t step) { return *flights_[step % flights_.size()]; }
  ForwardContext context(const Flight&);
  void compute(Flight&);
  Forward forward(const ForwardContext&, const StepInputs&);
  Forward forward_or_replay(const ForwardContext&, Flight&, bool as_captured);
  void sample(const ForwardContext&, Flight&, const Forward&);
  void score_prompts(const ForwardContext&, Flight&, Tensor hidden);
  static void fill_result(Flight&);
  void capture(Flight&);
  void tell_of_captures();
  void add_times(const Flight&);
  double run_alone(const StepPlan& plan);  // seconds
  double seconds_per_copy();

  Device& device_;
  Model& model_;
  const RunnerOptions options_;
  SingleRank comm_;
  KvStore kv_;
  Arena scratch_;         // steps run one after the other
  Device::Buffer slots_;  // i32 [max_seqs]: the token drawn last; null where steps do not overlap
  std::vector<std::unique_ptr<Flight>> flights_;  // [depth] ring
  uint64_t num_launched_ = 0, num_collected_ = 0;
  uint64_t last_plan_ = 0;
  std::vector<int> widths_;  // of steps that can be captured; empty: none, or no more
  std::optional<size_t> free_before_captures_;
  bool told_of_captures_ = false;
  std::vector<StepResult> spares_;
  KernelTimes times_;
  Event last_end_;  // of the step collected last; null after take_times()
};

}  // namespace sluice
