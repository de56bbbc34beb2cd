#pragma once

#include <cstdint>
#include <string>

namespace sluice {

// Load on any OpenAI-compatible server, over plain HTTP.
struct BenchServeOptions {
  std::string url = "http://127.0.0.1:8000";
  std::string model;    // empty: the first that GET /v1/models names
  std::string api_key;  // sent as a bearer token; empty: none
  bool chat = false;    // /v1/chat/completions; else /v1/completions with token ids
  int num_requests = 100;
  int warmup = 1;                      // requests before the clock starts, one after the other
  double rate = 0;                     // open loop: requests a second, Poisson; 0: closed loop
  int concurrency = 8;                 // closed loop: requests at once
  int input_len = 128;                 // tokens (words, for chat)
  int output_len = 64;                 // tokens; the server is told to ignore end-of-text
  int shared_prefix = 0;               // of the input, how much is the same for all
  int first_id = 300, last_id = 1000;  // range of random prompt token ids
  std::string lengths;  // CSV file of input,output lengths, used in turn instead of the two above
  double target_ttft_ms = 0,
         target_tpot_ms = 0;  // goodput counts requests within both; 0: no bound
  double timeout_s = 600;     // of one request
  uint64_t seed = 0;
  std::string json_path;  // also write the results here
};

// Runs it, with progress on stderr and a table on stdout. 0 when every request succeeded.
int bench_serve(const BenchServeOptions& options);

}  // namespace sluice
