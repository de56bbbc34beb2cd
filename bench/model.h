#pragma once

#include <string>
#include <vector>

#include "config/config.h"

namespace sluice {

struct BenchModelOptions {
  std::string model_dir;
  std::string load_format = "auto";
  Config::Device device;
  std::vector<int> prompts = {128, 512, 2048};      // prefill: tokens of one prompt
  std::vector<int> batches = {1, 2, 4, 8, 16, 32};  // decode: sequences
  std::vector<int> contexts = {128, 512, 2048};     // decode: tokens of each
  int max_step_tokens = 0;  // longer prompts go in chunks; 0: 512, or 8192 of a GPU
  double seconds = 0.5;     // per line, at least three runs
  std::string json_path;    // also write the results here
};

// Speed of a model on a device, through the runner that serves it, without a scheduler: tokens
// a second of prefill and of decode, sampling included, each beside the floor: the time that the
// weights and the cache take to be read at the device's bandwidth, or the arithmetic at its peak,
// whichever is longer. Of a device that computes beside the host also the share of its time between
// decode steps that no step had. A model that fits into the chip's caches may beat that floor.
// Progress on stderr, a table on stdout. 0, or 1 with an error on stderr.
int bench_model(const BenchModelOptions& options);

}  // namespace sluice
