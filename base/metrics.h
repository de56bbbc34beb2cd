#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <cstdint>
#include <memory>
#include <string>

namespace sluice {

// Every metric of the daemon, once. Updating is safe from any thread. One instance a process,
// created by main and passed by reference. Names: docs/api.md.
class Metrics {
 public:
  // Every series carries the label model_name.
  explicit Metrics(const std::string& model_name);

  // Text exposition format 0.0.4: the sluice_ families, then the vllm: aliases that routers and
  // dashboards already read (same values under the other name).
  std::string expose() const;

 private:
  // Declared before the references below: they point into it.
  std::shared_ptr<prometheus::Registry> registry_;
  prometheus::Labels labels_;
  prometheus::Labels with(const char* label, const std::string& value) const;
  prometheus::Family<prometheus::Counter>& counters(const char* name, const char* help);
  prometheus::Family<prometheus::Gauge>& gauges(const char* name, const char* help);
  prometheus::Counter& counter(const char* name, const char* help);
  prometheus::Gauge& gauge(const char* name, const char* help);
  prometheus::Histogram& histogram(const char* name, const char* help,
                                   prometheus::Histogram::BucketBoundaries bounds);

 public:
  // --- engine: set by the engine thread once a step ---
  prometheus::Gauge& running;   // requests
  prometheus::Gauge& waiting;   // requests
  prometheus::Gauge& kv_usage;  // share of blocks held, 0 to 1
  prometheus::Gauge&
      last_step_time;  // unix seconds of the last step's end; idle counts as progress
  prometheus::Counter& prompt_tokens;  // computed or taken from the cache
  prometheus::Counter& generation_tokens;
  prometheus::Counter& prefix_queries;  // prompt tokens looked up in the prefix cache
  prometheus::Counter& prefix_hits;     // prompt tokens found there
  prometheus::Counter& preemptions;
  prometheus::Gauge& swapped;         // requests whose blocks are on the host
  prometheus::Gauge& waiting_tokens;  // prompt tokens not yet computed of waiting requests
  prometheus::Counter& demotions;
  prometheus::Counter& promotions;
  prometheus::Counter& livelocks;    // rounds without progress
  prometheus::Counter& eager_steps;  // of decodes alone, on a device that could have replayed them
  prometheus::Histogram& request_preemptions;
  prometheus::Histogram& request_swapped_seconds;  // of those that were swapped
  // The host's pool of blocks, and copies between it and the device's.
  prometheus::Gauge& host_used_blocks;
  prometheus::Gauge& host_blocks;
  prometheus::Counter& host_prefix_hits;       // prompt tokens found there
  prometheus::Counter& written_behind_blocks;  // of prefixes, kept for when the device evicts them
  prometheus::Counter& copied_blocks;          // all: swaps, and what is written behind
  prometheus::Gauge& cost_model_error;         // share of the measured time
  prometheus::Histogram& step_tokens;
  prometheus::Histogram& queue_seconds;  // submit to first scheduled
  // From a client's leaving, or its stop string, until the request's blocks are back in the pools.
  prometheus::Histogram& cancel_to_free_seconds;

  // --- requests: updated by the front end ---
  prometheus::Histogram& ttft_seconds;         // socket read to first chunk
  prometheus::Histogram& inter_token_seconds;  // one gap between tokens
  prometheus::Histogram& request_seconds;      // socket read to last chunk
  prometheus::Histogram& request_prompt_tokens;
  prometheus::Histogram& request_generation_tokens;
  prometheus::Gauge& open_streams;
  prometheus::Gauge& since_step_seconds;  // set when the metrics are asked for

  // Once, before the engine starts: turns blocks swapped into bytes.
  void set_block_bytes(int64_t bytes) { block_bytes_ = bytes; }
  int64_t block_bytes() const { return block_bytes_; }
  // A constant 1 whose labels say how the KV cache is laid out; once, at start.
  void set_cache_config(int block_size, int num_blocks);

  // reason: stop, length, cancelled, deadline, error
  prometheus::Counter& finished(const std::string& reason);
  // reason: queue_full, predicted_ttft, too_long, draining, invalid
  prometheus::Counter& rejected(const std::string& reason);
  // route is the matched pattern, never what the client sent.
  prometheus::Counter& http_requests(const std::string& route, int status);
  // Of the multi-level queue. state: waiting, running
  prometheus::Gauge& level_requests(int level, const std::string& state);
  // mode: swap, recompute; reason: memory, proactive. They add up to `preemptions`.
  prometheus::Counter& preemptions_by_cause(const std::string& mode, const std::string& reason);
  // kind: prefill, decode, mixed
  prometheus::Histogram& step_seconds(const std::string& kind);
  // Tenants are those of the configuration, so their series are as many. state: waiting (or swapped
  // out), running
  prometheus::Gauge& tenant_requests(int tenant, const std::string& state);
  prometheus::Counter& tenant_tokens(int tenant);
  // direction: out (to the host), in
  prometheus::Counter& swapped_blocks(const std::string& direction);
  prometheus::Counter& swapped_bytes(const std::string& direction);
  prometheus::Counter& copy_seconds(const std::string& direction);  // of all copies
  // Computed for nothing. reason: cancel, deadline, recompute
  prometheus::Counter& wasted_tokens(const std::string& reason);
  // The cost model's figures. term: constant, prefill_token, prefill_pair, decode_row,
  // context_token, block_copy
  prometheus::Gauge& cost_model_seconds(const std::string& term);

 private:
  prometheus::Family<prometheus::Counter>& finished_;
  prometheus::Family<prometheus::Counter>& rejected_;
  prometheus::Family<prometheus::Counter>& http_requests_;
  prometheus::Family<prometheus::Gauge>& level_requests_;
  prometheus::Family<prometheus::Counter>& preemptions_by_cause_;
  prometheus::Family<prometheus::Histogram>& step_seconds_;
  prometheus::Family<prometheus::Gauge>& tenant_requests_;
  prometheus::Family<prometheus::Counter>& tenant_tokens_;
  prometheus::Family<prometheus::Counter>& swapped_blocks_;
  prometheus::Family<prometheus::Counter>& swapped_bytes_;
  prometheus::Family<prometheus::Counter>& copy_seconds_;
  prometheus::Family<prometheus::Counter>& wasted_tokens_;
  prometheus::Family<prometheus::Gauge>& cost_model_seconds_;
  int64_t block_bytes_ = 0;
};

}  // namespace sluice
