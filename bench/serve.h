#pragma once

#include <cstdint>
#include <string>

#include "bench/workload.h"

namespace sluice {

// Load on any OpenAI-compatible server, over plain HTTP.
struct BenchServeOptions {
  std::string url = "http://127.0.0.1:8000";
  std::string model;    // empty: the first that GET /v1/models names
  std::string api_key;  // sent as a bearer token; empty: none
  bool chat = false;    // /v1/chat/completions; else /v1/completions with token ids
  // What comes: Poisson arrivals at a rate, or where that is 0 a closed loop of so many clients.
  // Fixed lengths, in tokens (words, for chat), unless it names a workload or a file of lengths.
  // The server is told to ignore end-of-text.
  WorkloadOptions workload = {.name = "",
                              .requests = 100,
                              .rate = 0,
                              .clients = 8,
                              .seed = 0,
                              .prompt_len = 128,
                              .output_len = 64};
  int warmup = 1;         // requests before the clock starts, one after the other
  int shared_prefix = 0;  // of fixed or given lengths, how much of the prompt is the same for all
  int first_id = 300, last_id = 1000;  // range of random prompt token ids
  double target_ttft_ms = 0,
         target_tpot_ms = 0;  // goodput counts requests within both; 0: no bound
  double timeout_s = 600;     // of one request
  std::string json_path;      // also write the results here
};

// Runs it, with progress on stderr and a table on stdout. 0 when every request succeeded.
int bench_serve(const BenchServeOptions& options);

}  // namespace sluice
