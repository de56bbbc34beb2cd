#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

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
  prometheus::Histogram& step_seconds;
  prometheus::Histogram& step_tokens;
  prometheus::Histogram& queue_seconds;  // submit to first scheduled

  // --- requests: updated by the front end ---
  prometheus::Histogram& ttft_seconds;         // socket read to first chunk
  prometheus::Histogram& inter_token_seconds;  // one gap between tokens
  prometheus::Histogram& request_seconds;      // socket read to last chunk
  prometheus::Histogram& request_prompt_tokens;
  prometheus::Histogram& request_generation_tokens;
  prometheus::Gauge& open_streams;

  // A constant 1 whose labels say how the KV cache is laid out; once, at start.
  void set_cache_config(int block_size, int num_blocks);

  // reason: stop, length, cancelled, deadline, error
  prometheus::Counter& finished(const std::string& reason);
  // reason: queue_full, too_long, draining, invalid
  prometheus::Counter& rejected(const std::string& reason);
  // route is the matched pattern, never what the client sent.
  prometheus::Counter& http_requests(const std::string& route, int status);

 private:
  prometheus::Family<prometheus::Counter>& finished_;
  prometheus::Family<prometheus::Counter>& rejected_;
  prometheus::Family<prometheus::Counter>& http_requests_;
};

}  // namespace sluice
