#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "scheduler/cost_model.h"

namespace sluice {

// A model on a machine, as far as a simulation knows it: what steps and copies take, and how much
// of the cache there is. The same keys in a TOML or JSON file.
struct SimMachine {
  std::string name;
  double constant_ms = 0;              // of any step: the weights are read once
  double prefill_token_ms = 0;         // per token of a prompt
  double prefill_pair_ns = 0;          // per such token and token before it that it attends to
  double decode_row_ms = 0;            // per decoding sequence
  double context_token_ns = 0;         // per token of context that those read
  double kv_bytes_per_token = 0;       // all layers
  double copy_gb_per_s = 0;            // between device and host
  double pool_tokens = 0;              // cache slots on the device
  double host_tokens = 0;              // cache slots on the host; 0: none
  double tile_tokens = 1;              // steps with prompts pay for a multiple of so many tokens
  double noise = 0;                    // sigma of a log-normal factor of mean 1 on each step
  std::vector<StepError> errors = {};  // of a recording's steps, in their order; in no other file

  StepCost step_cost(int block_size) const;
};

std::vector<std::string_view> machine_names();
// A built-in machine, or a file: TOML, JSON (.json), or what a daemon recorded (.jsonl), to whose
// steps the figures are fitted. `option` is named in errors.
absl::StatusOr<SimMachine> read_machine(std::string_view option, const std::string& name_or_file);
// As TOML that read_machine() reads back.
std::string print_machine(const SimMachine&);

}  // namespace sluice
