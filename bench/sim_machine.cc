#include "bench/sim_machine.h"

#include <toml++/toml.h>

#include <array>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/recording.h"

namespace sluice {
namespace {

struct Key {
  std::string_view name;
  double SimMachine::*value;
  double min;
};
constexpr double kMax = 1e15;
constexpr std::array kKeys = {
    Key{"constant_ms", &SimMachine::constant_ms, 1e-6},  // or time would stand still
    Key{"prefill_token_ms", &SimMachine::prefill_token_ms, 0},
    Key{"prefill_pair_ns", &SimMachine::prefill_pair_ns, 0},
    Key{"decode_row_ms", &SimMachine::decode_row_ms, 0},
    Key{"context_token_ns", &SimMachine::context_token_ns, 0},
    Key{"kv_bytes_per_token", &SimMachine::kv_bytes_per_token, 1},
    Key{"copy_gb_per_s", &SimMachine::copy_gb_per_s, 1e-6},
    Key{"pool_tokens", &SimMachine::pool_tokens, 1},
    Key{"host_tokens", &SimMachine::host_tokens, 0},
    Key{"tile_tokens", &SimMachine::tile_tokens, 1},
    Key{"noise", &SimMachine::noise, 0},
};

// Llama-3.1-8B in bf16 on one H200. Constant, rows and tokens: roofline estimates for batches of
// about 256 with short contexts. A pair is 4 * 4096 * 32 flops at 600 TFLOP/s; a token of context
// is 128 KiB at 4.8 TB/s; 100 GB are left for the cache, 200 GB on the host, over PCIe 5.
SimMachine h200_8b() {
  constexpr double kKv = 131072;
  return {"h200-8b", 6, 0.03, 0.87, 0.03, kKv / 4800, kKv, 50, 762880, 1525760};
}

// OPT-13B in fp16 on one A100-40GB, the machine of FastServe's (NSDI'26) and vLLM's (SOSP'23)
// single-GPU experiments: 15.7K token slots as vLLM reports. A pair is 4 * 5120 * 40 flops at 156
// TFLOP/s; a token of context is 0.8 MB at 1.55 TB/s; 120 GB on the host, over PCIe 4.
SimMachine a100_opt13b() {
  constexpr double kKv = 819200;
  return {"a100-opt13b", 28, 0.09, 5.25, 0.1, kKv / 1550, kKv, 25, 15700, 146480};
}

absl::Status set(SimMachine& m, std::string_view name, double value) {
  for (const Key& key : kKeys) {
    if (key.name != name) continue;
    if (!(value >= key.min && value <= kMax)) {
      return invalid_argument("{} must be from {} to {}", name, key.min, kMax);
    }
    m.*key.value = value;
    return absl::OkStatus();
  }
  std::string names;
  for (const Key& key : kKeys) names += fmt::format("{}{}", names.empty() ? "" : ", ", key.name);
  return invalid_argument("unknown key '{}'; there are name, {}", name, names);
}

absl::Status read_toml(const std::string& path, SimMachine& m) {
  try {
    for (const auto& [key, node] : toml::parse_file(path)) {
      if (key.str() == "name" && node.is_string()) {
        m.name = **node.as_string();
        continue;
      }
      const std::optional<double> value = node.value<double>();
      const absl::Status status =
          value ? set(m, key.str(), *value) : invalid_argument("{} must be a number", key.str());
      if (!status.ok()) return annotate(status, fmt::format("line {}", node.source().begin.line));
    }
    return absl::OkStatus();
  } catch (const toml::parse_error& error) {
    return invalid_argument("line {}: {}", error.source().begin.line, error.description());
  }
}

absl::Status read_json(const std::string& path, SimMachine& m) {
  std::ifstream file(path);
  const auto root = nlohmann::json::parse(file, nullptr, false);
  if (!root.is_object()) return invalid_argument("not a JSON object");
  for (const auto& [key, value] : root.items()) {
    if (key == "name" && value.is_string()) {
      m.name = value.get<std::string>();
      continue;
    }
    if (!value.is_number()) return invalid_argument("{} must be a number", key);
    if (absl::Status status = set(m, key, value.get<double>()); !status.ok()) return status;
  }
  return absl::OkStatus();
}

// Of a recording: time is what passed in the engine's loop, on the device and beside it.
absl::Status fit_recording(const std::string& path, SimMachine& m) {
  constexpr size_t kFewest = 50;    // steps that a fit of five figures may rest on
  constexpr double kCopyRate = 10;  // GB/s, where no copy was seen
  const auto read = read_recording(path);
  if (!read.ok()) return read.status();
  std::vector<MeasuredStep> steps;
  double copied = 0, copy_seconds = 0;
  for (const RecordedStep& s : read->steps) {
    copied += double(s.copied);
    copy_seconds += s.copy_seconds;
    if (s.rows > 0 && s.seconds > 0) steps.push_back({s.work, s.seconds + s.host_seconds});
  }
  const RecordingHeader& h = read->header;
  if (read->steps.empty() || h.num_blocks == 0) {
    return invalid_argument("{}: has no steps: record it with this version of serve", path);
  }
  if (steps.size() < kFewest) {
    return invalid_argument("{}: has {} steps; a fit wants {}", path, steps.size(), kFewest);
  }
  const StepFit fit = fit_steps(steps);
  m.constant_ms = std::max(fit.cost.constant * 1e3, kKeys[0].min);
  m.prefill_token_ms = fit.cost.per_prefill_token * 1e3;
  m.prefill_pair_ns = fit.cost.per_prefill_pair * 1e9;
  m.decode_row_ms = fit.cost.per_decode_row * 1e3;
  m.context_token_ns = fit.cost.per_context_token * 1e9;
  m.noise = fit.sigma;
  m.errors = fit.errors;
  m.kv_bytes_per_token = std::max(h.kv_bytes_per_token, 1.0);
  const double bytes = copied * h.block_size * m.kv_bytes_per_token;
  m.copy_gb_per_s = copy_seconds > 0 && copied > 0 ? bytes / copy_seconds / 1e9 : kCopyRate;
  m.pool_tokens = double(h.num_blocks) * h.block_size;
  m.host_tokens = double(h.host_blocks) * h.block_size;
  return absl::OkStatus();
}

}  // namespace

StepCost SimMachine::step_cost(int block_size) const {
  StepCost c;
  c.constant = constant_ms * 1e-3;
  c.per_prefill_token = prefill_token_ms * 1e-3;
  c.per_prefill_pair = prefill_pair_ns * 1e-9;
  c.per_decode_row = decode_row_ms * 1e-3;
  c.per_context_token = context_token_ns * 1e-9;
  c.per_block_copy = block_size * kv_bytes_per_token / (copy_gb_per_s * 1e9);
  return c;
}

std::vector<std::string_view> machine_names() { return {"h200-8b", "a100-opt13b"}; }

absl::StatusOr<SimMachine> read_machine(std::string_view option, const std::string& name_or_file) {
  if (name_or_file == "h200-8b") return h200_8b();
  if (name_or_file == "a100-opt13b") return a100_opt13b();
  if (!std::filesystem::is_regular_file(name_or_file)) {
    return invalid_argument("{}: '{}' is neither a file nor one of {}", option, name_or_file,
                            fmt::join(machine_names(), ", "));
  }
  SimMachine m;
  if (name_or_file.ends_with(".jsonl")) {
    m.name = std::filesystem::path(name_or_file).stem().string();
    const absl::Status status = fit_recording(name_or_file, m);
    if (!status.ok()) return annotate(status, option);
    return m;
  }
  const bool json = name_or_file.ends_with(".json");
  absl::Status status = json ? read_json(name_or_file, m) : read_toml(name_or_file, m);
  for (const Key& key : kKeys) {
    if (status.ok() && m.*key.value < key.min) status = invalid_argument("{} is missing", key.name);
  }
  if (!status.ok()) return annotate(status, fmt::format("{}: {}", option, name_or_file));
  if (m.name.empty()) m.name = std::filesystem::path(name_or_file).stem().string();
  return m;
}

std::string print_machine(const SimMachine& m) {
  std::string out = fmt::format("name = \"{}\"\n", m.name);
  for (const Key& key : kKeys) out += fmt::format("{} = {}\n", key.name, m.*key.value);
  return out;
}

}  // namespace sluice
