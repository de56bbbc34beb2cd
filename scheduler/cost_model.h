#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "base/types.h"

namespace sluice {

// What a step holds, as far as its time depends on it.
struct StepWork {
  double prefill_tokens = 0;   // of rows with more than one token, or inside a prompt
  double prefill_context = 0;  // pairs of such a token and one before it that it attends to
  double decode_rows = 0;      // rows of one token behind the prompt
  double decode_context = 0;   // tokens of context that those read

  // Tokens [begin, begin + count) of one sequence.
  void add(int begin, int count, bool decode) {
    if (decode) {
      decode_rows += 1;
      decode_context += begin + 1;
    } else {
      prefill_tokens += count;
      prefill_context += double(count) * (begin + 0.5 * (count + 1));
    }
  }
};

// Seconds of a step, linear in what it holds; and of a block's copy between device and host.
struct StepCost {
  double constant = 1e-3;
  double per_prefill_token = 2e-4, per_prefill_pair = 0;
  double per_decode_row = 2e-4, per_context_token = 0;
  double per_block_copy = 1e-4;
};

struct MeasuredStep {
  StepWork work;
  double seconds = 0;
};

// What a step took beside its prediction: that times `factor`, and then `pause` seconds.
struct StepError {
  double factor = 1, pause = 0;
};

// The figures under which steps take what these took together, and what single ones are off by.
// Least squares of relative errors, none below zero, linear beyond kFar (Huber, 1964), so that a
// stall does not decide what a token costs; then scaled, so that it does count. Relative to the
// prediction: what is relative to the measured time favours short steps, and comes out below the
// mean by about twice the errors' variance. What no step held costs nothing.
struct StepFit {
  StepCost cost;     // but per_block_copy
  double sigma = 0;  // of the logarithm of measured over predicted time
  // By step. What is beyond 1 + kFar is a pause: somebody else had the processor, and it would have
  // taken as long beside a longer step.
  std::vector<StepError> errors;
};
StepFit fit_steps(std::span<const MeasuredStep>);  // of work and time

// Predicts what steps and copies take. Starts from a seed (a warm-up's fit, or a file's figures)
// and is fitted to what was measured: recursive least squares that forget, of relative errors, with
// no coefficient below zero (Ljung, "System identification", 1999, section 11.2; Lawson and Hanson,
// "Solving least squares problems", 1974). What the recent steps say nothing about keeps its value.
// Nothing here allocates; one thread.
class CostModel {
 public:
  CostModel() = default;
  explicit CostModel(const StepCost& seed) : cost_(seed) {}

  const StepCost& cost() const { return cost_; }
  double seconds(const StepWork& w) const { return cost_.constant + marginal(w); }
  double marginal(const StepWork& w) const {  // without the constant
    return cost_.per_prefill_token * w.prefill_tokens + cost_.per_prefill_pair * w.prefill_context +
           cost_.per_decode_row * w.decode_rows + cost_.per_context_token * w.decode_context;
  }
  double prefill_seconds(int begin, int count) const {  // in a step of its own
    StepWork w;
    w.add(begin, count, false);
    return seconds(w);
  }
  // A decode step of one sequence with no context: the shortest step there is.
  double decode_step_seconds() const { return cost_.constant + cost_.per_decode_row; }

  // A measured step; the fit changes the figures every few calls, never to below zero. A step that
  // is far off what was predicted counts little, unless many in a row are. Without work or time
  // (copies alone): ignored.
  void observe(const StepWork&, double seconds);
  // `blocks` were copied in `seconds`, one after the other.
  void observe_copies(int64_t blocks, double seconds);
  // What predictions are off by, as a share of the measured time: mean over the recent past.
  // 0 until something was observed.
  double error() const { return error_; }
  int64_t observed() const { return observed_; }

 private:
  static constexpr int kTerms = 5;
  using Terms = std::array<double, kTerms>;
  void fit();
  void forget(double keep);

  StepCost cost_;
  double error_ = 0;
  int64_t observed_ = 0;
  int outliers_in_a_row_ = 0;
  // Normal equations of the weighted least squares, decayed with every step.
  std::array<Terms, kTerms> xx_{};
  Terms xy_{};
  Terms seen_{};  // steps that held something of the term, decayed likewise
};

}  // namespace sluice
