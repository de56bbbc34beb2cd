#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <mutex>
#include <optional>
#include <string>

#include "kernels/ops.h"

namespace sluice::cuda {

// What the device was asked for of late: the last two steps, which are all that can be under way,
// and of each its ops with their shapes. For the report of a failure; until then an op costs a
// comparison or two. Any thread.
class StepTrace {
 public:
  // A step's ops, each with its shapes once, in the order in which they first came.
  class Ops {
   public:
    // Operands: at most three, the result first.
    void add(const char* name, std::initializer_list<const Tensor*> operands);
    void add(const Ops&);
    std::string to_text() const;

   private:
    struct Operand {
      DType dtype = DType::f32;
      int rank = 0;
      std::array<int64_t, 4> shape{};
      bool operator==(const Operand&) const = default;
    };
    struct Op {
      const char* name = nullptr;  // a literal
      std::array<Operand, 3> operands;
      bool operator==(const Op&) const = default;
    };
    void add(const Op&, int times);

    static constexpr int kMost = 64;
    std::array<Op, kMost> ops_;
    std::array<int, kMost> times_{};
    int size_ = 0, last_ = 0;  // last_: where the newest is
    int num_others_ = 0;       // that there was no room for
  };

  void begin_step(const AttnBatch& host);
  void add(const char* name, std::initializer_list<const Tensor*> operands);
  // What is added in between is captured and not asked for; and that it is, with a step.
  void begin_capture();
  Ops end_capture();
  void replay(const Ops& captured);

  // Several lines, the newest step first.
  std::string to_text() const;

 private:
  struct Step {
    int num_seqs = 0, num_decodes = 0, num_tokens = 0, longest = 0;
    Ops ops;
  };
  mutable std::mutex mutex_;  // guards all
  std::array<Step, 2> steps_;
  uint64_t num_steps_ = 0;  // the newest's number; 0: what comes before the first
  std::optional<Ops> captured_;
};

}  // namespace sluice::cuda
